"""The one task: thin, safe to run twice, handed a job id and nothing else."""

from __future__ import annotations

import threading
from typing import Any

from service import jobs, turns
from service.logs import logger
from service.queue import RUN_JOB, celery
from worker.supervisor import Supervisor

log = logger(__name__)

stopping = threading.Event()
"""Set when the worker shuts down; its running job goes back to the queue."""
draining = threading.Event()
"""Set when the worker is to take no more jobs."""
identity: dict[str, Any] = {"name": "", "facts": {}}
"""The worker's name and what it has, known once it has started."""
busy = threading.Lock()
"""Held while a job runs."""


@celery.task(name=RUN_JOB)  # type: ignore[untyped-decorator]
def run_job(job_id: str) -> None:
    """Run the job whose turn it is: the message is a bell, and who rang does not matter."""
    with busy:
        while not (stopping.is_set() or draining.is_set()):
            next_id = turns.next_for(identity["facts"])
            if next_id is None:
                log.info("nothing to do: taken, ended or unknown", job=job_id)
                return
            claim = jobs.claim(next_id, owner=identity["name"])
            if claim is not None:  # else another worker was faster
                Supervisor(claim, stopping=stopping).run()
                return
