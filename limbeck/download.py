"""A download that survives a broken connection, and is what the service has: ranges, and a digest at the end.

The bytes go to ``NAME.part`` and the entity's tag to ``NAME.part.etag``; a later call goes on from there
(RFC 9110, If-Range). The whole is checked against ``Repr-Digest`` (RFC 9530) before it gets its name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from limbeck.errors import ApiError, DownloadError
from limbeck.transport import Transport, backoff

OnProgress = Callable[[int, int | None], None]

_CHUNK = 2**18
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]+):")
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class _Promise:
    """What the headers say about the whole file."""

    sha256: bytes
    total: int | None
    etag: str


def download(
    transport: Transport,
    url: str,
    *,
    path: Path,
    on_progress: OnProgress | None = None,
    retries: int = 6,
) -> str:
    """Fetch ``url`` into ``path``; the sha256 as hex.

    Args:
        on_progress: is told the bytes so far, those of an earlier call included, and the total if known.
        retries: how often a connection may break without a single byte in between.

    Raises:
        ApiError: the service refused.
        Unreachable: the connection broke too often; what came is kept for the next call.
        DownloadError: the digest is missing or differs; then nothing is kept.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, failures = Part(path), 0
    while True:
        before = part.size
        try:
            promise = _fetch(transport, url, part, on_progress)
            break
        except httpx.TransportError as error:
            failures = 0 if part.size > before else failures + 1
            if failures > retries:
                raise transport.unreachable(error) from error
            time.sleep(backoff(failures))
        except ApiError as error:
            # 416: the part is not shorter than the file, so it cannot be a piece of it.
            if error.status != 416 or before == 0:
                raise
            part.discard()
    return part.finish(promise)


def _fetch(transport: Transport, url: str, part: Part, on_progress: OnProgress | None) -> _Promise:
    """One request: append what comes, or begin anew when the service sends the whole."""
    headers = {"Accept-Encoding": "identity"}
    if part.size and part.etag:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.etag}
    with transport.stream(url, headers=headers) as answer:
        start, total = _extent(answer)
        promise = _Promise(_digest(answer), total, answer.headers.get("ETag", ""))
        part.begin(at=start, etag=promise.etag)
        with part.path.open("ab") as handle:
            for chunk in answer.iter_raw(_CHUNK):
                handle.write(chunk)
                handle.flush()
                if on_progress:
                    on_progress(part.size, total)
    if total is not None and part.size < total:
        raise httpx.RemoteProtocolError(f"the answer ended at {part.size} of {total} bytes")
    return promise


class Part:
    """The unfinished file and the tag of what it is a piece of."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self._etag_path = target.with_name(target.name + ".part.etag")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def etag(self) -> str:
        return self._etag_path.read_text() if self._etag_path.exists() else ""

    def begin(self, *, at: int, etag: str) -> None:
        """Make ready to append at an offset."""
        if at == 0:
            self.discard()
            self._etag_path.write_text(etag)
            self.path.touch()
        elif at != self.size:
            self.discard()
            raise httpx.RemoteProtocolError(f"asked to go on elsewhere than at byte {at}")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self._etag_path.unlink(missing_ok=True)

    def finish(self, promise: _Promise) -> str:
        """Check the whole and give it its name; the sha256 as hex.

        Raises:
            DownloadError: it is not what was promised.
        """
        with self.path.open("rb+") as handle:
            found = hashlib.file_digest(handle, "sha256")
            os.fsync(handle.fileno())
        if found.digest() != promise.sha256:
            self.discard()
            raise DownloadError(
                f"{self.target.name}: sha256 is {found.hexdigest()}, the service promised "
                f"{promise.sha256.hex()}; nothing was kept, download it again"
            )
        self.path.replace(self.target)
        self._etag_path.unlink(missing_ok=True)
        return found.hexdigest()


def _extent(answer: httpx.Response) -> tuple[int, int | None]:
    """Where the answer's bytes begin, and how long the whole is."""
    if answer.status_code == 206:
        match = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if match is None:
            raise DownloadError(f"unreadable Content-Range: {answer.headers.get('Content-Range')!r}")
        return int(match[1]), int(match[3])
    length = answer.headers.get("Content-Length")
    return 0, int(length) if length else None


def _digest(answer: httpx.Response) -> bytes:
    match = _DIGEST.search(answer.headers.get("Repr-Digest", ""))
    if match is None:
        raise DownloadError("the answer carries no Repr-Digest, so the download could not be checked")
    try:
        return base64.b64decode(match[1], validate=True)
    except binascii.Error as error:
        raise DownloadError(f"unreadable Repr-Digest: {match[0]}") from error
