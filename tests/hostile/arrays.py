"""NPZ files that want to harm."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.fixtures.archives import zipped
from tests.hostile.case import Hostile, dataset
from tests.hostile.pickles import MARKER

_SHAPE = "{'descr': '|u1', 'fortran_order': False, 'shape': %s}"


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"open('{MARKER}', 'w')",)


def _sound(**changes: Any) -> bytes:
    data = io.BytesIO()
    images, labels = np.arange(12 * 30, dtype=np.uint16).astype(np.uint8).reshape(12, 6, 5), np.arange(12) % 2
    np.savez(data, **{"x_train": images, "y_train": labels, **changes})
    return data.getvalue()


def _with(member: str, content: bytes, *, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A sound file, of which one array has these bytes."""
    with zipfile.ZipFile(io.BytesIO(_sound())) as file:
        members = {name: file.read(name) for name in file.namelist()}
    return zipped({**members, member: content}, compression=compression)


def _npy(header: str | bytes, values: bytes = b"", *, version: int = 1, said: int | None = None) -> bytes:
    text = header.encode() if isinstance(header, str) else header
    length = (len(text) if said is None else said).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + values


def _npz(code: str | None, build: Callable[[], bytes], *, by_worker: bool = False) -> Hostile:
    return dataset(code, build, "data.npz", by_worker=by_worker)


def _images(code: str | None, content: Callable[[], bytes], *, by_worker: bool = False) -> Hostile:
    return _npz(code, lambda: _with("x_train.npy", content()), by_worker=by_worker)


def _unreadable(content: Callable[[], bytes]) -> Hostile:
    return _images("dataset_unreadable", content)


def _fortran() -> bytes:
    return _npy("{'descr': '|u1', 'fortran_order': True, 'shape': (12, 6, 5)}", bytes(360))


def _objects() -> bytes:
    return _sound(x_train=np.array([_Code()] * 12, dtype=object))


def _bomb() -> bytes:
    """Black pictures, true to their header: half a megabyte would become half a gigabyte on the service's disk."""
    images, labels = _npy(_SHAPE % "(512, 1024, 1024)", bytes(2**29)), _npy(_SHAPE % "(512,)", bytes([0, 1]) * 256)
    return zipped({"x_train.npy": images, "y_train.npy": labels})


ARRAYS: dict[str, Hostile] = {
    "objects": _npz("unsafe_file", _objects),
    "objects as labels": _npz("unsafe_file", lambda: _sound(y_train=np.array([_Code()] * 12, dtype=object))),
    "objects beside": _npz("unsafe_file", lambda: _sound(extra=np.array([_Code()], dtype=object))),
    "objects in a record": _unreadable(
        lambda: _npy("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (12,)}", bytes(96))
    ),
    "code in the header": _unreadable(lambda: _npy(_SHAPE % f"open('{MARKER}', 'w')")),
    "header in brackets": _unreadable(lambda: _npy("(" * 4000)),
    "header of signs": _unreadable(lambda: _npy("-" * 4000 + "1")),
    "header of powers": _unreadable(lambda: _npy(_SHAPE % "(9**9**9**9, 1, 1)")),
    "header of 60 KB": _images("unsafe_file", lambda: _npy(" " * 60_000)),
    "header of 1 GB": _images("unsafe_file", lambda: _npy(_SHAPE % "(1,)", version=2, said=2**30)),
    "header cut short": _unreadable(lambda: _npy(_SHAPE % "(12, 6, 5)", said=4000)),
    "version 9": _unreadable(lambda: b"\x93NUMPY\x09\x00" + bytes(20)),
    "no array": _unreadable(lambda: b"hello"),
    "nothing": _unreadable(lambda: b""),
    "values that are not there": _unreadable(lambda: _npy(_SHAPE % "(12, 6, 5)")),
    "10^18 images": _unreadable(lambda: _npy(_SHAPE % "(1000000, 1000000, 1000000)")),
    "shape that wraps around at 2^64": _unreadable(lambda: _npy(_SHAPE % f"({2**32}, {2**32}, 1)")),
    "sizes of 4,000 digits": _unreadable(lambda: _npy(_SHAPE % f"({'9' * 3900}, 1, 1)")),
    "size below zero": _unreadable(lambda: _npy(_SHAPE % "(-12, -6, 5)", bytes(360))),
    "size of True": _unreadable(lambda: _npy(_SHAPE % "(True, 6, 5)", bytes(30))),
    "33 dimensions": _unreadable(lambda: _npy(_SHAPE % str((1,) * 33), b"x")),
    "items of no bytes": _unreadable(
        lambda: _npy("{'descr': '|S0', 'fortran_order': False, 'shape': (1000000000000,)}")
    ),
    "order of Fortran that lies": _images(None, _fortran),
    "labels of 2^63": _npz("dataset_unreadable", lambda: _sound(y_train=np.full(12, 2**63, np.uint64)), by_worker=True),
    "NaN as pixels": _npz("dataset_unreadable", lambda: _sound(x_train=np.full((12, 6, 5), np.nan)), by_worker=True),
    "names that are no text": _npz(
        "dataset_unreadable",
        lambda: _sound(classes=np.array([b"\xff\xff\xff\xff" * 2] * 2).view("<U2")),
        by_worker=True,
    ),
    "bomb of half a gigabyte": _npz("unsafe_file", _bomb),
    "65 arrays": _npz("unsupported_format", lambda: _sound(**{f"a{n}": np.zeros(1) for n in range(65)})),
}
