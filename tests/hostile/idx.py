"""Files in MNIST's form that want to harm."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable

from tests.fixtures.archives import zipped
from tests.hostile.case import Hostile, dataset

_IMAGES, _LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def _file(*shape: int, values: bytes = b"", kind: int = 8) -> bytes:
    return bytes((0, 0, kind, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + values


_SOUND = {_IMAGES: _file(12, 5, 4, values=bytes(range(240))), _LABELS: _file(12, values=bytes([0, 1]) * 6)}


def _idx(code: str | None, name: str, content: Callable[[], bytes], *, by_worker: bool = False) -> Hostile:
    """A sound archive with this file in place of the one of its name, or of its name with .gz."""
    kept = {other: data for other, data in _SOUND.items() if other != name.removesuffix(".gz")}
    return dataset(code, lambda: zipped({**kept, name: content()}), "mnist.zip", by_worker=by_worker)


def _images(code: str, content: Callable[[], bytes]) -> Hostile:
    return _idx(code, _IMAGES, content)


def _packed(code: str, content: Callable[[], bytes]) -> Hostile:
    return _idx(code, f"{_IMAGES}.gz", content, by_worker=True)


IDX: dict[str, Hostile] = {
    "more images than there are": _images("dataset_unreadable", lambda: _file(13, 5, 4, values=bytes(240))),
    "more values than are said": _images("dataset_unreadable", lambda: _file(12, 5, 4, values=bytes(2000))),
    "2^32 images of 2^64 pixels": _images("unsafe_file", lambda: _file(*[2**32 - 1] * 3)),
    "sizes that wrap around at 2^32": _images("unsafe_file", lambda: _file(2**16, 2**16, 1, values=b"")),
    "sizes that wrap around at 2^64": _images("unsafe_file", lambda: _file(2**31, 2**31, 4, values=b"")),
    "255 dimensions": _images("dataset_unreadable", lambda: _file(*[1] * 255, values=b"x")),
    "no dimensions": _images("dataset_unreadable", lambda: _file()),
    "numbers of 8 bytes": _images("dataset_unreadable", lambda: _file(12, 5, 4, values=bytes(240), kind=0x0E)),
    "four bytes": _images("dataset_unreadable", lambda: b"\0\0\x08\x03"),
    "images without pixels": _images("dataset_empty", lambda: _file(12, 0, 2**32 - 1)),
    "2^32 labels": _idx("unsafe_file", _LABELS, lambda: _file(2**32 - 1)),
    "label without class": _idx(
        "dataset_class_mismatch", _LABELS, lambda: _file(12, values=bytes([0, 255]) * 6), by_worker=True
    ),
    "gzip bomb": _packed(
        "dataset_unreadable",
        lambda: gzip.compress(_file(12, 5, 4, values=bytes(200 * 2**20)), compresslevel=1),
    ),
    "gzip bomb, true to its header": _idx(
        "unsafe_file",
        f"{_IMAGES}.gz",
        lambda: gzip.compress(_file(32, 1024, 1024, values=bytes(2**25)), compresslevel=9),
    ),
    "gzip with less than is said": _packed("upload_corrupt", lambda: gzip.compress(_file(12, 5, 4))),
    "gzip with far less than is said": _packed("upload_corrupt", lambda: gzip.compress(_file(12, 1000, 1000))),
    "gzip cut short": _packed("upload_corrupt", lambda: gzip.compress(_SOUND[_IMAGES])[:-12]),
    "gzip with a wrong checksum": _packed("upload_corrupt", lambda: gzip.compress(_SOUND[_IMAGES])[:-8] + bytes(8)),
    "no gzip": _idx("upload_corrupt", f"{_IMAGES}.gz", lambda: b"no gzip at all" * 10),
    "gzip of parts without end": _packed(
        "upload_corrupt", lambda: gzip.compress(_file(12, 5, 4)) + gzip.compress(b"") * 200_000
    ),
    "both forms": dataset(
        "dataset_unreadable", lambda: zipped({**_SOUND, f"{_IMAGES}.gz": gzip.compress(_SOUND[_IMAGES])}), "mnist.zip"
    ),
}
