"""What a job made: the list, the bytes, the report."""

from __future__ import annotations

import base64
from collections.abc import Generator
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from api import ranges
from api.deps import IfNoneMatch, JobId, etag_matches
from api.job_schemas import ArtifactSchema
from api.report_schemas import ReportSchema
from api.schemas import Listing
from models import Artifact
from service import job_views, results
from service.artifacts import store
from service.errors import NotFound, ServiceError
from service.results import STUDENT

router = APIRouter(prefix="/distill/{job_id}", tags=["results"])
_TRIES = 3

_BINARY: dict[str, Any] = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_DOWNLOAD: dict[int | str, dict[str, Any]] = {
    200: {**_BINARY, "description": "All bytes; ETag is their SHA-256, Repr-Digest too."},
    206: {**_BINARY, "description": "The bytes of a single Range."},
    304: {"description": "The bytes are those of the given ETag."},
}
_HEAD: dict[int | str, dict[str, Any]] = {200: {"description": "The headers of a download."}}
Range = Annotated[str | None, Header(alias="Range", description="A single range, such as bytes=1000-.")]
IfRange = Annotated[str | None, Header(alias="If-Range", description="An ETag: the Range counts only while it is so.")]


@router.get("/artifacts")
def list_artifacts(job_id: JobId) -> Listing[ArtifactSchema]:
    """Files that the job made, with their hashes."""
    job_views.get(job_id)
    return Listing[ArtifactSchema].of([ArtifactSchema.of(row) for row in results.listing(job_id)], has_more=False)


@router.get("/artifacts/{name}", response_class=Response, responses=_DOWNLOAD)
def get_artifact(
    job_id: JobId, name: str, range: Range = None, if_range: IfRange = None, if_none_match: IfNoneMatch = None
) -> Response:
    """Download a file, whole or from where an earlier download broke off."""
    return _download(job_id, name, wanted=range, if_range=if_range, if_none_match=if_none_match)


@router.head("/artifacts/{name}", response_class=Response, responses=_HEAD)
def head_artifact(job_id: JobId, name: str) -> Response:
    """Size and hash of a file."""
    return _head(job_id, name)


@router.get("/student", response_class=Response, responses=_DOWNLOAD)
def get_student(
    job_id: JobId, range: Range = None, if_range: IfRange = None, if_none_match: IfNoneMatch = None
) -> Response:
    """Download the student's weights: the best ones so far, from the first epoch on."""
    return _download(job_id, STUDENT, wanted=range, if_range=if_range, if_none_match=if_none_match)


@router.head("/student", response_class=Response, responses=_HEAD)
def head_student(job_id: JobId) -> Response:
    """Size and hash of the student's weights."""
    return _head(job_id, STUDENT)


@router.get("/report")
def get_report(job_id: JobId) -> ReportSchema:
    """Teacher, student and plainly trained student side by side."""
    job = job_views.get(job_id)
    if job.report is None:
        hint = "It comes when both students are trained; watch the job's events."
        if job.is_terminal:
            hint = "The job ended before the comparison; its metrics have what was measured."
        raise NotFound(f"Job {job_id!r} has no report" + ("." if job.is_terminal else " yet."), hint=hint)
    return ReportSchema.model_validate(job.report)


class _Bytes(StreamingResponse):
    """Closes the file when the reader leaves early, and not only when the garbage is collected."""

    def __init__(self, chunks: Generator[bytes], **options: Any) -> None:
        super().__init__(chunks, **options)
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._chunks.close()


def _find(job_id: str, name: str) -> Artifact:
    job_views.get(job_id)
    return results.get(job_id, name=name)


def _headers(row: Artifact) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(row.sha256)).decode()
    return {
        "ETag": f'"{row.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'attachment; filename="{row.name}"',
        "Cache-Control": "no-cache",
    }


def _head(job_id: str, name: str) -> Response:
    row = _find(job_id, name)
    headers = {**_headers(row), "Content-Length": str(row.size)}
    return Response(media_type=row.content_type, headers=headers)


def _download(
    job_id: str, name: str, *, wanted: str | None, if_range: str | None, if_none_match: str | None
) -> Response:
    for _ in range(_TRIES):
        row = _find(job_id, name)
        headers = _headers(row)
        if etag_matches(if_none_match, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        span = ranges.requested(wanted, if_range=if_range, etag=headers["ETag"], size=row.size)
        start, stop = span or (0, row.size)
        try:
            chunks = store().read(row.key, start=start, stop=stop)
        except FileNotFoundError:
            continue  # a better student has just taken its place, and everything above is another's
        headers["Content-Length"] = str(stop - start)
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{row.size}"
        status = 200 if span is None else 206
        return _Bytes(chunks, status_code=status, media_type=row.content_type, headers=headers)
    raise ServiceError(f"The bytes of {name!r} are missing.", code="storage_error", hint="Tell the operator.")
