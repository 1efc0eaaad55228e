"""Starting a worker: the Celery app on the threads pool, one job at a time, and the duties beside it.

The threads pool because only there a shutdown can reach a running task, and a fork does not survive torch.
"""

from __future__ import annotations

import os
import socket
import threading

from ulid import ULID

from service import queue, workers
from service.logs import configure
from worker import facts, sweeper, tasks

__all__ = ["app", "start_worker"]

app = queue.celery


def start_worker() -> None:
    """Work until SIGTERM or SIGINT: then the trainer writes its checkpoint and the job is queued again."""
    configure()
    celery = queue.configure()
    name = f"{socket.gethostname()}-{os.getpid()}-{str(ULID())[-6:]}"
    tasks.identity["name"] = name
    tasks.identity["facts"] = facts.collect()
    workers.seen(name, facts=tasks.identity["facts"])
    queue.on_shutdown(_stop)
    duties = sweeper.start(name, stopping=tasks.stopping)
    arguments = ["--pool", "threads", "--concurrency", "1", "--loglevel", "WARNING", "--hostname", queue.node(name)]
    arguments += ["--without-gossip", "--without-mingle", "--queues", queue.QUEUE]
    try:
        celery.worker_main(["--quiet", "worker", *arguments])
    finally:
        tasks.stopping.set()
        sweeper.wait(duties, seconds=5.0)
        workers.left(name)


def _stop() -> None:
    # From a thread: the signal arrives inside Celery's own loop.
    threading.Thread(target=tasks.stopping.set, name="stop").start()
