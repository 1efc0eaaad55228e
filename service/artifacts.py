"""Bytes that outlive a process: what was uploaded, what trainers read, what jobs made."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Generator
from functools import cache
from pathlib import Path
from typing import BinaryIO, Protocol

from distill.files import sync
from service.settings import settings

_CHUNK = 2**20
_STALE_SECONDS = 3600.0
"""Of a file that is still being written, no write lies so far back."""


class ArtifactStore(Protocol):
    """Bytes under keys such as ``jobs/dj_.../student-1a2b3c.safetensors``; missing ones raise FileNotFoundError."""

    def put(self, key: str, path: Path) -> tuple[int, str]:
        """Copy a file in, whole or not at all; its size in bytes and its SHA-256 in hex."""
        ...

    def size(self, key: str) -> int:
        """Size in bytes."""
        ...

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Generator[bytes]:
        """The bytes from ``start`` up to ``stop``; opened at the call, so a later deletion does not cut it short;
        to be closed by whoever stops early."""
        ...

    def local_path(self, key: str) -> Path:
        """A file with the bytes, to be read only."""
        ...

    def delete(self, key: str) -> None:
        """Remove; a missing key is no error."""
        ...

    def tidy(self) -> int:
        """Remove what writers left that were killed in the middle; how many."""
        ...


class LocalStore:
    """A folder. Every file arrives under a temporary name, is synced, and is then renamed."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, key: str, path: Path) -> tuple[int, str]:
        target = self._path(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with path.open("rb") as source, temporary.open("wb") as copy:
                size, digest = _copy(source, copy)
                copy.flush()
                os.fsync(copy.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        sync(target.parent)
        return size, digest

    def size(self, key: str) -> int:
        return self._path(key).stat().st_size

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Generator[bytes]:
        handle = self._path(key).open("rb")

        def chunks() -> Generator[bytes]:
            with handle:
                yield b""
                handle.seek(start)
                left = (stop - start) if stop is not None else None
                while left is None or left > 0:
                    chunk = handle.read(_CHUNK if left is None else min(_CHUNK, left))
                    if not chunk:
                        return
                    if left is not None:
                        left -= len(chunk)
                    yield chunk

        opened = chunks()
        next(opened)  # inside its `with`, so that closing it before the first byte closes the file too
        return opened

    def local_path(self, key: str) -> Path:
        path = self._path(key)
        if not path.exists():
            raise FileNotFoundError(key)
        return path

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def tidy(self) -> int:
        stale = [path for path in self._root.rglob(".*.tmp") if time.time() - path.stat().st_mtime > _STALE_SECONDS]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _path(self, key: str) -> Path:
        path = (self._root / key).resolve()
        if not path.is_relative_to(self._root.resolve()):
            raise ValueError(f"{key!r} leaves the store")
        return path


def _copy(source: BinaryIO, target: BinaryIO) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    while chunk := source.read(_CHUNK):
        digest.update(chunk)
        size += len(chunk)
        target.write(chunk)
    return size, digest.hexdigest()


@cache
def store() -> ArtifactStore:
    """The configured store."""
    return LocalStore(settings().artifacts_dir)


def free_bytes() -> int:
    """Room left where artifacts go."""
    folder = settings().data_dir
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free
