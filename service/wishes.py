"""What users ask of their jobs: cancel, pause, resume, retry, clone, rename, delete. A terminal state never changes."""

from __future__ import annotations

import shutil
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from distill.spec import DatasetRef, DistillSpec, TeacherRef
from models import Artifact, Job, JobStatus
from service import database, jobs
from service.artifacts import store
from service.errors import Conflict, NotFound
from service.job_log import touch
from service.settings import settings
from service.transitions import end_cancelled, requeue, set_aside, wish


def cancel(job_id: str) -> Job:
    """Ask for a job's end: at once while it waits, soon while it runs; asking again is no error.

    Raises:
        NotFound: no such job.
        Conflict: it has ended otherwise.
    """
    with database.begin() as session:
        job = _locked(session, job_id)
        ask_to_end(session, job)
        if job.is_terminal and job.status != JobStatus.CANCELLED:
            raise _conflict(job, "Only a job that has not ended can be cancelled.")
    return job


def ask_to_end(session: Session, job: Job) -> None:
    """Cancel a locked job: at once while it waits, soon while it runs; one that has ended stays as it is."""
    if job.status in (JobStatus.QUEUED, JobStatus.PAUSED):
        end_cancelled(session, job)
    elif job.status in (JobStatus.RUNNING, JobStatus.PAUSING):
        wish(session, job, JobStatus.CANCELLING)


def pause(job_id: str) -> Job:
    """Set a job aside: at once while it waits, with a checkpoint while it runs; asking again is no error.

    Raises:
        NotFound: no such job.
        Conflict: it has ended, or is being cancelled.
    """
    with database.begin() as session:
        job = _locked(session, job_id)
        if job.status == JobStatus.QUEUED:
            set_aside(session, job)
        elif job.status == JobStatus.RUNNING:
            wish(session, job, JobStatus.PAUSING)
        elif job.status not in (JobStatus.PAUSING, JobStatus.PAUSED):
            raise _conflict(job, "Only a waiting or running job can be paused.")
    return job


def resume(job_id: str) -> Job:
    """Let a paused job go on, from its checkpoint, at the end of the queue.

    Raises:
        NotFound: no such job.
        Conflict: it is not paused.
    """
    with database.begin() as session:
        job = _locked(session, job_id)
        if job.status == JobStatus.PAUSED:
            requeue(session, job, "its user let it go on")
        elif job.status == JobStatus.PAUSING:
            wish(session, job, JobStatus.RUNNING)  # a trainer that has stopped already is started again
        else:
            raise _conflict(job, "Only a paused job can be resumed.")
    return job


def retry(job_id: str, *, idempotency_key: str | None = None) -> Job:
    """A new job with the request of one that failed or was cancelled; that one stays as it is.

    Raises:
        NotFound: no such job.
        Conflict: it has not failed and was not cancelled.
        Invalid: it cannot be done any more.
    """
    with database.read() as session:
        job = _found(session.get(Job, job_id), job_id)
    if job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
        raise _conflict(job, "Only a failed or cancelled job can be retried; a clone can be made of any.")
    return clone(job_id, changes={}, idempotency_key=idempotency_key)


def clone(job_id: str, *, changes: dict[str, Any], idempotency_key: str | None = None) -> Job:
    """A new job with the request of another, and some of it changed; on the same teacher and data unless changed too.

    Args:
        job_id: of the other.
        changes: a JSON merge patch (RFC 7396) of its request.
        idempotency_key: as for a new job.

    Raises:
        NotFound: no such job.
        pydantic.ValidationError: the changed request is none.
        Invalid: it does not fit its inputs.
    """
    with database.read() as session:
        job = _found(session.get(Job, job_id), job_id)
    spec = DistillSpec.model_validate(job.spec).model_copy(
        update={"teacher": TeacherRef(id=job.teacher_id), "dataset": DatasetRef(id=job.dataset_id)}
    )
    body = merged(spec.model_dump(mode="json"), changes)
    return jobs.submit(DistillSpec.model_validate(body), idempotency_key=idempotency_key, made_from=job.id)


def merged(target: Any, patch: Any) -> Any:
    """A JSON merge patch applied (RFC 7396): null removes, objects are merged, all else is replaced.

    An object whose ``type`` becomes another is replaced as a whole: the settings of one method mean nothing to another.
    """
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    if patch.get("type", result.get("type")) != result.get("type"):
        result = {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def rename(job_id: str, *, name: str | None, metadata: dict[str, str] | None) -> Job:
    """Change what a job is called; None leaves it.

    Raises:
        NotFound: no such job.
    """
    with database.begin() as session:
        job = _locked(session, job_id)
        job.name = job.name if name is None else name
        job.labels = job.labels if metadata is None else metadata
        touch(job)
    return job


def delete(job_id: str) -> None:
    """Remove a job that has ended, with its events and its files.

    Raises:
        NotFound: no such job.
        Conflict: it has not ended.
    """
    with database.begin() as session:
        job = _locked(session, job_id)
        if not job.is_terminal:
            raise _conflict(job, "Cancel it first, or wait for its end.")
        keys = session.scalars(select(Artifact.key).where(Artifact.job_id == job_id)).all()
        session.delete(job)
    for key in keys:
        store().delete(key)
    shutil.rmtree(settings().work_dir / job_id, ignore_errors=True)


def _locked(session: Session, job_id: str) -> Job:
    return _found(session.get(Job, job_id, with_for_update=True), job_id)


def _found(job: Job | None, job_id: str) -> Job:
    if job is None:
        raise NotFound(f"No job {job_id!r}.", hint="GET /distill lists the jobs.")
    return job


def _conflict(job: Job, hint: str) -> Conflict:
    return Conflict(f"Job {job.id!r} is {job.status}.", hint=hint)
