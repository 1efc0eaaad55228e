"""An upload that survives a broken connection: tus 1.0, in pieces, checked by length and sha256 at the other end.

What was begun is noted below ``$XDG_STATE_HOME/limbeck``, so that a later call with the same file goes on from there.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, cast

from limbeck.download import OnProgress
from limbeck.errors import ApiError, Unreachable
from limbeck.results import Upload
from limbeck.transport import WORTH_WAITING, Body, Transport, backoff

Purpose = Literal["teacher", "dataset", "student_init"]
_PIECE = 2**26
_CHUNK = 2**18
_PASSING = {408, 409, *WORTH_WAITING}
"""Refusals that a look at the offset and another try may mend."""


def upload(
    transport: Transport,
    path: Path,
    *,
    purpose: Purpose,
    on_progress: OnProgress | None = None,
    patience: float = 120.0,
) -> Upload:
    """Send a file, from where an earlier call broke off; the completed upload.

    Args:
        on_progress: is told the bytes so far, those of an earlier call included, and the total.
        patience: seconds without a byte arriving, before the error is raised. Longer than the minute after which
            the service lets go of a sender that is silent.

    Raises:
        ApiError: the service refused.
        Unreachable: the connection broke too often; what arrived is kept for the next call.
    """
    size, digest = path.stat().st_size, sha256_of(path)
    note = _Note(transport, f"{purpose} {digest}")
    begun = note.read() or _announce(transport, path.name, size=size, purpose=purpose, digest=digest)
    note.write(begun["id"])
    where = f"/uploads/{begun['id']}"
    _send_rest(transport, where, path, size=size, on_progress=on_progress, patience=patience)
    try:
        done = cast(Upload, transport.json("POST", f"{where}/complete"))
    except ApiError as error:
        if error.code == "upload_corrupt":  # the file was changed meanwhile: going on would never mend it
            note.forget()
        raise
    note.forget()
    return done


def _announce(transport: Transport, name: str, *, size: int, purpose: Purpose, digest: str) -> Upload:
    body = {"filename": name, "bytes": size, "purpose": purpose, "sha256": digest}
    return cast(Upload, transport.json("POST", "/uploads", body=body))


def _send_rest(
    transport: Transport, where: str, path: Path, *, size: int, on_progress: OnProgress | None, patience: float
) -> None:
    held, heard, failures = -1, time.monotonic(), 0
    while True:
        try:
            offset = _offset(transport, where)
            if offset > held:
                held, heard, failures = offset, time.monotonic(), 0
            if offset >= size:
                return
            _send_piece(transport, where, path, offset=offset, size=size, on_progress=on_progress)
        except (ApiError, Unreachable) as error:
            passes = isinstance(error, Unreachable) or error.status in _PASSING
            if not passes or time.monotonic() - heard > patience:
                raise
            time.sleep(backoff(failures))
            failures += 1


def _send_piece(
    transport: Transport, where: str, path: Path, *, offset: int, size: int, on_progress: OnProgress | None
) -> None:
    length = min(_PIECE, size - offset)
    headers = {
        "Content-Type": "application/offset+octet-stream",
        "Content-Length": str(length),
        "Tus-Resumable": "1.0.0",
        "Upload-Offset": str(offset),
    }
    content = _reader(path, offset, length, size, on_progress)
    transport.send("PATCH", where, headers=headers, content=content)


def _reader(path: Path, offset: int, length: int, size: int, on_progress: OnProgress | None) -> Body:
    def read() -> Iterator[bytes]:
        done, end = offset, offset + length
        with path.open("rb") as handle:
            handle.seek(offset)
            while chunk := handle.read(min(_CHUNK, end - done)):
                yield chunk
                done += len(chunk)
                if on_progress:
                    on_progress(done, size)

    return read


def _offset(transport: Transport, where: str) -> int:
    answer = transport.send("HEAD", where, headers={"Tus-Resumable": "1.0.0"})
    return int(answer.headers["Upload-Offset"])


class _Note:
    """Which upload of a service has begun to take a file; one small file each, so that no two calls disturb another."""

    def __init__(self, transport: Transport, what: str) -> None:
        self._transport = transport
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        name = hashlib.sha256(f"{transport.url} {what}".encode()).hexdigest()
        self._path = Path(state) / "limbeck" / "uploads" / name

    def read(self) -> Upload | None:
        """The upload, if it still takes bytes."""
        try:
            upload_id = self._path.read_text(encoding="utf-8").strip()
        except OSError:
            return None
        try:
            found = cast(Upload, self._transport.json("GET", f"/uploads/{upload_id}"))
        except ApiError as error:
            if error.status not in (404, 410):
                raise
            return None
        return found if found["status"] == "pending" else None

    def write(self, upload_id: str) -> None:
        """Note it; where that cannot be, only the next call is the worse for it."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(upload_id, encoding="utf-8")
        except OSError:
            return

    def forget(self) -> None:
        """Remove the note."""
        self._path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The file's sha256 as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
