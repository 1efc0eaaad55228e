"""What is asked of a job that is there: pause, resume, retry, clone, rename, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends
from fastapi.responses import Response
from pydantic import Field, ValidationError

from api.deps import JobId, idempotency_key, json_answer
from api.job_schemas import JobSchema
from api.problems import Flaw
from api.routes.distill import read
from api.validation import flaws_of
from distill.errors import InputError
from distill.method_specs import Spec
from distill.spec import DistillSpec, Metadata
from models import JobStatus
from service import job_views, wishes
from service.errors import Invalid

router = APIRouter(prefix="/distill/{job_id}", tags=["jobs"])
Key = Annotated[str | None, Depends(idempotency_key)]


class JobPatch(Spec):
    """What may be changed about a job."""

    name: str | None = Field(default=None, max_length=200)
    metadata: Metadata | None = None


@router.patch("")
def rename_job(job_id: JobId, body: JobPatch) -> JobSchema:
    """Change a job's name or metadata."""
    return read(wishes.rename(job_id, name=body.name, metadata=body.metadata))


@router.delete("", status_code=204)
def delete_job(job_id: JobId) -> None:
    """Remove a job that has ended, with its events and files."""
    wishes.delete(job_id)


@router.post(
    "/cancel",
    status_code=202,
    response_model=JobSchema,
    responses={200: {"model": JobSchema, "description": "It was cancelled before."}},
)
def cancel_job(job_id: JobId) -> Response:
    """End a job; its best student so far is kept."""
    return _asked(job_id, before=JobStatus.CANCELLED, done=wishes.cancel)


@router.post(
    "/pause",
    status_code=202,
    response_model=JobSchema,
    responses={200: {"model": JobSchema, "description": "It was paused before."}},
)
def pause_job(job_id: JobId) -> Response:
    """Set a job aside with a checkpoint; its worker is free for others."""
    return _asked(job_id, before=JobStatus.PAUSED, done=wishes.pause)


@router.post("/resume", status_code=202, response_model=JobSchema)
def resume_job(job_id: JobId) -> Response:
    """Let a paused job go on from its checkpoint, at the end of the queue."""
    wishes.resume(job_id)
    return json_answer(read(job_views.get(job_id)), status=202)


@router.post("/retry", status_code=202, response_model=JobSchema)
def retry_job(job_id: JobId, key: Key = None) -> Response:
    """A new job with the request of one that failed or was cancelled."""
    return _made(wishes.retry(job_id, idempotency_key=key).id)


@router.post("/clone", status_code=202, response_model=JobSchema)
def clone_job(
    job_id: JobId,
    changes: Annotated[
        dict[str, Any] | None, Body(description="A JSON merge patch (RFC 7396) of the job's request.")
    ] = None,
    key: Key = None,
) -> Response:
    """A new job with this one's request, teacher and data, and the changes that the body tells."""
    try:
        return _made(wishes.clone(job_id, changes=changes or {}, idempotency_key=key).id)
    except ValidationError as error:
        raise Invalid([_told(flaw) for flaw in flaws_of(_in_body(error), model=DistillSpec)]) from error


def _in_body(error: ValidationError) -> list[dict[str, Any]]:
    return [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]


def _told(flaw: Flaw) -> InputError:
    return InputError(flaw.code, flaw.detail, hint=flaw.hint, param=flaw.pointer, did_you_mean=flaw.did_you_mean)


def _asked(job_id: str, *, before: JobStatus, done: Any) -> Response:
    was = job_views.get(job_id).status
    done(job_id)
    return json_answer(read(job_views.get(job_id)), status=200 if was == before else 202)


def _made(job_id: str) -> Response:
    return json_answer(read(job_views.get(job_id)), status=202, headers={"Location": f"/distill/{job_id}"})
