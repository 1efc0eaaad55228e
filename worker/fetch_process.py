"""The fetcher: a process of its own that writes down what a hub sends, and reads nothing of it but its configs.

Standard input: one JSON line, the order. Standard output: one JSON line, what was fetched or ``{"error": ...}``.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

from distill.errors import DistillError, InputError
from worker import lifeline


def main() -> None:
    """Fetch one repository."""
    order = json.loads(sys.stdin.buffer.readline())
    lifeline.watch(lambda: os._exit(1))
    try:
        answer = _fetch(order)
    except DistillError as error:
        answer = {"error": error.as_json()}
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        full = InputError("storage_full", "The worker's disk is full.", hint="Post it again when there is room.")
        answer = {"error": full.as_json()}
    sys.stdout.write(json.dumps(answer) + "\n")


def _fetch(order: dict[str, Any]) -> dict[str, Any]:
    from worker.hub_client import HubClient

    with HubClient(order["url"], max_bytes=order["max_bytes"]) as hub:
        return hub.fetch(order["repository"], revision=order["revision"], folder=Path(order["folder"]))


if __name__ == "__main__":
    main()
