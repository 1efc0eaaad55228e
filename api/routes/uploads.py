"""Files on their way in: announced, sent, checked."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, BinaryIO

from fastapi import APIRouter, HTTPException, Request
from fastapi import Path as UrlPath
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from api.deps import json_answer
from api.schemas import CompleteRequest, UploadRequest, UploadSchema
from distill.errors import InputError
from models import Upload
from service import uploads
from service.errors import Invalid, TooLarge

router = APIRouter(prefix="/uploads", tags=["uploads"])
_CHUNK_SECONDS = 60.0
_WRITE_BYTES = 2**20
UploadId = Annotated[str, UrlPath(max_length=64)]


@router.post("", status_code=201, response_model=UploadSchema)
def create_upload(body: UploadRequest) -> Response:
    """Announce a file; then PUT its content and POST its complete."""
    upload = uploads.create(body.filename, size=body.bytes, purpose=body.purpose, sha256=body.sha256)
    return _answer(upload, status=201, headers={"Location": f"/uploads/{upload.id}"})


@router.get("/{upload_id}", response_model=UploadSchema)
def get_upload(upload_id: UploadId) -> Response:
    """How far an upload has come."""
    return _answer(uploads.get(upload_id))


@router.head("/{upload_id}", response_class=Response, responses={200: {"description": "Upload-Offset, Upload-Length."}})
def head_upload(upload_id: UploadId) -> Response:
    """How far an upload has come, in the headers."""
    upload = uploads.get(upload_id)
    return Response(headers={**_headers(upload), "Upload-Length": str(upload.size)})


@router.put(
    "/{upload_id}/content",
    response_model=UploadSchema,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_content(upload_id: UploadId, request: Request) -> Response:
    """Send the whole file; whatever was there is replaced once all announced bytes have come."""
    upload = await run_in_threadpool(uploads.pending, upload_id)
    _check_length(request.headers.get("content-length"), upload)
    path = await run_in_threadpool(uploads.path_of, upload)
    arriving = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        await _receive(request, arriving, upload)
        upload = await run_in_threadpool(_take_over, arriving, path, upload)
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
    return {"Upload-Offset": str(upload.offset), "Cache-Control": "no-store"}


def _check_length(announced: str | None, upload: Upload) -> None:
    """Refuse before the first byte what cannot fit."""
    if announced is None or not announced.isdecimal():
        return
    if int(announced) > upload.size:
        raise _too_long(upload)
    if int(announced) < upload.size:
        raise _too_short(int(announced), upload)


async def _receive(request: Request, target: Path, upload: Upload) -> None:
    """Write the body to a file, never more of it than was announced and never all of it in memory.

    Raises:
        TooLarge: more bytes than announced.
        Invalid: ``upload_corrupt``, fewer bytes than announced.
        HTTPException: 408, nothing came for a minute.
        ClientDisconnect: the connection broke.
    """
    received = 0
    buffer = bytearray()
    with await run_in_threadpool(target.open, "xb") as file:
        async for chunk in _patient(request.stream()):
            received += len(chunk)
            if received > upload.size:
                raise _too_long(upload)
            buffer += chunk
            if len(buffer) >= _WRITE_BYTES:
                await run_in_threadpool(_write, file, buffer)
        await run_in_threadpool(_write, file, buffer)
    if received < upload.size:
        raise _too_short(received, upload)


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


def _take_over(arrived: Path, path: Path, upload: Upload) -> Upload:
    uploads.pending(upload.id)  # it may have been completed meanwhile, by another sender
    arrived.replace(path)
    return uploads.received(upload.id, offset=upload.size)


def _too_long(upload: Upload) -> TooLarge:
    error = TooLarge(f"More than the {upload.size} bytes that were announced.", hint="Announce the file again.")
    error.headers = {"Connection": "close"}
    return error


def _too_short(received: int, upload: Upload) -> Invalid:
    message = f"{received} of the {upload.size} announced bytes were sent; nothing was kept."
    return Invalid([InputError("upload_corrupt", message, hint="Send the whole file again.")])
