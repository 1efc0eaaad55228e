"""Safetensors files by our own hand: headers of untrusted ones, and whole new ones. Free of torch.

Reading: the library accepts duplicate keys and a header of 27 MB that takes it four seconds; an untrusted
file is held to tighter limits before any library touches its bytes. Writing: the library orders metadata
differently each time, so that equal contents have different hashes; here equal contents are equal files.
Format: 8 bytes little-endian header length, JSON, data.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from distill.errors import InputError
from distill.files import sync

MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 20_000
MAX_RANK = 8
MAX_NUMBERS = 2**48
_MAX_PARTS = 500_000  # of JSON in a header: 20,000 tensors need fewer, and each takes up to a hundred bytes of memory
ITEM_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True, kw_only=True)
class Header:
    """Names in file order with their shapes, types and places, and the free-form metadata."""

    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    places: dict[str, tuple[int, int]]
    """Where a tensor's bytes begin and end, counted from the file's start."""
    metadata: dict[str, str]


@dataclass(frozen=True)
class _Entry:
    """What a header says of one tensor; its place is counted from the header's end."""

    shape: tuple[int, ...]
    dtype: str
    begin: int
    stop: int


def read_header(path: Path) -> Header:
    """Read and check a safetensors header.

    Raises:
        InputError: ``upload_corrupt`` when bytes are missing, ``unsupported_format`` when it is another
            kind of file, ``unsafe_file`` when it goes beyond the limits.
    """
    with path.open("rb") as file:
        return header_of(file, size=path.stat().st_size)


def header_of(stream: IO[bytes], *, size: int) -> Header:
    """The same of a stream at the file's start, of which no more than the header is read.

    Args:
        stream: of ``size`` bytes in all.
    """
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    _check_start(start, length, size)
    raw = stream.read(length)
    if len(raw) < length:
        _refuse("upload_corrupt", f"the header ends after {len(raw)} of {length} bytes", "Upload it again.")
    data_bytes = size - 8 - length
    entries, metadata = _checked(_parse(raw), data_bytes)
    return Header(
        shapes={name: entry.shape for name, entry in entries.items()},
        dtypes={name: entry.dtype for name, entry in entries.items()},
        places={name: (8 + length + entry.begin, 8 + length + entry.stop) for name, entry in entries.items()},
        metadata=metadata,
    )


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written.

    Attributes:
        dtype: in the format's words, such as ``F32``.
        shape: its sizes.
        pieces: its items, little-endian, in contiguous pieces; taken once, so that they may be made on the way.
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: Iterable[memoryview]


def write(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> str:
    """Write a file, whole or not at all; its SHA-256 in hex.

    Tensors are laid out in the order given; large items first keeps them aligned.
    """
    digest = hashlib.sha256()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            header = _header(tensors, metadata)
            for data in itertools.chain([memoryview(header)], *(t.pieces for t in tensors.values())):
                file.write(data)
                digest.update(data)
            file.flush()
            if file.tell() != (promised := len(header) + sum(_bytes_of(t) for t in tensors.values())):
                raise ValueError(f"{file.tell()} bytes were given, the shapes take {promised}")
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)
    return digest.hexdigest()


def size_of(shapes: Mapping[str, tuple[str, tuple[int, ...]]]) -> int:
    """Bytes of a file without metadata of tensors of these types and shapes, by name; at most 7 too many."""
    tensors = {name: Tensor(dtype, shape, ()) for name, (dtype, shape) in shapes.items()}
    return len(_header(tensors, {})) + sum(map(_bytes_of, tensors.values()))


def _bytes_of(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * ITEM_BYTES[tensor.dtype]


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + _bytes_of(tensor)
        entries[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _check_start(start: bytes, length: int, size: int) -> None:
    if length > MAX_HEADER_BYTES or (len(start) < 8 and start[:1] == b"\x80"):
        # Only now: a sound header of 1,152 bytes begins as a pickle of protocol 4 does, with 80 04.
        pickled = start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"
        _refuse(
            "unsupported_format",
            "this is a pickle or a zip of pickles, which can carry code"
            if pickled
            else f"this is another kind of file, or its header is over {MAX_HEADER_BYTES} bytes",
            "Save it with safetensors.torch.save_file(network.state_dict(), path).",
        )
    if len(start) < 8 or 8 + length > size:
        _refuse("upload_corrupt", f"the file has {size} bytes, its header alone {8 + length}", "Upload it again.")


def _parse(raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            _refuse("unsafe_file", "the header names a tensor twice", "Write it with the safetensors library.")
        return found

    if sum(map(raw.count, (b",", b"[", b"{"))) > _MAX_PARTS:
        _refuse("unsafe_file", f"the header has more than {_MAX_PARTS:,} parts", "A network needs fewer.")
    try:
        header = json.loads(raw.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        _refuse("upload_corrupt", f"the header is not JSON: {error}", "Upload it again.")
    if not isinstance(header, dict):
        _refuse("upload_corrupt", "the header is not an object", "Upload it again.")
    return header


def _checked(header: dict[str, Any], data_bytes: int) -> tuple[dict[str, _Entry], dict[str, str]]:
    """The tensors of a header, which fill the file's bytes without gaps, and its metadata."""
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(_is_text(value) for pair in metadata.items() for value in pair):
        _refuse("upload_corrupt", "its metadata are not strings by name", "Upload it again.")
    if len(header) > MAX_TENSORS:
        _refuse("unsafe_file", f"{len(header)} tensors; at most {MAX_TENSORS}", "A network has fewer.")
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    end = 0
    for begin, stop, name in sorted((entry.begin, entry.stop, name) for name, entry in entries.items()):
        if begin != end:
            _refuse("upload_corrupt", f"{name[:80]!r} starts at byte {begin} and not at {end}", "Upload it again.")
        end = stop
    if end != data_bytes:
        _refuse("upload_corrupt", f"the tensors take {end} bytes, the file holds {data_bytes}", "Upload it again.")
    return entries, metadata


def _entry(name: str, entry: Any) -> _Entry:
    """Shape, type and place of one tensor, whose bytes its shape fills."""
    if not _is_text(name) or not _is_entry(entry):
        _refuse("upload_corrupt", f"the header's entry for {name[:80]!r} is malformed", "Upload it again.")
    shape, dtype = tuple(entry["shape"]), entry["dtype"]
    begin, stop = entry["data_offsets"]
    if dtype not in ITEM_BYTES or len(shape) > MAX_RANK:
        message = f"{name[:80]!r}: type {dtype[:20]!r}, rank {len(shape)}"
        _refuse("unsafe_file", message, "Store plain numeric tensors.")
    if stop - begin != math.prod(shape) * ITEM_BYTES[dtype]:
        _refuse("upload_corrupt", f"{name[:80]!r}: its shape does not fill its bytes", "Upload it again.")
    # An empty tensor may claim any size in its other dimensions, which libraries multiply into an overflow.
    if math.prod(n for n in shape if n) > MAX_NUMBERS:
        _refuse("unsafe_file", f"{name[:80]!r}: an empty tensor of absurd size", "Leave empty tensors out.")
    return _Entry(shape, dtype, begin, stop)


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    shape, place = entry["shape"], entry["data_offsets"]
    return (
        isinstance(entry["dtype"], str)
        and isinstance(shape, list)
        and isinstance(place, list)
        and len(place) == 2
        and all(type(n) is int and n >= 0 for n in (*shape, *place))
        and place[0] <= place[1]
    )


def _is_text(value: object) -> bool:
    """Whether it is a string that UTF-8 can write: JSON escapes may form halves of characters."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _refuse(code: str, message: str, hint: str) -> NoReturn:
    raise InputError(code, f"Not a usable safetensors file: {message}.", hint=hint)
