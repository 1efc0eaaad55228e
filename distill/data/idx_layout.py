"""Which of a zip's members are the four IDX files of MNIST or EMNIST, and what their headers say.

Format: two zero bytes, a type byte (0x08 is uint8), the number of axes, a big-endian uint32 for each
axis, then the values. Source: http://yann.lecun.com/exdb/mnist/. Standard library only.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, NoReturn

from distill.data import known
from distill.data.archive import MAX_TOTAL_BYTES, check_ratio, shown
from distill.data.source import Source
from distill.errors import InputError

_NAME = re.compile(
    rf"(?:emnist-({'|'.join(known.EMNIST)})-)?(train|t10k|test)-(images|labels)[-.]idx([13])-ubyte(\.gz)?"
)
_MAX_SIDE = 1024
_HINT = (
    "The zip needs train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and "
    "t10k-labels-idx1-ubyte, each plain or with .gz; EMNIST's begin with emnist-letters- and end in the same way."
)


@dataclass(frozen=True, kw_only=True)
class IdxFile:
    """One member with the shape that its header gives; its values start at byte ``header_bytes``."""

    member: str
    shape: tuple[int, ...]
    header_bytes: int


@dataclass(frozen=True, kw_only=True)
class IdxLayout:
    """Images and labels of each split. ``test`` is None when a part of ``train`` must be held out."""

    train: tuple[IdxFile, IdxFile]
    test: tuple[IdxFile, IdxFile] | None
    emnist: str | None
    """Which split of EMNIST the names tell of, such as ``letters``; its images lie on their side."""

    @property
    def image(self) -> dict[str, int]:
        """Channels, height and width of the upright images."""
        height, width = self.train[0].shape[1:]
        if self.emnist is not None:
            height, width = width, height
        return {"channels": 1, "height": height, "width": width}


def is_idx(name: str) -> bool:
    """Whether a member's last part is one of the names that MNIST and EMNIST use."""
    return _NAME.fullmatch(name.rsplit("/", 1)[-1]) is not None


def idx_layout(source: Source) -> IdxLayout:
    """Find the four files and check magic numbers, lengths and counts.

    Raises:
        InputError: ``dataset_unreadable``, ``dataset_empty`` or ``upload_corrupt``.
    """
    found, emnist = _find(source)
    train = _pair(source, found, "train")
    if train is None:
        _refuse("the zip has no train-images-idx3-ubyte")
    test = _pair(source, found, "t10k")
    if test is not None and test[0].shape[1:] != train[0].shape[1:]:
        _refuse(f"train images are {train[0].shape[1:]}, test images {test[0].shape[1:]} pixels")
    return IdxLayout(train=train, test=test, emnist=emnist)


@contextmanager
def open_idx(source: Source, member: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """The member's bytes, unpacked on the fly when its name ends in .gz.

    Raises:
        InputError: ``upload_corrupt``, also from reads inside the block.
    """
    with source.open(member) as stream:
        if not member.endswith(".gz"):
            yield stream
            return
        try:
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield unpacked
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(
                "upload_corrupt", f"{shown(member)} is damaged: {error}", hint="Make the archive again."
            ) from error


def _find(source: Source) -> tuple[dict[tuple[str, str], str], str | None]:
    """Members by split and what they hold, and the split of EMNIST."""
    found: dict[tuple[str, str], str] = {}
    emnist: set[str | None] = set()
    for name in source.files:
        match = _NAME.fullmatch(name.rsplit("/", 1)[-1])
        if match is None or "__MACOSX" in name.split("/"):
            continue
        role = ("train" if match[2] == "train" else "t10k", match[3])
        emnist.add(match[1])
        if role in found or len(emnist) > 1:
            other = found.get(role) or next(iter(found.values()))
            _refuse(f"both {shown(other)} and {shown(name)} are there; send one data set a zip")
        found[role] = name
    return found, next(iter(emnist), None)


def _pair(source: Source, found: dict[tuple[str, str], str], split: str) -> tuple[IdxFile, IdxFile] | None:
    images, labels = found.get((split, "images")), found.get((split, "labels"))
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        missing = "images" if images is None else "labels"
        _refuse(f"{shown(images or labels or '')} is there, the {missing} of {split} are not")
    pair = _header(source, images, axes=3), _header(source, labels, axes=1)
    counts = pair[0].shape[0], pair[1].shape[0]
    if counts[0] != counts[1]:
        _refuse(f"{counts[0]:,} images in {shown(images)}, {counts[1]:,} labels in {shown(labels)}")
    if 0 in pair[0].shape:
        raise InputError("dataset_empty", f"{shown(images)} holds no images", hint=_HINT)
    if max(pair[0].shape[1:]) > _MAX_SIDE:
        _refuse(f"{shown(images)} has a side above {_MAX_SIDE} pixels")
    return pair


def _header(source: Source, member: str, *, axes: int) -> IdxFile:
    length = 4 + 4 * axes
    with open_idx(source, member) as stream:
        start = stream.read(length)
    if len(start) < length or start[:4] != bytes((0, 0, 8, axes)):
        _refuse(f"{shown(member)} starts with {start[:4].hex(' ')}, not with 00 00 08 {axes:02x}")
    shape = struct.unpack(f">{axes}I", start[4:])
    wanted = length + math.prod(shape)
    if wanted > MAX_TOTAL_BYTES:
        raise InputError("unsafe_file", f"{shown(member)} claims {wanted:,} bytes", hint=_HINT)
    held = source.files[member].file_size
    check_ratio(held, wanted, of=shown(member))
    if not member.endswith(".gz") and held != wanted:
        _refuse(f"{shown(member)} should take {wanted:,} bytes for {shape}, it holds {held:,}")
    return IdxFile(member=member, shape=shape, header_bytes=length)


def _refuse(message: str) -> NoReturn:
    raise InputError("dataset_unreadable", message, hint=_HINT)
