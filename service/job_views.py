"""Reading jobs: one, many, their events, metrics and logs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from models import TERMINAL, Attempt, Job, JobEvent, JobStatus
from service import database, turns
from service.errors import NotFound


def get(job_id: str) -> Job:
    """One job.

    Raises:
        NotFound: no such job.
    """
    with database.read() as session:
        job = session.get(Job, job_id)
    if job is None:
        raise NotFound(f"No job {job_id!r}.", hint="GET /distill lists the jobs.")
    return job


def version(job_id: str) -> int:
    """The job's version, which grows with every change.

    Raises:
        NotFound: no such job.
    """
    with database.read() as session:
        found = session.scalar(select(Job.version).where(Job.id == job_id))
    if found is None:
        raise NotFound(f"No job {job_id!r}.", hint="GET /distill lists the jobs.")
    return found


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """What a listing is narrowed to."""

    status: str | None = None
    name: str | None = None
    sweep: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None


def listing(
    *, limit: int, after: str | None = None, before: str | None = None, where: JobFilter | None = None
) -> tuple[list[Job], bool]:
    """Newest first, from behind ``after`` or up to ``before``, and whether there are more that way."""
    where = where or JobFilter()
    query = select(Job)
    if where.status:
        query = query.where(Job.status == where.status)
    if where.name:
        query = query.where(Job.name == where.name)
    if where.sweep:
        query = query.where(Job.sweep_id == where.sweep)
    for key, value in where.metadata.items():
        query = query.where(Job.labels[key].as_string() == value)
    if where.created_after:
        query = query.where(Job.created_at > where.created_after)
    if where.created_before:
        query = query.where(Job.created_at < where.created_before)
    if after:
        query = query.where(Job.id < after)
    if before:
        query = query.where(Job.id > before)
    order = Job.id.asc() if before and not after else Job.id.desc()
    with database.read() as session:
        rows = list(session.scalars(query.order_by(order).limit(limit + 1)))
    has_more, rows = len(rows) > limit, rows[:limit]
    return (rows[::-1] if before and not after else rows), has_more


def attempts(job_id: str) -> Sequence[Attempt]:
    """All tries, the first one first."""
    with database.read() as session:
        return session.scalars(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.n)).all()


def events(
    job_id: str, *, after: int = 0, limit: int = 1000, types: Sequence[str] = (), newest: bool = False
) -> Sequence[JobEvent]:
    """Events behind a sequence number, in order; with ``newest`` the last ``limit`` of them."""
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.seq > after)
    if types:
        query = query.where(JobEvent.type.in_(types))
    order = JobEvent.seq.desc() if newest else JobEvent.seq.asc()
    with database.read() as session:
        rows = session.scalars(query.order_by(order).limit(limit)).all()
    return rows[::-1] if newest else rows


def position(job: Job) -> int | None:
    """How many jobs are before a waiting one, plus one; None when it does not wait."""
    if job.status != JobStatus.QUEUED:
        return None
    return turns.before(job) + 1


def series(
    job_id: str,
    *,
    names: Sequence[str] = (),
    from_step: int | None = None,
    to_step: int | None = None,
    max_points: int = 500,
) -> dict[str, list[dict[str, Any]]]:
    """Metric points by name, thinned to ``max_points`` evenly, the last one kept.

    After a resume the steps between checkpoint and crash are walked twice; the later values replace the earlier.
    """
    query = select(JobEvent).where(JobEvent.job_id == job_id, JobEvent.type == "metric").order_by(JobEvent.seq)
    found: dict[str, dict[int, dict[str, Any]]] = {}
    with database.read() as session:
        for event in session.scalars(query):
            step = event.data["step"]
            if (from_step is not None and step < from_step) or (to_step is not None and step > to_step):
                continue
            for name, value in event.data["values"].items():
                if not names or name in names:
                    point = {"step": step, "epoch": event.data["epoch"], "value": value}
                    found.setdefault(name, {})[step] = point
    return {name: _thin([points[s] for s in sorted(points)], max_points) for name, points in sorted(found.items())}


def _thin(points: list[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    if len(points) <= limit:
        return points
    stride = (len(points) - 1) / max(1, limit - 1)
    return [points[round(i * stride)] for i in range(limit)]


def unfinished() -> int:
    """How many jobs have not ended."""
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Job).where(Job.status.not_in(TERMINAL))) or 0
