"""Taking jobs in: their rows, first events and messages, within a caller's transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from distill.spec import DistillSpec
from models import Job, JobStatus, OutboxMessage, Priority, db_now, utcnow
from service.ids import new_id
from service.job_log import say, state
from service.plans import Plan


def new_job(spec: DistillSpec, plan: Plan, **columns: Any) -> Job:
    """The row of a request that fits its inputs, not yet stored."""
    return Job(
        id=new_id("dj"),
        name=spec.name,
        spec=spec.model_dump(mode="json"),
        labels=spec.metadata,
        teacher_id=plan.teacher.id,
        dataset_id=plan.dataset.id,
        status=JobStatus.QUEUED,
        facts=plan.facts,
        config_resolved=plan.resolved.model_dump(mode="json") if plan.resolved is not None else None,
        status_reason=plan.waiting_for and f"waiting for the {plan.waiting_for} to be checked",
        priority=Priority[spec.priority.upper()],
        needs_gpu=spec.training.device == "cuda",
        needs_bytes=plan.needs_bytes,
        last_seq=0,
        version=1,
        **columns,
    )


def take_in(session: Session, entries: Sequence[tuple[Job, Plan]]) -> None:
    """Store jobs in their order, the inputs that they bring, and the messages that will ring for them."""
    session.add_all(row for _, plan in entries for row in plan.new_rows)
    session.flush()
    now = utcnow()
    for number, (job, _) in enumerate(entries):
        # A microsecond apart: the queue goes by this time, and jobs of one request have their order too.
        job.created_at = job.queued_at = now + timedelta(microseconds=number)
        session.add(job)
    session.flush()
    for job, _ in entries:
        say(session, job, "status", state(job))
    ready = [job.id for job, plan in entries if plan.waiting_for is None]
    session.add_all(OutboxMessage(job_id=job_id) for job_id in ready)
    session.flush()
    session.execute(
        update(Job).where(Job.id.in_(ready)).values(dispatched_at=db_now()),
        execution_options={"synchronize_session": False},
    )
