"""Files on their way in: announced, sent, checked."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from email.utils import format_datetime
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Header, HTTPException, Request
from fastapi import Path as UrlPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from api.deps import json_answer
from api.schemas import CompleteRequest, UploadRequest, UploadSchema
from distill.errors import InputError
from models import Upload
from service import uploads
from service.errors import Invalid, Malformed, TooLarge
from service.settings import settings

router = APIRouter(prefix="/uploads", tags=["uploads"])
_CHUNK_SECONDS = 60.0
_WRITE_BYTES = 2**20
_TUS = "1.0.0"
_PATCH_TYPE = "application/offset+octet-stream"
UploadId = Annotated[str, UrlPath(max_length=64)]
TusVersion = Annotated[str | None, Header(description="1.0.0, from clients of the tus protocol.")]


def _body_of(media_type: str) -> dict[str, Any]:
    """How OpenAPI describes a body of plain bytes."""
    schema = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}


@router.options("", status_code=204, include_in_schema=False)
def options() -> Response:
    """What clients of the tus protocol ask first."""
    extensions = {"Tus-Version": _TUS, "Tus-Extension": "creation,expiration"}
    largest = {"Tus-Max-Size": str(settings().max_upload_bytes)}
    return Response(status_code=204, headers={"Tus-Resumable": _TUS, **extensions, **largest})


@router.post("", status_code=201, response_model=UploadSchema)
def create_upload(
    body: UploadRequest | None = None,
    upload_length: Annotated[int | None, Header(ge=1, le=2**53, description="Of tus, in place of a body.")] = None,
    upload_metadata: Annotated[
        str | None, Header(max_length=4096, description="Of tus: filename, purpose and sha256, each in base64.")
    ] = None,
    tus_resumable: TusVersion = None,
) -> Response:
    """Announce a file; then PUT its content, or PATCH it in pieces, and POST its complete."""
    _check_version(tus_resumable)
    asked = body or _announced(upload_length, upload_metadata)
    upload = uploads.create(asked.filename, size=asked.bytes, purpose=asked.purpose, sha256=asked.sha256)
    return _answer(upload, status=201, headers={"Location": f"/uploads/{upload.id}"})


@router.get("/{upload_id}", response_model=UploadSchema)
def get_upload(upload_id: UploadId) -> Response:
    """How far an upload has come."""
    return _answer(uploads.get(upload_id))


@router.head("/{upload_id}", response_class=Response, responses={200: {"description": "Upload-Offset, Upload-Length."}})
def head_upload(upload_id: UploadId, tus_resumable: TusVersion = None) -> Response:
    """How far an upload has come, in the headers."""
    _check_version(tus_resumable)
    upload = uploads.get(upload_id)
    return Response(headers={**_headers(upload), "Upload-Length": str(upload.size)})


@router.patch(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    openapi_extra=_body_of("application/offset+octet-stream"),
)
async def patch_upload(
    upload_id: UploadId,
    request: Request,
    upload_offset: Annotated[int, Header(ge=0, le=2**53, description="Bytes that have arrived so far.")],
    tus_resumable: TusVersion = None,
) -> Response:
    """Send the rest, or a piece of it, as tus 1.0 does; what arrived before the line broke is kept."""
    _check_version(tus_resumable)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _PATCH_TYPE:
        raise HTTPException(415, f"A PATCH is of the type {_PATCH_TYPE}, not {kind or 'of none'}.")
    upload, file = await run_in_threadpool(uploads.open_at, upload_id, offset=upload_offset)
    try:
        await _receive(request, file, upload, room=upload.size - upload_offset)
    finally:
        await asyncio.shield(run_in_threadpool(file.close))
    return Response(status_code=204, headers=_headers(await run_in_threadpool(uploads.get, upload_id)))


@router.put("/{upload_id}/content", response_model=UploadSchema, openapi_extra=_body_of("application/octet-stream"))
async def put_content(upload_id: UploadId, request: Request) -> Response:
    """Send the whole file; whatever was there is replaced once all announced bytes have come."""
    upload = await run_in_threadpool(uploads.pending, upload_id)
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) < upload.size:
        raise _too_short(int(announced), upload)
    path = await run_in_threadpool(uploads.path_of, upload)
    arriving = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with await run_in_threadpool(arriving.open, "xb") as file:
            received = await _receive(request, file, upload, room=upload.size)
        if received < upload.size:
            raise _too_short(received, upload)
        upload = await run_in_threadpool(uploads.replace, upload_id, arriving)
    finally:
        await asyncio.shield(run_in_threadpool(arriving.unlink, missing_ok=True))
    return _answer(upload)


@router.post("/{upload_id}/complete", response_model=UploadSchema)
def complete_upload(upload_id: UploadId, body: CompleteRequest | None = None) -> Response:
    """Check length and hash; from then on the file can become a teacher or a data set."""
    return _answer(uploads.complete(upload_id, sha256=body.sha256 if body is not None else None))


def _answer(upload: Upload, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return json_answer(UploadSchema.of(upload), status=status, headers={**_headers(upload), **(headers or {})})


def _headers(upload: Upload) -> dict[str, str]:
    headers = {"Tus-Resumable": _TUS, "Upload-Offset": str(upload.offset), "Cache-Control": "no-store"}
    if upload.status == "pending":
        headers["Upload-Expires"] = format_datetime(upload.expires_at, usegmt=True)
    return headers


def _check_version(tus: str | None) -> None:
    if tus not in (None, _TUS):
        raise HTTPException(412, f"This service speaks tus {_TUS}, not {tus}.", headers={"Tus-Version": _TUS})


def _announced(length: int | None, metadata: str | None) -> UploadRequest:
    """The announcement that a tus client makes in headers.

    Raises:
        RequestValidationError: there is none either, or it is none of a file of ours.
        Malformed: the metadata are not pairs of a name and base64.
    """
    if length is None:
        missing = {"type": "missing", "loc": ("body",), "msg": "Field required", "input": None}
        raise RequestValidationError([missing])
    found: dict[str, Any] = {}
    for pair in (metadata or "").split(","):
        name, _, value = pair.strip().partition(" ")
        try:
            found[name] = base64.b64decode(value, validate=True).decode()
        except ValueError as error:  # not base64, or not UTF-8
            message = f"Upload-Metadata: {name[:50]!r} is not followed by base64."
            raise Malformed(message, hint="It is pairs `name base64` between commas, as tus 1.0 has it.") from error
    known = {name: value for name, value in found.items() if name in UploadRequest.model_fields}
    try:
        return UploadRequest.model_validate({**known, "bytes": length})
    except ValidationError as error:
        flaws = [{**flaw, "loc": ("body", *flaw["loc"])} for flaw in error.errors()]
        raise RequestValidationError(flaws) from error


async def _receive(request: Request, file: BinaryIO, upload: Upload, *, room: int) -> int:
    """Append the body to a file, never more of it than there is room for and never all of it in memory.

    Whatever ends it, all that has come is in the file.

    Returns:
        Bytes that came.

    Raises:
        TooLarge: more than there is room for.
        HTTPException: 408, nothing came for a minute.
        ClientDisconnect: the connection broke.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > room:
        raise _too_long(upload)
    received = 0
    buffer = bytearray()
    try:
        async for chunk in _patient(request.stream()):
            received += len(chunk)
            if received > room:
                raise _too_long(upload)
            buffer += chunk
            if len(buffer) >= _WRITE_BYTES:
                await run_in_threadpool(_write, file, buffer)
    finally:
        await asyncio.shield(run_in_threadpool(_write, file, buffer))
    return received


def _write(file: BinaryIO, buffer: bytearray) -> None:
    file.write(buffer)
    buffer.clear()


async def _patient(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        try:
            yield await asyncio.wait_for(anext(chunks), _CHUNK_SECONDS)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            detail = f"Nothing came for {_CHUNK_SECONDS:.0f} s."
            raise HTTPException(408, detail, headers={"Connection": "close"}) from error


def _too_long(upload: Upload) -> TooLarge:
    message = f"More than the {upload.size} bytes that were announced."
    return TooLarge(message, hint="Announce the file again.", headers={"Connection": "close"})


def _too_short(received: int, upload: Upload) -> Invalid:
    message = f"{received} of the {upload.size} announced bytes were sent; nothing was kept."
    return Invalid([InputError("upload_corrupt", message, hint="Send the whole file again.")])
