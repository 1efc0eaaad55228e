"""Fetching data sets from their URLs, one at a time, each in a child process that can be ended at any moment."""

from __future__ import annotations

import os
import queue
import threading
import time
from pathlib import Path
from typing import Any

from distill.errors import DistillError, InputError
from service import inputs, jobs, remote
from service.errors import Fenced
from service.logs import logger
from service.remote import Fetch
from service.settings import settings
from worker.children import Child, bare_environment
from worker.holding import folder_of, renewed

log = logger(__name__)

_MAX_TRIES = 3
_TRIES = 5
_RECORD_SECONDS = 2.0
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


def fetch_next(owner: str, *, stopping: threading.Event) -> bool:
    """Fetch the oldest data set that waits for it, if there is one; whether there was."""
    fetch = remote.claim_next(owner)
    if fetch is None:
        return False
    with folder_of(fetch) as folder, renewed(fetch) as lost:
        try:
            _fetch(fetch, folder, stopping, lost)
        except Fenced:
            log.warning("the data set was deleted, or another worker took it over", input=fetch.id)
    jobs.settle_waiting()
    return True


def _fetch(fetch: Fetch, folder: Path, stopping: threading.Event, lost: threading.Event) -> None:
    try:
        remote.check_url(fetch.url)
    except InputError as error:
        inputs.failed(fetch, error)
        return
    target = folder / "fetched"
    child = Child("worker.remote_process", order=_order(fetch, target), cwd=folder, env=_environment(fetch, folder))
    try:
        answer = _listen(child, fetch, stopping, lost)
    finally:
        child.kill()
        code = child.wait()
    if answer is None and stopping.is_set():
        inputs.release(fetch)
    elif answer is None and fetch.fence < _MAX_TRIES:
        log.warning("the fetcher died; it is tried again", input=fetch.id, code=code, log=child.log_excerpt())
        inputs.release(fetch)
    elif answer is None:
        message = f"Fetching it failed {fetch.fence} times (exit code {code})."
        inputs.failed(fetch, InputError("dataset_unreadable", message, hint="Upload the file."))
    elif "error" in answer:
        inputs.failed(fetch, DistillError.from_json(answer["error"]))
    else:
        remote.arrived(fetch, target, answer["fetched"])


def _listen(child: Child, fetch: Fetch, stopping: threading.Event, lost: threading.Event) -> dict[str, Any] | None:
    """The child's last word; None when it has none, because it died or is not to go on.

    Raises:
        Fenced: another worker took the data set over.
    """
    recorded = 0.0
    while not stopping.is_set():
        if lost.is_set():
            raise Fenced(fetch.id)
        try:
            message = child.messages.get(timeout=0.2)
        except queue.Empty:
            continue
        if message is None or "received" not in message:
            return message
        if time.monotonic() - recorded > _RECORD_SECONDS:
            recorded = time.monotonic()
            remote.progress(fetch, received=message["received"], total=message["total"])
    return None


def _order(fetch: Fetch, target: Path) -> dict[str, Any]:
    chosen = settings()
    order: dict[str, Any] = {
        "url": fetch.url,
        "sha256": fetch.sha256,
        "target": str(target.resolve()),
        "room": fetch.room,
        "code": fetch.code,
        "tries": _TRIES,
        "idle_seconds": chosen.remote_idle_seconds,
        "total_seconds": chosen.remote_max_seconds,
        "allow_hosts": chosen.remote_allow_hosts,
    }
    if (place := remote.bucket_of(fetch.url)) is not None:
        order |= {"bucket": place[0], "key": place[1], "endpoint": chosen.s3_endpoint_url}
    return order


def _environment(fetch: Fetch, folder: Path) -> dict[str, str]:
    """Nothing of the worker's but the certificates; for a bucket also what leads to its credentials."""
    passed = {name: value for name, value in os.environ.items() if name in _CERTIFICATES}
    if remote.bucket_of(fetch.url) is not None:
        passed |= {name: value for name, value in os.environ.items() if name == "HOME" or name.startswith("AWS_")}
    return bare_environment(folder) | passed
