"""The members of a tar, by our own reading of its headers: plain files under harmless names. Standard library only.

Format: blocks of 512 bytes. A header, then the member's bytes padded to a whole block; two blocks of zeros at the end.
POSIX.1-2001 (pax) puts long names and sizes into a member of type ``x`` before the one that they are of, GNU tar puts
long names into one of type ``L``. Source: https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple, NoReturn

from distill.data.archive import MAX_MEMBERS, MAX_TOTAL_BYTES, LongOutline, check_ratio, refuse, safe_name, shown
from distill.data.spool import Extent, window
from distill.errors import InputError

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_MAX_META_BYTES = 2**20
_MAX_META_LINES = 64
_FILES = (b"0", b"\0", b"7")
_FOLDER, _PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"5", b"x", b"g", b"L", b"K", b"S"
_NO_SPARSE = "Make the archive without --sparse."

_GZIP_CHUNK = 2**16
_MAX_GZIP_MEMBERS = 100_000


class _Header(NamedTuple):
    name: str
    size: int
    kind: bytes


def is_tar(start: bytes) -> bool:
    """Whether a file that starts so is a tar: by POSIX's and GNU's mark, else, of those before, by the checksum."""
    checksum = start[148:156].strip(b" \0")
    is_old = len(start) >= _BLOCK and bool(checksum) and not checksum.strip(b"01234567")
    return start[257:262] == b"ustar" or (is_old and int(checksum, 8) == _sum(start[:_BLOCK]))


def tar_members(file: IO[bytes], whole: Extent, *, at_most: int | None = None) -> dict[str, Extent]:
    """Every regular file of a tar by its name, in the order of the archive; no member is read.

    Args:
        file: an open file.
        whole: which part of it is the tar.
        at_most: so many headers are read, descriptions' included; None: as many as an archive may hold.

    Raises:
        InputError: ``unsafe_file`` for links, devices, sparse files, names that lead elsewhere or come twice, and
            more than the limits allow; ``upload_corrupt`` when it is cut short or damaged.
        LongOutline: there are more than ``at_most``.
    """
    files: dict[str, Extent] = {}
    total = 0
    with window(file, whole) as stream:
        for header, start in _walk(stream, whole.file_size, at_most):
            if header.kind == _FOLDER:
                continue
            _check_kind(header)
            name = safe_name(header.name)
            if name.endswith("/"):
                continue
            if name in files:
                refuse(f"{shown(name)} is in the archive twice")
            total += header.size
            if total > MAX_TOTAL_BYTES:
                refuse(f"the archive unpacks to more than {MAX_TOTAL_BYTES:,} bytes", hint="Send fewer images.")
            files[name] = Extent(whole.offset + start, header.size)
    return files


def gunzipped(stream: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a gzip file, piece by piece.

    Raises:
        InputError: ``unsafe_file`` when they are more than 200 times those of the file, ``upload_corrupt``.
    """
    unpacked = read = 0
    data = b""
    # zlib itself, since the gzip module goes through any number of empty members in one call.
    for _ in range(_MAX_GZIP_MEMBERS):
        unpacker = zlib.decompressobj(wbits=31)
        while not unpacker.eof:
            if not data:
                data = stream.read(_GZIP_CHUNK)
                read += len(data)
                if not data:
                    _corrupt("the gzip file is cut short")
            try:
                chunk = unpacker.decompress(data, 2**20)
            except zlib.error as error:
                _corrupt(f"the gzip file is damaged: {error}")
            data = unpacker.unconsumed_tail
            unpacked += len(chunk)
            check_ratio(read, unpacked, of="the gzip file")
            yield chunk
        data = unpacker.unused_data.lstrip(b"\0")
        if not data:
            data = stream.read(_GZIP_CHUNK).lstrip(b"\0")
            read += len(data)
        if not data:
            return
    refuse(f"the gzip file has more than {_MAX_GZIP_MEMBERS:,} parts")


def _walk(stream: IO[bytes], whole: int, at_most: int | None) -> Iterator[tuple[_Header, int]]:
    """Every member that is no description of another, and where its bytes start."""
    name: str | None = None
    longer: int | None = None
    count = at = 0
    while (block := stream.read(_BLOCK)) != _ZEROS:
        if len(block) < _BLOCK:
            _corrupt("the tar ends without its end mark")
        count += 1
        if count > MAX_MEMBERS:
            refuse(f"the archive has more than {MAX_MEMBERS:,} members", hint="Split it.")
        if at_most is not None and count > at_most:
            raise LongOutline
        header = _parse(block)
        at += _BLOCK
        if header.kind in (_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK):
            text = _description(stream, header)
            if header.kind == _LONG_NAME:
                name = _text(text.rstrip(b"\0"))
            elif header.kind == _PAX:
                records = _pax_records(text)
                name, longer = records.get("path", name), _pax_size(records)
        else:
            size = header.size if longer is None else longer
            header = _Header(header.name if name is None else name, 0 if header.kind == _FOLDER else size, header.kind)
            name = longer = None
            if at + header.size > whole:
                _corrupt(f"{shown(header.name)} goes on behind the end of the tar")
            yield header, at
        if header.size:
            at += -(-header.size // _BLOCK) * _BLOCK
            stream.seek(at)


def _parse(block: bytes) -> _Header:
    if _number(block[148:156]) != _sum(block):
        _corrupt("a header of the tar has a wrong checksum")
    name = block[:100].partition(b"\0")[0]
    # GNU's own headers keep other things where POSIX has the first part of a long name.
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    return _Header(_text(name), _number(block[124:136]), block[156:157])


def _sum(block: bytes) -> int:
    """The checksum of a header, in which its own field counts as blanks."""
    return sum(block) - sum(block[148:156]) + 8 * ord(" ")


def _number(field: bytes) -> int:
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    digits = field.strip(b" \0") or b"0"
    if digits.strip(b"01234567"):
        _corrupt("a number in a header of the tar cannot be read")
    return int(digits, 8)


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin1")


def _description(stream: IO[bytes], header: _Header) -> bytes:
    if header.size > _MAX_META_BYTES:
        refuse(f"the description of a member takes {header.size:,} bytes")
    text = stream.read(header.size)
    if len(text) < header.size:
        _corrupt("the tar is cut short")
    return text


def _pax_records(text: bytes) -> dict[str, str]:
    """Records of the form ``length key=value`` with a line's end, where the length counts itself."""
    records: dict[str, str] = {}
    at = count = 0
    while at < len(text):
        count += 1
        if count > _MAX_META_LINES:
            refuse(f"the description of a member has more than {_MAX_META_LINES} lines")
        digits, space, _ = text[at : at + 12].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = text[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not equals or record[-1:] != b"\n" or len(record) != length:
            _corrupt("the description of a member cannot be read")
        if key.startswith(b"GNU.sparse"):
            refuse("a member is a sparse file", hint=_NO_SPARSE)
        records[_text(key)] = _text(value)
        at += length
    return records


def _pax_size(records: dict[str, str]) -> int | None:
    size = records.get("size")
    if size is None:
        return None
    if not (size.isascii() and size.isdigit() and len(size) <= 20):
        _corrupt("the size of a member cannot be read")
    return int(size)


def _check_kind(header: _Header) -> None:
    if header.kind == _SPARSE:
        refuse(f"{shown(header.name)} is a sparse file", hint=_NO_SPARSE)
    if header.kind not in _FILES:
        hint = "Make it with tar --dereference --hard-dereference, which puts the files themselves in place of links."
        refuse(f"{shown(header.name)} is a link or a device", hint=hint)


def _corrupt(message: str) -> NoReturn:
    hint = "It is cut short or damaged; compare its size with the original's and upload it again."
    raise InputError("upload_corrupt", message, hint=hint)
