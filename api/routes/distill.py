"""Jobs: create, list, read."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import AwareDatetime
from starlette.concurrency import run_in_threadpool

from api.deps import After, Before, IfNoneMatch, JobId, PageSize, etag_matches, idempotency_key, json_answer
from api.estimate_schemas import EstimateSchema
from api.job_schemas import JobSchema, JobSummary, PlanSchema, QueueSchema, waiting_for
from api.schemas import Listing
from distill.spec import DistillSpec
from models import Job, JobStatus
from service import job_views, jobs, queue_views, turns

router = APIRouter(prefix="/distill", tags=["jobs"])
_POLL_SECONDS = 0.25
_METADATA = re.compile(r"metadata\[(.{1,64})\]")


@router.post(
    "",
    status_code=202,
    response_model=JobSchema,
    responses={200: {"model": PlanSchema, "description": "With dry_run: the plan; nothing was queued."}},
)
def create_job(
    spec: DistillSpec,
    dry_run: Annotated[bool, Query(description="Only check the request and resolve its plan.")] = False,
    key: Annotated[str | None, Depends(idempotency_key)] = None,
) -> Response:
    """Queue a distillation: a teacher, a student and a data set in; better small weights out."""
    if dry_run:
        return json_answer(PlanSchema.of(jobs.dry_run(spec)))
    job_id = jobs.submit(spec, idempotency_key=key).id
    return json_answer(read(job_views.get(job_id)), status=202, headers={"Location": f"/distill/{job_id}"})


@router.post("/estimate")
def estimate_job(spec: DistillSpec) -> EstimateSchema:
    """What a job would come to: the student, or the best three within a budget, with figures; steps and memory."""
    return EstimateSchema.of(jobs.dry_run(spec))


@router.get("")
def list_jobs(
    request: Request,
    limit: PageSize = 20,
    after: After = None,
    before: Before = None,
    status: JobStatus | None = None,
    name: Annotated[str | None, Query(max_length=200)] = None,
    sweep: Annotated[str | None, Query(max_length=64, description="Only jobs of this sweep.")] = None,
    created_after: AwareDatetime | None = None,
    created_before: AwareDatetime | None = None,
) -> Listing[JobSummary]:
    """Jobs, newest first; also narrowed by `metadata[key]=value`."""
    where = job_views.JobFilter(
        status=status,
        name=name,
        sweep=sweep,
        metadata=_metadata(request),
        created_after=created_after,
        created_before=created_before,
    )
    rows, has_more = job_views.listing(limit=limit, after=after, before=before, where=where)
    return Listing[JobSummary].of([JobSummary.of(job) for job in rows], has_more=has_more)


@router.get("/{job_id}", response_model=JobSchema, responses={304: {"description": "Nothing has changed."}})
async def get_job(
    request: Request,
    job_id: JobId,
    wait: Annotated[
        float, Query(ge=0, le=60, description="Answer when it changes, after so many seconds at most.")
    ] = 0,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """One job; with `wait` as soon as it changes."""
    job, body, etag = await run_in_threadpool(_rendered, job_id)
    is_news = if_none_match is not None and not etag_matches(if_none_match, etag)
    if wait and not job.is_terminal and not is_news:
        await _until_changed(request, job, seconds=wait)
        job, body, etag = await run_in_threadpool(_rendered, job_id)
    headers = {"ETag": etag, "Cache-Control": "no-cache"}
    if not job.is_terminal:
        headers["Retry-After"] = "2"
    if etag_matches(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


def read(job: Job) -> JobSchema:
    """The job in full."""
    return JobSchema.full(
        job,
        queue=queue_of(job),
        transitions=job_views.events(job.id, types=["status"], newest=True),
        attempts=job_views.attempts(job.id),
    )


def queue_of(job: Job) -> QueueSchema | None:
    """A waiting job's place, and why it waits; None when it does not."""
    if job.status != JobStatus.QUEUED:
        return None
    wanted, before = waiting_for(job), turns.before(job)
    why = f"its {wanted} is being checked" if wanted != "worker" else queue_views.reason(job, before=before)
    start = queue_views.estimated_start(before) if wanted == "worker" else None
    return QueueSchema(position=before + 1, waiting_for=wanted, reason=why, estimated_start_at=start)


def _rendered(job_id: str) -> tuple[Job, bytes, str]:
    """The job, its JSON, and a strong ETag: the hash of that JSON."""
    job = job_views.get(job_id)
    body = read(job).model_dump_json(by_alias=True).encode()
    return job, body, f'"{hashlib.sha256(body).hexdigest()[:32]}"'


async def _until_changed(request: Request, job: Job, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(_POLL_SECONDS, left))
        if await run_in_threadpool(job_views.version, job.id) != job.version or await request.is_disconnected():
            return


def _metadata(request: Request) -> dict[str, str]:
    pairs = ((_METADATA.fullmatch(name), value) for name, value in request.query_params.items())
    return {match[1]: value for match, value in pairs if match is not None}
