"""What goes on beside the jobs: rings the bell, finds what was lost, fetches and checks inputs, and says that the
worker lives.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

from service import jobs, queue, workers
from service.artifacts import store
from service.logs import logger
from service.settings import settings
from worker import tasks
from worker.fetcher import fetch_next
from worker.holding import clear_folders
from worker.preparer import prepare_next

log = logger(__name__)

_RELAY_SECONDS = 0.1
_PREPARE_SECONDS = 0.3
_TIDY_SECONDS = 3600.0
_MAX_BACK_OFF_SECONDS = 10.0


def start(name: str, *, stopping: threading.Event) -> list[threading.Thread]:
    """Start the duties, each in a thread of its own: a frozen broker must not hold up a lease."""
    sweep_seconds = settings().sweep_seconds
    duties: dict[str, tuple[float, Callable[[], object]]] = {
        "relay": (_RELAY_SECONDS, queue.relay),
        "sweep": (sweep_seconds, sweep),
        "prepare": (_PREPARE_SECONDS, lambda: prepare_next(name, stopping=stopping)),
        "seen": (sweep_seconds, lambda: _be_seen(name)),
        "fetch": (_PREPARE_SECONDS, lambda: fetch_next(name, stopping=stopping)),
        "tidy": (_TIDY_SECONDS, lambda: store().tidy()),
    }
    threads = [
        threading.Thread(target=_repeat, args=(duty, work, pause, stopping), name=duty, daemon=True)
        for duty, (pause, work) in duties.items()
    ]
    for thread in threads:
        thread.start()
    return threads


def sweep() -> int:
    """Take back what was lost, end what has waited too long, clear away what killed workers left; how many jobs were
    touched."""
    clear_folders()
    return jobs.sweep() + jobs.settle_waiting() + jobs.time_out()


def _be_seen(name: str) -> None:
    """Say that the worker lives; one that drains stops once it is idle."""
    if not workers.seen(name, facts=tasks.identity["facts"]):
        return
    if not tasks.draining.is_set():
        tasks.draining.set()
        queue.stop_listening(name)
        log.info("the worker drains: it ends its job, and takes no more", worker=name)
    if not tasks.busy.locked():
        os.kill(os.getpid(), signal.SIGTERM)


def _repeat(duty: str, work: Callable[[], object], pause: float, stopping: threading.Event) -> None:
    """Do it until the worker stops; after a failure wait longer, so that a broken part is not hammered."""
    failures = 0
    while not stopping.is_set():
        try:
            work()
            failures = 0
        except Exception as error:  # whatever it is, the other jobs need this duty done again
            failures += 1
            log.warning("duty failed", duty=duty, error=f"{type(error).__name__}: {error}", failures=failures)
        stopping.wait(min(_MAX_BACK_OFF_SECONDS, pause * 2 ** min(failures, 10)))


def wait(threads: list[threading.Thread], *, seconds: float) -> None:
    """Give the duties time to end."""
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(timeout=max(0.0, end - time.monotonic()))
