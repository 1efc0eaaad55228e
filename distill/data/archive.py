"""An uploaded zip, checked before anything in it is decompressed; the limits of all archives. Standard library only.

Nothing is ever written under a name that the archive gives: members are read as streams.
"""

from __future__ import annotations

import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn, Self

from distill.errors import InputError

MAX_MEMBERS = 200_000
MAX_TOTAL_BYTES = 4 * 2**30
MAX_NAME_LENGTH = 1024
_MAX_RATIO = 200
_FREE_BYTES = 16 * 2**20  # below this a large ratio harms nobody
_MAX_DIRECTORY_BYTES = 64 * 2**20
_ENTRY, _ENTRY_BYTES = b"PK\x01\x02", 46  # how an entry of the directory begins, and what it takes at least
CHUNK_BYTES = 2**20
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_CUT_SHORT = "It is cut short or damaged; compare its size with the original's and upload it again."
_FEWER = "Pack fewer files: Parquet, WebDataset and NPZ hold many images in one."

ACCEPTED = (
    "Send an .npz with x_train, y_train, x_test and y_test, or a zip, tar or tar.gz of the four IDX files of MNIST or "
    "EMNIST, of CIFAR's binary files, of class folders with JPEG, PNG, WebP or BMP images, of images with a "
    "manifest.csv, of WebDataset samples or of Parquet files; images may be without labels. For landmarks send an .npz "
    "with landmarks_train and landmarks_test instead of labels, or an archive with the lists of WFLW or the .pts files "
    "of 300W."
)


class LongOutline(Exception):
    """An archive that is too much for an outline: it has more members, or unpacks to more, than one may take."""


def shown(name: str) -> str:
    """A name from an upload, fit for a message: printable and short."""
    printable = "".join(c if c.isprintable() else "�" for c in name)
    return printable if len(printable) <= 120 else f"{printable[:80]}...{printable[-30:]}"


class Archive:
    """A zip whose directory is sound: plain files of known size under harmless names.

    Args:
        path: the uploaded file, which starts like a zip.
        at_most: so many members are listed; None: as many as an archive may hold.

    Raises:
        InputError: ``upload_corrupt`` when it is cut short or damaged, ``unsafe_file`` for links, encrypted
            members, names that lead elsewhere or sizes beyond the limits, ``unsupported_format`` for
            compression other than deflate.
        LongOutline: there are more than ``at_most``.
    """

    files: dict[str, zipfile.ZipInfo]
    """Every regular file by its name, with ``/`` between folders, in the order of the directory."""

    def __init__(self, path: Path, *, at_most: int | None = None) -> None:
        self._file = _GuardedFile(io.FileIO(path))
        self._file.at_most = min(MAX_MEMBERS, at_most or MAX_MEMBERS)
        try:
            self._zip = _open(self._file)
            self.files = _checked(self._zip.infolist(), path.stat().st_size)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The member as a stream of at most the bytes that the directory promises.

        Raises:
            InputError: ``upload_corrupt``, also from reads inside the block.
        """
        try:
            with self._zip.open(self.files[name]) as stream:
                yield stream
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError) as error:
            raise InputError(
                "upload_corrupt", f"{shown(name)} is damaged: {error}", hint="Make the archive again."
            ) from error

    def read(self, name: str) -> bytes:
        """The whole member; piece by piece, so that one that lies about its size cannot fill the memory."""
        with self.open(name) as stream:
            data = b"".join(iter(lambda: stream.read(CHUNK_BYTES), b""))
            if len(data) != self.files[name].file_size:
                raise EOFError(f"{len(data):,} of {self.files[name].file_size:,} bytes")
            return data


class _GuardedFile(io.BufferedReader):
    """Stops ``zipfile`` from making an object for each of a million entries before we can count them."""

    armed = True
    at_most = MAX_MEMBERS

    def read(self, size: int | None = -1, /) -> bytes:
        if self.armed and size is not None and size > self.at_most * _ENTRY_BYTES:
            self._check_directory(size)
        return super().read(size)

    def _check_directory(self, size: int) -> None:
        """Count the entries of the next ``size`` bytes, piece by piece."""
        if size > _MAX_DIRECTORY_BYTES:
            refuse(f"the archive's directory takes {size:,} bytes", hint=_FEWER)
        start, left, count, end = self.tell(), size, 0, b""
        while left and (data := super().read(min(left, CHUNK_BYTES))):
            left -= len(data)
            count += (end + data).count(_ENTRY)
            end = data[1 - len(_ENTRY) :]
        if count > MAX_MEMBERS:
            refuse(f"the archive has more than {MAX_MEMBERS:,} members", hint=_FEWER)
        if count > self.at_most:
            raise LongOutline
        self.seek(start)


def _open(file: _GuardedFile) -> zipfile.ZipFile:
    try:
        opened = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, OSError) as error:
        raise InputError(
            "upload_corrupt",
            f"the archive cannot be opened: {error}",
            hint=_CUT_SHORT,
        ) from error
    file.armed = False
    return opened


def _checked(members: list[zipfile.ZipInfo], archive_bytes: int) -> dict[str, zipfile.ZipInfo]:
    files: dict[str, zipfile.ZipInfo] = {}
    for info in members:
        name = safe_name(info.orig_filename)
        _check_kind(info)
        if info.is_dir() or name.endswith("/"):
            continue
        if name in files:
            refuse(f"{shown(name)} is in the archive twice")
        if info.header_offset < 0 or info.header_offset + info.compress_size > archive_bytes:
            raise InputError("upload_corrupt", f"{shown(name)} lies outside of the archive", hint=_CUT_SHORT)
        files[name] = info
    _check_total(files, archive_bytes)
    return files


def safe_name(written: str) -> str:
    """A member's name with ``/`` between folders and without ``./``; that of a folder ends in ``/``.

    Raises:
        InputError: ``unsafe_file`` when it leads out of the archive, is empty or too long, or holds NUL.
    """
    name = written.replace("\\", "/")
    if "\0" in name or len(name) > MAX_NAME_LENGTH or not name:
        refuse(f"a member's name is not usable: {shown(name)}")
    parts = name.split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
        refuse(f"a member's name leads out of the archive: {shown(name)}")
    plain = "/".join(part for part in parts if part not in ("", "."))
    return plain if parts[-1] not in ("", ".") else f"{plain}/"


def _check_kind(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        refuse(f"{shown(info.filename)} is a link or a device")
    if info.flag_bits & _ENCRYPTED:
        refuse(f"{shown(info.filename)} is encrypted", hint="Make the archive without a password.")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise InputError(
            "unsupported_format",
            f"{shown(info.filename)} is compressed by method {info.compress_type}",
            hint="Make the zip with the usual method, deflate.",
        )


def _check_total(files: dict[str, zipfile.ZipInfo], archive_bytes: int) -> None:
    total = sum(info.file_size for info in files.values())
    if total > MAX_TOTAL_BYTES:
        refuse(f"the archive unpacks to {total:,} bytes; the limit is {MAX_TOTAL_BYTES:,}")
    check_ratio(archive_bytes, total, of="the archive")
    if sum(info.compress_size for info in files.values()) > archive_bytes:
        refuse("members of the archive share the same bytes")


def check_ratio(packed: int, unpacked: int, *, of: str) -> None:
    """Refuse what unpacks to far more than it takes: images are compressed already, only a bomb shrinks like this.

    Raises:
        InputError: ``unsafe_file``.
    """
    if unpacked > _FREE_BYTES and unpacked > _MAX_RATIO * packed:
        hint = "Leave out what is not part of the data set, or save it in the usual way."
        refuse(f"{packed:,} bytes of {of} unpack to {unpacked:,}", hint=hint)


def refuse(message: str, *, hint: str = "Make the archive again, of plain files alone.") -> NoReturn:
    """Refuse an archive that means harm, or looks as if it did.

    Raises:
        InputError: ``unsafe_file``.
    """
    raise InputError("unsafe_file", message, hint=hint)
