"""Bringing a file here from elsewhere: piece by piece, going on after a cut, within limits of size and time."""

from __future__ import annotations

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from distill.errors import InputError
from service import egress
from service.egress import Target, Unreachable

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.5, 30.0
_PACE_SECONDS, _PACE_BYTES = 60.0, 60 * 1024
"""A sender of less than 1 KiB/s holds up those who wait behind it."""
_RETRIED = (408, 425, 429, 500, 502, 503, 504)


class NoRest(Unreachable):
    """The rest of a file is not to be had, or is of another version: all of it has to be asked for again."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one file may take: bytes, seconds in all, and tries in a row that bring nothing.

    ``code`` is that of the refusal of more bytes: ``too_large``, or ``quota_exceeded`` where that is the nearer bound.
    """

    size: int
    total_seconds: float
    code: str = "too_large"
    tries: int = 5


@dataclass(frozen=True, kw_only=True)
class Piece:
    """The rest of a file, or all of it where the other side gives no rest.

    Attributes:
        start: which byte of the file comes first.
        total: the file's size in bytes, if it is told.
        etag: of the file, as it was sent.
        validator: what to name when asking for the rest, so that it is of the same file; None: there is no such thing.
        body: the bytes; raises :class:`service.egress.Unreachable` when the line breaks.
    """

    start: int
    total: int | None
    etag: str | None
    validator: str | None
    body: Iterator[bytes]


class Remote(Protocol):
    """A file elsewhere."""

    @property
    def name(self) -> str:
        """Of its host or bucket, for messages."""
        ...

    def open(self, start: int, validator: str | None, *, seconds: float) -> contextlib.AbstractContextManager[Piece]:
        """Ask for the file from a byte on, for so many seconds at most.

        Raises:
            InputError: it is not to be had.
            Unreachable: not now; or :class:`NoRest`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What has been brought: ``size`` in bytes, ``sha256`` in hex, and the other side's ``etag``."""

    size: int
    sha256: str
    etag: str | None


Progress = Callable[[int, int | None], None]
"""Is told the bytes so far, and the total if it is known."""


def fetch(
    remote: Remote, target: Path, *, limits: Limits, sha256: str | None = None, on_progress: Progress = lambda *_: None
) -> Fetched:
    """Bring a file to ``target``.

    Raises:
        InputError: ``dataset_unreadable``, it is not to be had; the limits' ``code``; ``upload_corrupt``, it is empty
            or its SHA-256 is not ``sha256``; ``invalid_value``, its host is not asked.
    """
    with target.open("wb") as file:
        arriving = _Arriving(file, limits, on_progress)
        _repeatedly(remote, arriving)
    digest = arriving.digest.hexdigest()
    if sha256 is not None and digest != sha256.lower():
        message = f"The SHA-256 of what {remote.name} sent is {digest}, announced was {sha256.lower()}."
        raise InputError("upload_corrupt", message, hint="Is it the right version of the file?")
    if arriving.size == 0:
        raise InputError("upload_corrupt", f"{remote.name} sent an empty file.", hint="Is the URL right?")
    return Fetched(size=arriving.size, sha256=digest, etag=arriving.etag)


def _repeatedly(remote: Remote, arriving: _Arriving) -> None:
    """Ask until all has come, with longer pauses the longer nothing does."""
    failures, farthest = 0, 0
    while True:
        try:
            with remote.open(arriving.size, arriving.validator, seconds=arriving.seconds_left()) as piece:
                arriving.take(piece)
            return
        except Unreachable as failure:
            if isinstance(failure, NoRest):
                arriving.validator = None
            failures = failures + 1 if arriving.size <= farthest else 1
            farthest = max(farthest, arriving.size)
            if failures >= arriving.limits.tries:
                message = f"{failure} Nothing more came in {failures} tries; {arriving.size} bytes had come."
                hint = "Try again later, or upload the file."
                raise InputError("dataset_unreadable", message, hint=hint) from failure
            pause = min(_FIRST_PAUSE_SECONDS * 2 ** (failures - 1), _LONGEST_PAUSE_SECONDS)
            time.sleep(min(pause, arriving.seconds_left()))


class _Arriving:
    """The file as far as it has come, and its hash."""

    def __init__(self, file: BinaryIO, limits: Limits, on_progress: Progress) -> None:
        self.file, self.limits, self.on_progress = file, limits, on_progress
        self.validator: str | None = None
        self.etag: str | None = None
        self._deadline = time.monotonic() + limits.total_seconds
        self._begin_anew()

    def _begin_anew(self) -> None:
        self.size, self.digest = 0, hashlib.sha256()
        self.file.seek(0)
        self.file.truncate()

    def seconds_left(self) -> float:
        """Until it has taken too long.

        Raises:
            InputError: ``dataset_unreadable``, it has.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            message = f"Fetching took more than {self.limits.total_seconds:g} s; {self.size} bytes had come."
            hint = "Upload the file, or have the operator set LIMBECK_REMOTE_MAX_SECONDS."
            raise InputError("dataset_unreadable", message, hint=hint)
        return left

    def take(self, piece: Piece) -> None:
        """Append a piece, or begin anew with it.

        Raises:
            Unreachable: the line broke, or it is too slow to be waited for.
        """
        if piece.start == self.size > 0 and piece.etag != self.etag:
            raise NoRest("The file changed while it was fetched.")
        if piece.start != self.size:
            self._begin_anew()
        self.etag, self.validator = piece.etag, piece.validator
        self._check_size(piece.total or 0)
        self.on_progress(self.size, piece.total)
        began, before = time.monotonic(), self.size
        for chunk in piece.body:
            self.file.write(chunk)
            self.digest.update(chunk)
            self.size += len(chunk)
            self._check_size(self.size)
            self.on_progress(self.size, piece.total)
            self.seconds_left()
            if (now := time.monotonic()) - began > _PACE_SECONDS:
                if self.size - before < _PACE_BYTES:
                    raise Unreachable(f"Less than {_PACE_BYTES / _PACE_SECONDS:.0f} bytes a second came.")
                began, before = now, self.size
        if piece.total is not None and self.size < piece.total:
            raise Unreachable(f"The line ended after {self.size} of {piece.total} bytes.")

    def _check_size(self, size: int) -> None:
        if size > self.limits.size:
            message = f"The file has {size} bytes or more; there is room for {self.limits.size}."
            hint = "Split it; the operator sets LIMBECK_MAX_UPLOAD_BYTES and LIMBECK_UPLOAD_QUOTA_BYTES."
            raise InputError(self.limits.code, message, hint=hint)


@dataclass(frozen=True, kw_only=True)
class HttpsFile:
    """A file behind an https URL."""

    target: Target
    idle_seconds: float
    resolver: egress.Resolver = egress.resolve

    @property
    def name(self) -> str:
        return self.target.authority

    @contextlib.contextmanager
    def open(self, start: int, validator: str | None, *, seconds: float) -> Iterator[Piece]:
        """See :class:`Remote`."""
        # Without a validator the rest might be of another version: all is asked for again.
        headers = {"Range": f"bytes={start}-", "If-Range": validator} if start and validator else {}
        idle = self.idle_seconds
        limits = egress.Limits(connect=min(10.0, idle), headers=idle, idle=idle, total=seconds)
        with egress.request("GET", self.target, headers=headers, limits=limits, resolver=self.resolver) as answer:
            self._check(answer)
            etag = answer.headers.get("etag")
            is_strong = etag is not None and not etag.startswith("W/")
            first, total = _extent(answer)
            if answer.status == 206 and first != start:
                raise NoRest(f"{self.name} sent another part than it was asked for.")
            yield Piece(
                start=first,
                total=total,
                etag=etag,
                validator=etag if is_strong else answer.headers.get("last-modified"),
                body=answer.body,
            )

    def _check(self, answer: egress.Answer) -> None:
        status = answer.status
        if status in _RETRIED:
            raise Unreachable(f"{self.name} answered {status}.")
        if status == 416:
            raise NoRest(f"{self.name} has nothing from there on.")
        if 300 <= status < 400:
            hint = "Give the address that it leads to (curl -sIL URL shows it), or upload the file."
            message = f"{self.name} redirects ({status}), which is not followed."
            raise InputError("dataset_unreadable", message, hint=hint)
        if status not in (200, 206):
            hint = "The file must be there for everyone, or by a signed URL that is still valid."
            raise InputError("dataset_unreadable", f"{self.name} answered {status}.", hint=hint)
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            message = f"{self.name} sends the file in another coding than was asked for."
            raise InputError("dataset_unreadable", message, hint="Upload the file.")


def _extent(answer: egress.Answer) -> tuple[int, int | None]:
    """The first byte's place, and the whole file's size if it is told."""
    if answer.status == 206:
        found = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", answer.headers.get("content-range", ""))
        if found is None:
            return -1, None
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = answer.headers.get("content-length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None
