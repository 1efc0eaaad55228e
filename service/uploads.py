"""Bytes on their way in: announced, sent, checked; nothing that is incomplete can be used."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from distill.errors import InputError
from distill.files import sha256_of
from models import Upload, utcnow
from service import database
from service.artifacts import store
from service.errors import Conflict, Gone, Invalid, NotFound, TooLarge
from service.ids import new_id
from service.settings import settings

Purpose = Literal["teacher", "dataset"]
_LIFETIME = timedelta(hours=24)


def create(filename: str, *, size: int, purpose: Purpose, sha256: str | None) -> Upload:
    """Announce an upload of ``size`` bytes.

    Raises:
        TooLarge: beyond LIMBECK_MAX_UPLOAD_BYTES.
    """
    if size > settings().max_upload_bytes:
        raise TooLarge(f"{size} bytes announced; at most {settings().max_upload_bytes} are taken")
    upload = Upload(
        id=new_id("up"),
        filename=Path(filename).name[:255] or "upload",
        purpose=purpose,
        size=size,
        offset=0,
        sha256=sha256,
        expires_at=utcnow() + _LIFETIME,
    )
    with database.begin() as session:
        session.add(upload)
    return upload


def get(upload_id: str) -> Upload:
    """An upload.

    Raises:
        NotFound: no such upload.
        Gone: it expired.
    """
    with database.read() as session:
        upload = session.get(Upload, upload_id)
    if upload is None:
        raise NotFound(f"No upload {upload_id!r}.")
    if upload.status == "pending" and upload.expires_at < utcnow():
        raise Gone(f"Upload {upload_id!r} expired; announce it again.")
    return upload


def pending(upload_id: str) -> Upload:
    """An upload that still takes bytes.

    Raises:
        Conflict: it is complete.
    """
    upload = get(upload_id)
    if upload.status != "pending":
        raise Conflict(f"Upload {upload_id!r} is {upload.status}.")
    return upload


def path_of(upload: Upload) -> Path:
    """Where the bytes of a pending upload gather."""
    folder = settings().data_dir / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / upload.id


def received(upload_id: str, *, offset: int) -> Upload:
    """Record how far the bytes have come."""
    with database.begin() as session:
        upload = session.get_one(Upload, upload_id)
        upload.offset = offset
    return upload


def complete(upload_id: str, *, sha256: str | None = None) -> Upload:
    """Check length and hash and keep the file; completing twice is no error.

    Raises:
        Invalid: ``upload_corrupt`` when bytes are missing or differ; the upload stays pending, to be sent again.
    """
    upload = get(upload_id)
    if upload.status == "completed":
        return upload
    path = path_of(upload)
    held = path.stat().st_size if path.exists() else 0
    if held != upload.size:
        if (again := get(upload_id)).status == "completed":
            return again  # by a twin of this request, a moment ago
        _refuse(f"{held} of {upload.size} bytes have arrived.", "Send the rest, or send the whole file again.")
    digest = sha256_of(path)
    for expected in (upload.sha256, sha256):
        if expected is not None and expected.lower() != digest:
            _refuse(f"The SHA-256 is {digest}, announced was {expected}.", "Send the file again.")
    store().put(source_key(upload), path)
    with database.begin() as session:
        upload = session.get_one(Upload, upload_id, with_for_update=True)
        upload.status, upload.sha256, upload.offset = "completed", digest, upload.size
    path.unlink(missing_ok=True)
    return upload


def source_key(upload: Upload) -> str:
    """The completed upload's key in the store."""
    return f"uploads/{upload.id}{Path(upload.filename).suffix.lower()[:16]}"


def completed(upload_id: str, *, purpose: Purpose, at: str = "") -> Upload:
    """A completed upload for a purpose; ``at`` is the JSON pointer of what names it in the request.

    Raises:
        Invalid: it is incomplete or was announced for something else.
    """
    try:
        upload = get(upload_id)
    except (NotFound, Gone) as error:
        raise Invalid([InputError("not_found", error.detail, param=f"{at}/upload_id")]) from error
    if upload.status != "completed":
        message = f"Upload {upload_id!r} is not complete."
        raise Invalid(
            [InputError("upload_corrupt", message, hint="POST its /complete first.", param=f"{at}/upload_id")]
        )
    if upload.purpose != purpose:
        message = f"Upload {upload_id!r} was announced as a {upload.purpose}."
        raise Invalid(
            [InputError("unsupported_format", message, hint=f"Announce a {purpose}.", param=f"{at}/upload_id")]
        )
    return upload


def _refuse(message: str, hint: str) -> None:
    raise Invalid([InputError("upload_corrupt", message, hint=hint)])
