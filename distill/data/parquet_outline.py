"""What can be said of a Parquet file without a reader of them. Standard library only.

Format: ``PAR1``, the data, the description of the file, its length in four bytes, ``PAR1``.
Source: https://parquet.apache.org/docs/file-format/.
"""

from __future__ import annotations

from distill.data.archive import check_ratio, refuse, shown
from distill.data.folder_layout import is_junk
from distill.data.source import Source
from distill.errors import InputError

MAGIC = b"PAR1"
_MAX_FOOTER_BYTES = 16 * 2**20


def is_parquet(name: str) -> bool:
    """Whether the name is that of a Parquet file, and not junk."""
    return name.lower().endswith(".parquet") and not is_junk(name)


def check_ends(start: bytes, end: bytes, size: int, member: str) -> None:
    """Whether a file begins and ends as it should, and describes itself in as much as it needs.

    Args:
        start: its first four bytes.
        end: its last eight.
        size: bytes of the whole.
        member: its name.

    Raises:
        InputError: ``upload_corrupt`` or ``unsafe_file``.
    """
    length = int.from_bytes(end[:4], "little")
    if start != MAGIC or end[4:] != MAGIC or length + 12 > size:
        raise InputError(
            "upload_corrupt",
            f"{shown(member)} is no whole Parquet file",
            hint="It is cut short or damaged; compare its size with the original's and upload it again.",
        )
    if length > _MAX_FOOTER_BYTES:
        refuse(f"{shown(member)} describes itself in {length:,} bytes", hint="Write it with fewer row groups.")


def check_parquet(source: Source) -> None:
    """Whether no file is a bomb; and their ends, of those that lie uncompressed.

    Raises:
        InputError: ``upload_corrupt`` or ``unsafe_file``.
    """
    for name in filter(is_parquet, source.files):
        info = source.files[name]
        check_ratio(info.compress_size, info.file_size, of=shown(name))
        if info.compress_size == info.file_size:
            with source.open(name) as stream:
                start = stream.read(4)
                stream.seek(max(0, info.file_size - 8))
                check_ends(start, stream.read(8), info.file_size, name)
