"""Files by name, to be read as streams: what a checked zip and an operator's folder have in common."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import IO, Protocol


class Member(Protocol):
    """One file: its bytes, and the bytes that it takes where it lies."""

    @property
    def file_size(self) -> int: ...

    @property
    def compress_size(self) -> int: ...


class Source(Protocol):
    """See the module; names have ``/`` between folders. Reading raises only InputError for what is wrong inside."""

    @property
    def files(self) -> Mapping[str, Member]: ...

    def open(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """The file as a stream."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file."""
        ...
