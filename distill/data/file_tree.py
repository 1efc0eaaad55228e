"""Files of the operator's own, read where they lie, within the limits of an uploaded zip. Standard library only."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO

from distill.data.archive import MAX_MEMBERS, MAX_TOTAL_BYTES, shown
from distill.errors import InputError
from distill.files import sha256_of

_SETTLED_NS = 2 * 10**9
_SMALLER = "Put fewer or smaller files there."


@dataclass(frozen=True, kw_only=True)
class TreeFile:
    """One file as it was when the tree was made."""

    path: Path
    file_size: int
    modified_ns: int

    @property
    def compress_size(self) -> int:
        return self.file_size


class FileTree:
    """Some files under names of their own.

    Args:
        paths: where each lies.

    Raises:
        InputError: ``unsafe_file`` beyond the limits, ``dataset_unreadable`` for what is no readable file.
    """

    files: dict[str, TreeFile]

    def __init__(self, paths: Mapping[str, Path]) -> None:
        if len(paths) > MAX_MEMBERS:
            raise InputError("unsafe_file", f"the folder has more than {MAX_MEMBERS:,} files", hint=_SMALLER)
        self.files = {name: _look(name, path) for name, path in sorted(paths.items())}
        if self.size > MAX_TOTAL_BYTES:
            message = f"the files take {self.size:,} bytes; the limit is {MAX_TOTAL_BYTES:,}"
            raise InputError("unsafe_file", message, hint=_SMALLER)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.file_size for file in self.files.values())

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The file as a stream.

        Raises:
            InputError: ``dataset_unreadable``, also from reads inside the block.
        """
        try:
            with self.files[name].path.open("rb") as stream:
                yield stream
        except OSError as error:
            raise _unreadable(name, error) from error

    def read(self, name: str) -> bytes:
        """The whole file."""
        with self.open(name) as stream:
            return stream.read()

    def digest(self, *, of_contents: bool) -> str:
        """SHA-256 in hex of a list with a line for each file: what is in it, and its name.

        Args:
            of_contents: what is in a file is told by its SHA-256, as ``sha256sum`` lists it; else by its size
                and time, for folders that take minutes to read.
        """
        told = _sha256 if of_contents else _outline
        lines = (f"{told(name, file)}  {name}\n" for name, file in self.files.items())
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def _look(name: str, path: Path) -> TreeFile:
    try:
        name.encode()
        found = path.stat()
        is_file = path.is_file()
    except OSError as error:
        raise _unreadable(name, error) from error
    except UnicodeEncodeError as error:
        message = f"the name {shown(name)} is not in UTF-8"
        raise InputError("dataset_unreadable", message, hint="Name the files in UTF-8.") from error
    if not is_file:
        raise InputError("dataset_unreadable", f"{shown(name)} is no file", hint="Put an ordinary file there.")
    return TreeFile(path=path, file_size=found.st_size, modified_ns=found.st_mtime_ns)


def _sha256(name: str, file: TreeFile) -> str:
    # A file that was written a moment ago may be written again without a new time: clocks of file systems are coarse.
    is_settled = time.time_ns() - file.modified_ns > _SETTLED_NS
    try:
        return _sha256_once(file) if is_settled else sha256_of(file.path)
    except OSError as error:
        raise _unreadable(name, error) from error


@lru_cache(maxsize=256)
def _sha256_once(file: TreeFile) -> str:
    """Hashed again only when its size or its time has changed: every job that names a preset asks."""
    return sha256_of(file.path)


def _outline(_name: str, file: TreeFile) -> str:
    return f"{file.file_size} {file.modified_ns}"


def _unreadable(name: str, error: OSError) -> InputError:
    message = f"{shown(name)} cannot be read: {error.strerror}"
    return InputError("dataset_unreadable", message, hint="The operator gives the service the right to read it.")
