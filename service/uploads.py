"""Bytes on their way in: announced, sent, checked; nothing that is incomplete can be used."""

from __future__ import annotations

import fcntl
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, Literal

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from distill.errors import InputError
from distill.files import sha256_of
from models import Dataset, InputStatus, Upload, utcnow
from service import database
from service.artifacts import store
from service.errors import Conflict, Gone, Invalid, NotFound, TooLarge
from service.ids import new_id
from service.settings import settings

Purpose = Literal["teacher", "dataset", "student_init"]
_LIFETIME = timedelta(hours=24)
_LOCK_SECONDS = 5.0
_STALE_SECONDS = 3600.0


def create(filename: str, *, size: int, purpose: Purpose, sha256: str | None) -> Upload:
    """Announce an upload of ``size`` bytes; files of expired ones make room for it.

    Raises:
        TooLarge: beyond LIMBECK_MAX_UPLOAD_BYTES, or ``quota_exceeded``: beyond LIMBECK_UPLOAD_QUOTA_BYTES in all.
    """
    if size > settings().max_upload_bytes:
        message = f"{size} bytes announced; at most {settings().max_upload_bytes} are taken."
        raise TooLarge(message, hint="Send less; the operator sets LIMBECK_MAX_UPLOAD_BYTES.")
    purge()
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
        check_quota(session, size)
        session.add(upload)
    return upload


def check_quota(session: Session, size: int, *, but: str | None = None) -> None:
    """Whether there is room for ``size`` bytes more, not counting the data set ``but``.

    Raises:
        TooLarge: ``quota_exceeded``.
    """
    quota, held = settings().upload_quota_bytes, bytes_held(session, but=but)
    if held + size > quota:
        raise TooLarge(
            f"{size} bytes announced; uploads hold {held} of the {quota} bytes that they may.",
            code="quota_exceeded",
            hint="Pending uploads expire after a day; the operator sets LIMBECK_UPLOAD_QUOTA_BYTES.",
        )


def bytes_held(session: Session, *, but: str | None = None) -> int:
    """What the quota counts: uploads, and what is or was fetched, without the data set ``but``."""
    counted = or_(Upload.status == "completed", Upload.expires_at > utcnow())
    sent = session.scalar(select(func.coalesce(func.sum(Upload.size), 0)).where(counted)) or 0
    is_there = or_(Dataset.status != InputStatus.ERROR, Dataset.source_key != "")
    fetched = select(func.coalesce(func.sum(Dataset.size), 0)).where(Dataset.url.is_not(None), is_there)
    return int(sent) + int(session.scalar(fetched.where(Dataset.id != (but or ""))) or 0)


def purge() -> None:
    """Remove the files of uploads that no longer take bytes, and what senders left that died in the middle."""
    for path in _folder().iterdir():
        upload_id, _, arriving = path.name.partition(".")
        with database.read() as session:
            upload = session.get(Upload, upload_id)
        is_open = upload is not None and upload.status == "pending" and upload.expires_at > utcnow()
        is_stale = bool(arriving) and time.time() - path.stat().st_mtime > _STALE_SECONDS
        if not is_open or is_stale:
            path.unlink(missing_ok=True)


def get(upload_id: str) -> Upload:
    """An upload.

    Raises:
        NotFound: no such upload.
        Gone: it expired.
    """
    with database.read() as session:
        upload = session.get(Upload, upload_id)
    if upload is None:
        raise NotFound(f"No upload {upload_id!r}.", hint="POST /uploads announces one.")
    if upload.status == "pending" and upload.expires_at < utcnow():
        raise Gone(f"Upload {upload_id!r} expired.", hint="Announce it again: POST /uploads.")
    if upload.status == "pending":  # the file alone knows: a sender, or this service, may have died in the middle
        upload.offset = _bytes_held(upload)
    return upload


def pending(upload_id: str) -> Upload:
    """An upload that still takes bytes.

    Raises:
        Conflict: it is complete.
    """
    upload = get(upload_id)
    if upload.status != "pending":
        raise Conflict(f"Upload {upload_id!r} is {upload.status}.", hint="Another file is announced as a new upload.")
    return upload


def path_of(upload: Upload) -> Path:
    """Where the bytes of a pending upload gather."""
    return _folder() / upload.id


def _folder() -> Path:
    folder = settings().data_dir / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _bytes_held(upload: Upload) -> int:
    try:
        return path_of(upload).stat().st_size
    except FileNotFoundError:
        return 0


def open_at(upload_id: str, *, offset: int) -> tuple[Upload, BinaryIO]:
    """A pending upload and its file, to append to; nobody else can until it is closed.

    Raises:
        Conflict: it is complete, or holds another number of bytes, which ``Upload-Offset`` tells, or
            ``upload_busy``: another sender is at work.
    """
    file = _locked(path_of(pending(upload_id)))
    try:
        upload = pending(upload_id)
        if offset != upload.offset:
            raise Conflict(
                f"{upload.offset} bytes have arrived; these would start at {offset}.",
                hint="HEAD tells where to go on.",
                headers={"Upload-Offset": str(upload.offset)},
            )
        return _prolonged(upload), file
    except BaseException:
        file.close()
        raise


def replace(upload_id: str, arrived: Path) -> Upload:
    """Take a whole file for a pending upload, in place of what has come so far.

    Raises:
        Conflict: as :func:`open_at`.
    """
    path = path_of(pending(upload_id))
    with _locked(path):
        upload = pending(upload_id)
        arrived.replace(path)
    return _prolonged(upload)


def _prolonged(upload: Upload) -> Upload:
    """Whoever still sends gets another day."""
    with database.begin() as session:
        session.get_one(Upload, upload.id).expires_at = upload.expires_at = utcnow() + _LIFETIME
    return get(upload.id)


def _locked(path: Path) -> BinaryIO:
    """The file at a path, at its end, locked against all others until it is closed."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while True:
        file = path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except BlockingIOError:
            if time.monotonic() > deadline:
                file.close()
                raise Conflict(
                    "Another sender is at work on this upload.",
                    code="upload_busy",
                    hint="Wait until it has ended.",
                    headers={"Retry-After": "5"},
                ) from None
        file.close()  # in use, or another file has taken its place
        time.sleep(0.05)


def complete(upload_id: str, *, sha256: str | None = None) -> Upload:
    """Check length and hash and keep the file; completing twice is no error.

    Raises:
        Invalid: ``upload_corrupt`` when bytes are missing or differ; the upload stays pending, to be sent again.
    """
    upload = get(upload_id)
    if upload.status == "completed":
        return upload
    path = path_of(upload)
    if upload.offset != upload.size:
        if (again := get(upload_id)).status == "completed":
            return again  # by a twin of this request, a moment ago
        _refuse(f"{upload.offset} of {upload.size} bytes have arrived.", "Send the rest, or the whole file again.")
    with _locked(path):
        if (again := get(upload_id)).status == "completed":
            path.unlink(missing_ok=True)
            return again
        digest = sha256_of(path)
        for expected in (upload.sha256, sha256):
            if expected is not None and expected.lower() != digest:
                _refuse(
                    f"The SHA-256 is {digest}, announced was {expected}.", "PUT the whole file, or announce it anew."
                )
        store().put(source_key(upload), path)
        with database.begin() as session:
            upload = session.get_one(Upload, upload_id, with_for_update=True)
            upload.status, upload.sha256, upload.offset = "completed", digest, upload.size
        path.unlink(missing_ok=True)
    return upload


def source_key(upload: Upload) -> str:
    """The completed upload's key in the store."""
    return key_of(upload.id, upload.filename)


def key_of(upload_id: str, filename: str) -> str:
    """The key of a completed upload that may have no row any more."""
    return f"uploads/{upload_id}{Path(filename).suffix.lower()[:16]}"


def completed(upload_id: str, *, purpose: Purpose, at: str = "") -> Upload:
    """A completed upload for a purpose; ``at`` is the JSON pointer of what names it in the request.

    Raises:
        Invalid: it is incomplete or was announced for something else.
    """
    try:
        upload = get(upload_id)
    except (NotFound, Gone) as error:
        refusal = InputError("not_found", error.detail, hint=error.hint, param=f"{at}/upload_id")
        raise Invalid([refusal]) from error
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
