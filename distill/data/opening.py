"""The door for uploaded data sets: archives are opened, other kinds of files named. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from distill.data.archive import ACCEPTED, Archive, LongOutline
from distill.data.file_tree import FileTree
from distill.data.parquet_outline import MAGIC as PARQUET
from distill.data.source import Source
from distill.data.spool import Extent, Extents, Spool
from distill.data.tarball import gunzipped, is_tar, tar_members
from distill.errors import InputError

PICKLE_HINT = "Pickles can run code and are never loaded: save the arrays with np.savez_compressed."
_REPACK = "Unpack it and send a zip, a tar or a tar.gz."

# (offset, magic, what it is, how it becomes something we read)
_OTHERS: list[tuple[int, bytes, str, str]] = [
    (0, b"\x93NUMPY", "a single numpy array", "Save images and labels together with np.savez_compressed."),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "Save its arrays with np.savez_compressed."),
    (0, b"\x00\x00\x08\x03", "a single IDX file", "Zip it together with the other three."),
    (0, b"\x00\x00\x08\x01", "a single IDX file", "Zip it together with the other three."),
    (0, b"\x89PNG", "a single PNG image", "Zip the class folders with all images."),
    (0, b"\xff\xd8\xff", "a single JPEG image", "Zip the class folders with all images."),
    (8, b"WEBP", "a single WebP image", "Zip the class folders with all images."),
    (0, b"BM", "a single BMP image", "Zip the class folders with all images."),
    (0, b"GIF8", "a single GIF image", "Zip class folders with JPEG, PNG, WebP or BMP images."),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _REPACK),
    (0, b"Rar!", "a RAR archive", _REPACK),
    (0, b"\xfd7zXZ", "an xz file", _REPACK),
    (0, b"BZh", "a bzip2 file", _REPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", _REPACK),
]


@contextmanager
def open_upload(
    path: Path, *, folder: Path | None = None, at_most: int | None = None, members: int | None = None
) -> Iterator[Source]:
    """The files in the upload at ``path``, after all checks of its directory.

    A single Parquet file counts as an archive of one. A tar.gz is unpacked to a file without a name.

    Args:
        path: the uploaded file; its name does not matter.
        folder: on whose disk that file lies; None: beside the upload.
        at_most: bytes to which a tar.gz is unpacked; None: as many as an archive may hold.
        members: that are listed; None: the same.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file``, or ``unsupported_format`` for any other kind of file.
        LongOutline: there are more than ``at_most`` or ``members``.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise InputError("upload_corrupt", "the file is empty", hint="Upload it again.")
    if start[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        with Archive(path, at_most=members) as archive:
            yield archive
    elif start[:4] == PARQUET:
        yield FileTree({"data.parquet": path})
    elif is_tar(start):
        with path.open("rb") as file:
            yield Extents(file, tar_members(file, Extent(0, path.stat().st_size), at_most=members))
    elif start[:2] == b"\x1f\x8b":
        with path.open("rb") as packed, Spool(folder or path.parent) as spool:
            whole = spool.append(_first(gunzipped(packed), at_most))
            yield Extents(spool.file, tar_members(spool.file, whole, at_most=members))
    else:
        _refuse_other(start)


def _first(chunks: Iterator[bytes], at_most: int | None) -> Iterator[bytes]:
    count = 0
    for chunk in filter(None, chunks):
        if not count and not is_tar(chunk):
            hint = f"It holds no tar: make one of the folder, or send a zip. {ACCEPTED}"
            raise InputError("unsupported_format", "the file is a gzip file of something else than a tar", hint=hint)
        count += len(chunk)
        if at_most is not None and count > at_most:
            raise LongOutline
        yield chunk


def _refuse_other(start: bytes) -> NoReturn:
    kind, hint = "not a zip", ""
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        kind, hint = "a Python pickle", PICKLE_HINT
    for offset, magic, name, advice in _OTHERS:
        if start[offset : offset + len(magic)] == magic:
            kind, hint = name, advice
            break
    raise InputError("unsupported_format", f"the file is {kind}", hint=f"{hint} {ACCEPTED}".strip())
