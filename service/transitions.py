"""The ways of a job from one state into another, each with its event. Always within a caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from distill.errors import RunError
from models import Artifact, Attempt, Job, JobStatus, OutboxMessage, db_now, utcnow
from service.job_log import say, state, touch
from service.results import STUDENT


def ring(session: Session, job: Job) -> None:
    """Put a message about a job that waits for a worker into the outbox."""
    session.add(OutboxMessage(job_id=job.id))
    _stamp(session, job, dispatched_at=db_now())


def requeue(session: Session, job: Job, reason: str) -> None:
    """Back into the queue, at its end."""
    job.status, job.phase, job.status_reason = JobStatus.QUEUED, None, reason
    job.owner, job.lease_until, job.queued_at = None, None, utcnow()
    _stamp(session, job, waiting_since=db_now())
    touch(job)
    say(session, job, "status", state(job))
    if job.config_resolved is not None:  # else it is rung for when its inputs are checked
        ring(session, job)


def set_aside(session: Session, job: Job) -> None:
    """Out of the queue, or out of a worker's hands, until its user wants it to go on."""
    job.status, job.phase, job.status_reason = JobStatus.PAUSED, None, "paused by its user"
    job.owner, job.lease_until = None, None
    touch(job)
    say(session, job, "status", state(job))


def wish(session: Session, job: Job, status: JobStatus) -> None:
    """Tell the worker that has the job what its user wants of it."""
    job.status = status
    touch(job)
    say(session, job, "status", state(job))


def _stamp(session: Session, job: Job, **columns: Any) -> None:
    stamped = update(Job).where(Job.id == job.id).values(**columns)
    # Nobody reads it of the row in hand; looking for it among hundreds of rows, once for each, would take seconds.
    session.execute(stamped, execution_options={"synchronize_session": False})


def end(session: Session, job: Job, status: JobStatus, *, error: dict[str, Any] | None = None) -> None:
    """Into a terminal state, which nothing leaves."""
    if error is not None:
        error = {"param": None, "retryable": False, "log_excerpt": [], **error, "phase": job.phase}
    job.status, job.phase, job.status_reason, job.error = status, None, None, error
    job.owner, job.lease_until, job.finished_at = None, None, utcnow()
    touch(job)
    say(session, job, "status", state(job))
    say(session, job, "end", {"status": job.status})


def end_cancelled(session: Session, job: Job) -> None:
    """The end that its user asked for; ``error`` tells how far the job had come, and is no fault."""
    reached = job.metrics.get("last", {}).get("epoch")
    where = f"in the phase {job.phase}" if job.phase else "while it waited in the queue"
    after = f", after {reached} {'epoch' if reached == 1 else 'epochs'}" if reached else ""
    wish = RunError(
        "cancelled_by_user",
        f"Cancelled by its user at {utcnow():%Y-%m-%d %H:%M:%S} UTC, {where}{after}.",
        hint=_what_is_left(session, job) + " To begin anew, submit the request again.",
    )
    end(session, job, JobStatus.CANCELLED, error=wish.as_json())


def end_unheard(session: Session, job: Job, *, limit_seconds: float) -> None:
    """The end of a job that has waited in the queue for too long."""
    wanted = "a worker" if job.dispatched_at is not None else "its inputs to be checked"
    failure = RunError(
        "queue_timeout",
        f"The job waited for {wanted} for longer than {limit_seconds:g} s.",
        hint="See that a worker runs (GET /readyz) and that it gets through what is before the job, then submit it "
        f"again; the operator sets LIMBECK_QUEUE_TIMEOUT_SECONDS. {_what_is_left(session, job)}",
    )
    end(session, job, JobStatus.FAILED, error={**failure.as_json(), "retryable": True})


def _what_is_left(session: Session, job: Job) -> str:
    if session.get(Artifact, (job.id, STUDENT)) is None:
        return "No epoch was finished, so there is no student."
    return f"The best student so far can be downloaded: GET /distill/{job.id}/student."


def close_attempt(session: Session, job: Job, outcome: str) -> None:
    """A worker's try is over; what it took counts against ``max_runtime_seconds``."""
    attempt = session.get_one(Attempt, (job.id, job.attempt))
    attempt.ended_at, attempt.outcome = utcnow(), outcome
    job.runtime_seconds += max(0.0, (attempt.ended_at - attempt.started_at).total_seconds())
