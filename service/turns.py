"""Whose turn it is: the order in which waiting jobs are taken, and which of them a worker can take."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Select, and_, func, or_, select

from models import Job, JobStatus
from service import database

ORDER = (Job.priority.desc(), Job.queued_at, Job.id)


def waiting() -> Select[Any]:
    """Ids of the jobs that wait for a worker, the next in turn first."""
    is_ready = (Job.dispatched_at.is_not(None), Job.config_resolved.is_not(None))
    return select(Job.id).where(Job.status == JobStatus.QUEUED, *is_ready).order_by(*ORDER)


def fits(facts: dict[str, Any]) -> ColumnElement[bool]:
    """Whether a worker with these facts has what a job needs."""
    enough = Job.needs_bytes <= int(facts.get("memory_bytes") or 2**62)
    return enough if facts.get("device") == "cuda" else and_(enough, Job.needs_gpu.is_(False))


def next_for(facts: dict[str, Any]) -> str | None:
    """The job that a worker with these facts is to take; None when none waits for such a one."""
    with database.read() as session:
        found: str | None = session.scalar(waiting().where(fits(facts)).limit(1))
        return found


def before(job: Job) -> int:
    """How many waiting jobs come before a waiting one."""
    earlier = or_(
        Job.priority > job.priority,
        and_(Job.priority == job.priority, Job.queued_at < job.queued_at),
        and_(Job.priority == job.priority, Job.queued_at == job.queued_at, Job.id < job.id),
    )
    with database.read() as session:
        query = select(func.count()).select_from(Job).where(Job.status == JobStatus.QUEUED, earlier)
        return session.scalar(query) or 0
