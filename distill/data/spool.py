"""Pieces of one open file, read at any place. Standard library only."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from distill.data.archive import MAX_TOTAL_BYTES, refuse


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a piece lies, in bytes from the file's start, and how many bytes it has."""

    offset: int
    file_size: int

    @property
    def compress_size(self) -> int:
        return self.file_size


class Extents:
    """Pieces of one open file under names of their own: a :class:`distill.data.source.Source`."""

    def __init__(self, file: IO[bytes], files: Mapping[str, Extent]) -> None:
        self._file = file
        self.files = files

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The piece as a stream that can be sought in."""
        with window(self._file, self.files[name]) as stream:
            yield stream

    def read(self, name: str) -> bytes:
        """The whole piece."""
        with self.open(name) as stream:
            return stream.read()


class Spool:
    """A file without a name, to which streams are copied that have to be read more than once.

    Args:
        folder: on whose disk it lies; nothing shows there, and nothing is left however the process ends.
    """

    def __init__(self, folder: Path) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed with the spool)
        self.size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def append(self, chunks: Iterable[bytes]) -> Extent:
        """Copy a stream to the end.

        Raises:
            InputError: ``unsafe_file`` when everything together is more than an archive may hold.
        """
        start = self.size
        for chunk in chunks:
            self.size += len(chunk)
            if self.size > MAX_TOTAL_BYTES:
                refuse(
                    f"the archive unpacks to more than {MAX_TOTAL_BYTES:,} bytes", hint="Send fewer or smaller images."
                )
            self.file.write(chunk)
        # Windows read past the buffer, by the descriptor.
        self.file.flush()
        return Extent(start, self.size - start)


def window(file: IO[bytes], extent: Extent) -> io.BufferedReader:
    """A piece of an open file as a stream; closing it leaves the file open."""
    return io.BufferedReader(_Window(file.fileno(), extent))


class _Window(io.RawIOBase):
    def __init__(self, descriptor: int, extent: Extent) -> None:
        self._descriptor = descriptor
        self._extent = extent
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._extent.file_size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._extent.file_size - self._at))
        data = os.pread(self._descriptor, wanted, self._extent.offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
