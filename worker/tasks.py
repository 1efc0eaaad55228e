"""The one task: thin, safe to run twice, handed a job id and nothing else."""

from __future__ import annotations

import threading

from service import jobs
from service.logs import logger
from service.queue import RUN_JOB, celery
from worker.supervisor import Supervisor

log = logger(__name__)

stopping = threading.Event()
"""Set when the worker shuts down; its running job goes back to the queue."""
identity = {"name": ""}
"""The worker's name, known once it has started."""


@celery.task(name=RUN_JOB)  # type: ignore[untyped-decorator]
def run_job(job_id: str) -> None:
    """Run a job, if it is still there to be run."""
    if stopping.is_set():
        return  # the sweeper rings again for a job that nobody took
    claim = jobs.claim(job_id, owner=identity["name"])
    if claim is None:
        log.info("nothing to do: taken, ended or unknown", job=job_id)
        return
    Supervisor(claim, stopping=stopping).run()
