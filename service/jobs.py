"""A job's whole life on one page, in its order: submit, claim, record, finish; and what may come between.

Every change that a worker makes carries the fence it was given by its claim. A change with an older
fence finds no row and raises :class:`service.errors.Fenced`: the writer must stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from distill import events
from distill.errors import DistillError
from distill.spec import DistillSpec
from models import (
    HELD,
    Attempt,
    Dataset,
    InputStatus,
    Job,
    JobStatus,
    Teacher,
    db_now,
    utcnow,
)
from service import database, plans, starts, turns
from service.errors import Fenced, Invalid
from service.idempotency import digest_of, replay
from service.intake import new_job, take_in
from service.job_log import apply, say, state, touch
from service.logs import logger
from service.settings import settings
from service.transitions import close_attempt, end, end_cancelled, end_unheard, requeue, ring, set_aside

log = logger(__name__)

_RUNG_AT_ONCE = 10
_SETTLED_AT_ONCE = 100


def submit(spec: DistillSpec, *, idempotency_key: str | None = None, made_from: str | None = None) -> Job:
    """Accept a request: the job, and the message that will ring for it, in one transaction.

    Args:
        spec: the request.
        idempotency_key: the same key and request is the same job.
        made_from: the job that this one repeats.

    Raises:
        Invalid: the request does not fit its inputs, or the idempotency key came with another body.
    """
    digest = digest_of(spec)
    try:
        return _submit(spec, idempotency_key, digest, made_from)
    except IntegrityError:
        # Between our look and our insert a twin of this request came with its key, or an input was deleted:
        # the second look finds either.
        return _submit(spec, idempotency_key, digest, made_from)


def _submit(spec: DistillSpec, idempotency_key: str | None, digest: str, made_from: str | None) -> Job:
    brought = plans.bring(spec)
    with database.begin() as session:
        if idempotency_key is not None:
            earlier = session.scalar(select(Job).where(Job.idempotency_key == idempotency_key))
            if earlier is not None:
                return replay(earlier, digest=digest)
        plan = plans.make(session, spec, brought=brought)
        kept = {"idempotency_key": idempotency_key, "idempotency_digest": digest} if idempotency_key else {}
        job = new_job(spec, plan, made_from=made_from, **kept)
        take_in(session, [(job, plan)])
    return job


def dry_run(spec: DistillSpec) -> plans.Plan:
    """What a request would come to; nothing is stored.

    Raises:
        Invalid: the request does not fit its inputs.
    """
    brought = plans.bring(spec)
    with database.read() as session:
        return plans.make(session, spec, brought=brought)


def settle_waiting() -> int:
    """Let go, or fail, queued jobs whose inputs have meanwhile been checked, the next in turn first; how many."""
    statuses = (Teacher.status, Dataset.status)
    is_checked = or_(
        and_(*(status == InputStatus.READY for status in statuses)),
        *(status == InputStatus.ERROR for status in statuses),
    )
    with database.begin() as session:
        waiting = session.scalars(
            select(Job)
            .join(Teacher, Job.teacher_id == Teacher.id)
            .join(Dataset, Job.dataset_id == Dataset.id)
            .where(Job.status == JobStatus.QUEUED, Job.dispatched_at.is_(None), is_checked)
            .order_by(Job.queued_at, Job.id)
            .limit(_SETTLED_AT_ONCE)  # a sweep has hundreds, and nobody else writes meanwhile
            .with_for_update(skip_locked=True, of=Job)
        ).all()
        for job in waiting:
            try:
                with session.begin_nested():
                    _settle(session, job)
            except Exception as error:  # a fault of ours; the jobs behind this one are not to wait for ever
                log.error("a job could not be planned", job=job.id, exc_info=error)
                end(session, job, JobStatus.FAILED, error=_fault().as_json())
        return len(waiting)


def _fault() -> DistillError:
    hint = "Tell the operator the job's id, who has the worker's log."
    return DistillError("internal_error", "The job could not be planned, by a fault of the service.", hint=hint)


def _settle(session: Session, job: Job) -> None:
    teacher = session.get_one(Teacher, job.teacher_id)
    dataset = session.get_one(Dataset, job.dataset_id)
    for name, row in (("teacher", teacher), ("dataset", dataset)):
        if row.status == InputStatus.ERROR and row.error is not None:
            end(session, job, JobStatus.FAILED, error={**row.error, "param": f"/{name}"})
            return
    try:
        spec = DistillSpec.model_validate(job.spec)
        plan = plans.fit(spec, teacher=teacher, dataset=dataset, start=job.facts["student"].get("init"))
    except Invalid as invalid:
        end(session, job, JobStatus.FAILED, error=invalid.errors[0].as_json())
        return
    job.facts, job.config_resolved, job.status_reason = plan.facts, _dump(plan.resolved), None
    job.needs_bytes = plan.needs_bytes
    touch(job)
    ring(session, job)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A worker's hold on a job."""

    job_id: str
    fence: int
    attempt: int
    spec: DistillSpec
    """Resolved."""
    teacher: Teacher
    dataset: Dataset
    start_key: str | None
    """In the store: the weights that the student starts from; None: random ones."""
    start_is_pickled: bool
    """Whether a trainer may read them only once they are converted."""
    recorded_step: int
    """The last step that an earlier attempt's events told of."""
    seconds_left: float
    """Of max_runtime_seconds, over all attempts."""


def claim(job_id: str, *, owner: str) -> Claim | None:
    """Take a queued job, with its lease, in one statement; None when there is nothing to take."""
    with database.begin() as session:
        job = session.scalar(
            update(Job)
            .where(Job.id == job_id, Job.status == JobStatus.QUEUED, Job.config_resolved.is_not(None))
            .where(Job.dispatched_at.is_not(None))
            .values(
                status=JobStatus.RUNNING,
                phase="preparing",
                status_reason=None,
                attempt=Job.attempt + 1,
                fence=Job.fence + 1,
                owner=owner,
                lease_until=db_now() + settings().lease_seconds,
            )
            .returning(Job)
        )
        if job is None:
            return None
        job.started_at = job.started_at or utcnow()
        session.add(Attempt(job_id=job.id, n=job.attempt, worker=owner, resumed_from_step=0))
        touch(job)
        say(session, job, "status", state(job))
        spec = DistillSpec.model_validate(job.config_resolved)
        return Claim(
            job_id=job.id,
            fence=job.fence,
            attempt=job.attempt,
            spec=spec,
            teacher=session.get_one(Teacher, job.teacher_id),
            dataset=session.get_one(Dataset, job.dataset_id),
            start_key=starts.key_of(job.facts),
            start_is_pickled=starts.is_pickled(job.facts),
            recorded_step=job.step,
            seconds_left=spec.training.max_runtime_seconds - job.runtime_seconds,
        )


def heartbeat(job_id: str, *, fence: int) -> str:
    """Renew the lease; the job's status, which tells whether its user wants it paused or cancelled.

    Raises:
        Fenced: the job is another attempt's, or ended.
    """
    with database.begin() as session:
        job = _held(session, job_id, fence)
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=db_now() + settings().lease_seconds))
        session.execute(
            update(Attempt).where(Attempt.job_id == job_id, Attempt.n == job.attempt).values(heartbeat_at=utcnow())
        )
        return job.status


def record(job_id: str, *, fence: int, batch: Sequence[events.Event]) -> str:
    """Write what training yielded; the job's status, as :func:`heartbeat` tells it.

    Raises:
        Fenced: the job is another attempt's, or ended; nothing was written.
    """
    with database.begin() as session:
        job = _held(session, job_id, fence)
        for event in batch:
            apply(session, job, event)
        touch(job)
        return job.status


def finish(job_id: str, *, fence: int) -> None:
    """The run is complete and its artifacts are stored and checked.

    Raises:
        Fenced: the job is another attempt's, or ended.
    """
    with database.begin() as session:
        job = _held(session, job_id, fence)
        close_attempt(session, job, "succeeded")
        end(session, job, JobStatus.SUCCEEDED)


def fail(job_id: str, *, fence: int, error: dict[str, Any]) -> None:
    """The run cannot go on; what it left is kept.

    Raises:
        Fenced: the job is another attempt's, or ended.
    """
    with database.begin() as session:
        job = _held(session, job_id, fence)
        close_attempt(session, job, "failed")
        end(session, job, JobStatus.FAILED, error=error)


def release(job_id: str, *, fence: int) -> str:
    """The trainer has stopped in good order: as its user wished, or else since the worker stops; the job's new status.

    Without a wish the job is queued again, and the attempt is not held against it.

    Raises:
        Fenced: the job is another attempt's, or ended.
    """
    with database.begin() as session:
        job = _held(session, job_id, fence)
        close_attempt(session, job, _OUTCOMES[JobStatus(job.status)])
        if not _fulfil(session, job):
            requeue(session, job, "its worker was stopped; it goes on from its checkpoint")
        return job.status


_OUTCOMES = {JobStatus.RUNNING: "released", JobStatus.PAUSING: "paused", JobStatus.CANCELLING: "cancelled"}


def _fulfil(session: Session, job: Job) -> bool:
    """Do what the job's user asked for, now that no trainer is at work on it; False when that is nothing."""
    if job.status == JobStatus.CANCELLING:
        end_cancelled(session, job)
    elif job.status == JobStatus.PAUSING:
        set_aside(session, job)
    else:
        return False
    return True


def crashed(job_id: str, *, fence: int, error: dict[str, Any]) -> None:
    """The trainer died: queued again, or failed once it has died too often without getting further.

    Raises:
        Fenced: the job is another attempt's, or ended.
    """
    with database.begin() as session:
        _crash(session, _held(session, job_id, fence), error)


def _crash(session: Session, job: Job, error: dict[str, Any]) -> None:
    progressed = job.step > job.crash_step
    job.crash_count = 1 if progressed else job.crash_count + 1
    job.crash_step = job.step
    close_attempt(session, job, "crashed")
    if _fulfil(session, job):
        return
    if job.crash_count >= settings().max_crashes:
        end(session, job, JobStatus.FAILED, error=error)
    else:
        say(session, job, "log", {"level": "warning", "message": error["message"]})
        requeue(session, job, error["message"])


def sweep() -> int:
    """Take back what lost its worker, ring again for what lost its message; how many jobs were touched."""
    with database.begin() as session:
        lost = session.scalars(
            select(Job)
            .where(Job.status.in_(HELD), or_(Job.lease_until.is_(None), Job.lease_until < db_now()))
            .with_for_update(skip_locked=True)
        ).all()
        for job in lost:
            error = DistillError(
                "worker_lost",
                f"Worker {job.owner!r} stopped answering.",
                hint="Look at the worker's log and at the memory of its machine, then submit the job again.",
            )
            _crash(session, job, {**error.as_json(), "retryable": True})
        # Only the next in turn: ringing for all would fill the broker behind a long job, or a long sweep.
        in_turn = select(turns.waiting().limit(_RUNG_AT_ONCE).subquery().c.id)
        unheard = session.scalars(
            select(Job)
            .where(Job.id.in_(in_turn), Job.dispatched_at < db_now() - settings().redispatch_seconds)
            .where(Job.status == JobStatus.QUEUED)
            .order_by(*turns.ORDER)
            .with_for_update(skip_locked=True)
        ).all()
        for job in unheard:
            ring(session, job)
        return len(lost) + len(unheard)


def time_out() -> int:
    """Fail what has waited in the queue for longer than it may, for a worker or for its inputs; how many jobs."""
    limit_seconds = settings().queue_timeout_seconds
    with database.begin() as session:
        overdue = session.scalars(
            select(Job)
            .where(Job.status == JobStatus.QUEUED, Job.waiting_since < db_now() - limit_seconds)
            .order_by(Job.waiting_since, Job.id)
            .limit(_SETTLED_AT_ONCE)
            .with_for_update(skip_locked=True)
        ).all()
        for job in overdue:
            end_unheard(session, job, limit_seconds=limit_seconds)
        return len(overdue)


def _held(session: Session, job_id: str, fence: int) -> Job:
    """The job, locked, if it is still this attempt's."""
    job = session.scalar(
        select(Job).where(Job.id == job_id, Job.fence == fence, Job.status.in_(HELD)).with_for_update()
    )
    if job is None:
        raise Fenced(job_id)
    return job


def _dump(spec: DistillSpec | None) -> dict[str, Any] | None:
    return spec.model_dump(mode="json") if spec is not None else None
