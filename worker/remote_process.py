"""The fetcher of remote files: a process of its own, which can be ended at any moment and has no reach into the rest.

Standard input: one JSON line, the order. Standard output: JSON lines, ``{"received": bytes, "total": bytes or null}``
now and then, and at the end ``{"fetched": ...}`` or ``{"error": ...}``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill.errors import DistillError, InputError
from distill.files import NO_ROOM
from service import egress
from service.egress import Policy
from worker import lifeline
from worker.fetching import HttpsFile, Limits, Remote, fetch

_SAY_SECONDS = 1.0


def main() -> None:
    """Fetch one file."""
    order = json.loads(sys.stdin.buffer.readline())
    lifeline.watch(lambda: os._exit(1))
    try:
        found = fetch(
            _remote(order),
            Path(order["target"]),
            limits=Limits(
                size=order["room"],
                code=order["code"],
                total_seconds=order["total_seconds"],
                tries=order["tries"],
            ),
            sha256=order["sha256"],
            on_progress=_Teller(),
        )
        answer: dict[str, Any] = {"fetched": asdict(found)}
    except DistillError as error:
        answer = {"error": error.as_json()}
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        full = InputError("storage_full", "There is no room to keep the file.", hint="Make room, then try again.")
        answer = {"error": full.as_json()}
    _say(answer)


def _remote(order: dict[str, Any]) -> Remote:
    idle = order["idle_seconds"]
    if "bucket" in order:
        from worker.buckets import BucketFile

        return BucketFile(order["bucket"], order["key"], endpoint=order["endpoint"], idle_seconds=idle)
    target = egress.check_url(order["url"], Policy.of(order["allow_hosts"]))
    return HttpsFile(target=target, idle_seconds=idle)


class _Teller:
    """Says how far it is, not too often."""

    def __init__(self) -> None:
        self._said = 0.0

    def __call__(self, received: int, total: int | None) -> None:
        if time.monotonic() - self._said >= _SAY_SECONDS:
            self._said = time.monotonic()
            _say({"received": received, "total": total})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
