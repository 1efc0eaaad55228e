"""Who works, who waits, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from models import HELD, Job, JobStatus, Worker, utcnow
from service import database, turns, workers

_LISTED = 100


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The queue as a whole.

    Attributes:
        workers: that are alive, each with the job that it has.
        waiting: the first hundred jobs that wait for a worker, in their turn.
        num_waiting, num_running, num_paused: of all jobs; jobs whose inputs are being checked wait, too.
    """

    workers: Sequence[tuple[Worker, str | None]]
    waiting: Sequence[Job]
    num_waiting: int
    num_running: int
    num_paused: int


def standing() -> Standing:
    """The queue now."""
    living = workers.alive()
    with database.read() as session:
        held = {job.owner: job.id for job in session.scalars(select(Job).where(Job.status.in_(HELD)))}
        first = turns.waiting().limit(_LISTED).subquery()
        waiting = session.scalars(select(Job).where(Job.id.in_(select(first.c.id))).order_by(*turns.ORDER)).all()
        counts = dict(session.execute(select(Job.status, func.count()).group_by(Job.status)).all())
    return Standing(
        workers=[(worker, held.get(worker.name)) for worker in living],
        waiting=waiting,
        num_waiting=counts.get(JobStatus.QUEUED, 0),
        num_running=sum(counts.get(status, 0) for status in HELD),
        num_paused=counts.get(JobStatus.PAUSED, 0),
    )


def reason(job: Job, *, before: int) -> str:
    """Why a job that waits for a worker waits, in words."""
    living = [worker for worker in workers.alive() if not worker.is_draining]
    if not living:
        return "no worker is alive"
    if not any(_can_take(worker, job) for worker in living):
        what = "a GPU" if job.needs_gpu else f"{job.needs_bytes:,} bytes of memory"
        return f"no live worker has {what}"
    if before:
        return f"{before} {'job is' if before == 1 else 'jobs are'} before it"
    return "the next free worker takes it"


def _can_take(worker: Worker, job: Job) -> bool:
    """As :func:`service.turns.fits` asks the database."""
    enough = job.needs_bytes <= int(worker.facts.get("memory_bytes") or 2**62)
    return enough and (worker.facts.get("device") == "cuda" or not job.needs_gpu)


def estimated_start(before: int) -> datetime | None:
    """When a job with so many before it begins, from what runs now and how long jobs took; None where neither tells."""
    num_workers = workers.count_alive()
    with database.read() as session:
        running = session.scalars(select(Job).where(Job.status.in_(HELD))).all()
        ended = select(Job).where(Job.status == JobStatus.SUCCEEDED, Job.runtime_seconds > 0)
        recent = session.scalars(ended.order_by(Job.finished_at.desc()).limit(20)).all()
    left = [seconds for job in running if (seconds := seconds_left(job)) is not None]
    if num_workers == 0 or len(left) < len(running) or (before and not recent):
        return None
    mean = sum(job.runtime_seconds for job in recent) / len(recent) if recent else 0.0
    free_in = min(left) if len(running) >= num_workers else 0.0
    return utcnow() + timedelta(seconds=round(free_in + mean * before / num_workers))


def seconds_left(job: Job) -> float | None:
    """Of a running job at its present rate; None while that is not known."""
    progress, resolved = job.progress, job.config_resolved or {}
    images = resolved.get("training", {}).get("batch_size")
    if progress is None or not progress["images_per_second"] or not isinstance(images, int):
        return None
    left: float = (progress["total_steps"] - progress["step"]) * images / progress["images_per_second"]
    return left
