"""Safetensors files that want to harm, sent as the weights of a resnet8."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable

import torch
from safetensors.torch import save

from distill.tensorfile import MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS
from tests.hostile.case import Hostile
from tests.hostile.pickles import weights

ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def file_bytes(header: object, data: bytes = bytes(4)) -> bytes:
    """A file of this header, JSON or bytes, before ``data``."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def one(**changes: object) -> bytes:
    """A file of one tensor whose entry says something else."""
    return file_bytes({"w": {**ONE, **changes}})


def many(count: int) -> bytes:
    """A file of this many empty tensors."""
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return file_bytes({f"t{number}": empty for number in range(count)}, b"")


def _duplicate_entry() -> bytes:
    entry = json.dumps(ONE)
    return file_bytes(f'{{"w": {entry}, "w": {entry}}}'.encode())


def _empty(shape: list[int]) -> bytes:
    return file_bytes({"w": {**ONE, "shape": shape, "data_offsets": [0, 0]}}, b"")


def _pair(first: list[int], second: list[int], *, size: int) -> bytes:
    return file_bytes({"a": {**ONE, "data_offsets": first}, "b": {**ONE, "data_offsets": second}}, bytes(size))


def _spoiled(value: float) -> bytes:
    state = weights()
    state["fc.weight"] = torch.full_like(state["fc.weight"], value)
    return save(state)


def _told(**metadata: str) -> bytes:
    return save(weights(), metadata=metadata)


def _of(code: str | None, build: Callable[[], bytes], *, by_worker: bool = False) -> Hostile:
    return Hostile(code, build, "teacher.safetensors", by_worker)


def _corrupt(build: Callable[[], bytes], *, by_worker: bool = False) -> Hostile:
    return _of("upload_corrupt", build, by_worker=by_worker)


def _unsafe(build: Callable[[], bytes]) -> Hostile:
    return _of("unsafe_file", build)


def _harmless(build: Callable[[], bytes]) -> Hostile:
    return _of(None, build, by_worker=True)


def _other(build: Callable[[], bytes]) -> Hostile:
    return _of("unsupported_format", build)


HEADERS: dict[str, Hostile] = {
    "duplicate tensor": _unsafe(_duplicate_entry),
    "duplicate key in an entry": _unsafe(
        lambda: file_bytes(b'{"w": {"dtype": "F32", "shape": [1], "shape": [1], "data_offsets": [0, 4]}}')
    ),
    "duplicate metadata": _unsafe(lambda: file_bytes(b'{"__metadata__": {"a": "", "a": ""}}', b"")),
    "header too large": _other(lambda: file_bytes(b" " * (MAX_HEADER_BYTES + 1))),
    "header said to be 100 MB": _other(lambda: (100 * 2**20).to_bytes(8, "little") + b"{}"),
    "header said to be exabytes": _other(lambda: b"\xff" * 8 + b"{}"),
    "header of eight megabytes in lists": _unsafe(
        lambda: file_bytes(b"[" + b"[]," * (MAX_HEADER_BYTES // 3 - 9) + b"0]")
    ),
    "too many tensors": _unsafe(lambda: many(MAX_TENSORS + 1)),
    "rank": _unsafe(lambda: one(shape=[1] * (MAX_RANK + 1))),
    "rank 1,000": _unsafe(lambda: one(shape=[1] * 1000)),
    "unknown type": _unsafe(lambda: one(dtype="C64")),
    "type of a megabyte": _unsafe(lambda: one(dtype="F" * 2**20)),
    "type no string": _corrupt(lambda: one(dtype=["F32"])),
    "shape no list": _corrupt(lambda: one(shape={})),
    "shape of text": _corrupt(lambda: one(shape="")),
    "fractional shape": _corrupt(lambda: one(shape=[1.0])),
    "shape of booleans": _corrupt(lambda: one(shape=[True])),
    "negative shape": _corrupt(lambda: one(shape=[-1, -1])),
    "shape beyond its bytes": _corrupt(lambda: one(shape=[2])),
    "shape of 2^62 beyond its bytes": _corrupt(lambda: one(shape=[2**62])),
    "shape that wraps around at 2^64": _corrupt(lambda: one(shape=[2**62, 4, 1])),
    "absurd empty": _unsafe(lambda: _empty([2**62, 0])),
    "absurd empty, zero first": _unsafe(lambda: _empty([0, 2**40, 2**40])),
    "negative offset": _corrupt(lambda: one(data_offsets=[-4, 0])),
    "offsets reversed": _corrupt(lambda: one(data_offsets=[4, 0])),
    "one offset": _corrupt(lambda: one(data_offsets=[0])),
    "three offsets": _corrupt(lambda: one(data_offsets=[0, 2, 4])),
    "offset beyond the file": _corrupt(lambda: one(data_offsets=[4, 8])),
    "further key": _corrupt(lambda: one(device="cuda")),
    "missing key": _corrupt(lambda: file_bytes({"w": {"dtype": "F32", "shape": [1]}})),
    "entry no object": _corrupt(lambda: file_bytes({"w": [1]})),
    "overlap": _corrupt(lambda: _pair([0, 4], [0, 4], size=4)),
    "partial overlap": _corrupt(lambda: _pair([0, 4], [2, 6], size=6)),
    "gap": _corrupt(lambda: _pair([0, 4], [8, 12], size=12)),
    "bytes left over": _corrupt(lambda: file_bytes({"w": ONE}, bytes(5))),
    "metadata no object": _corrupt(lambda: file_bytes({"__metadata__": [], "w": ONE})),
    "metadata no strings": _corrupt(lambda: file_bytes({"__metadata__": {"epoch": 1}, "w": ONE})),
    "header no object": _corrupt(lambda: file_bytes(b"[]", b"")),
    "header no JSON": _corrupt(lambda: file_bytes(b"{'w': 1}")),
    "header in UTF-16": _corrupt(lambda: file_bytes(json.dumps({"w": ONE}).encode("utf-16"))),
    "half a character": _corrupt(lambda: file_bytes(json.dumps({"\ud800": ONE}).encode())),
    "nested a hundred thousand deep": _corrupt(lambda: file_bytes(b"[" * 10**5 + b"]" * 10**5)),
    "number of a million digits": _corrupt(lambda: file_bytes(b'{"w": ' + b"9" * 10**6 + b"}")),
    "empty file": _corrupt(lambda: b""),
    "five bytes of text": _other(lambda: b"hello"),
    "pickle": _other(lambda: pickle.dumps({"w": [1.0]})),
    "short pickle": _other(lambda: pickle.dumps(1, protocol=2)),
    "pickle of protocol 0": _other(lambda: pickle.dumps({"w": [1.0] * 9}, protocol=0)),
    "web page": _other(lambda: b"<!doctype html><html><body>Not found</body></html>"),
}
"""What the header alone tells."""

WEIGHTS: dict[str, Hostile] = {
    **{name: hostile for name, hostile in HEADERS.items() if name != "empty file"},  # which cannot be announced
    "weights of another network": _of("state_dict_mismatch", lambda: save({"fc.weight": torch.zeros(4, 64)})),
    "NaN": _corrupt(lambda: _spoiled(float("nan")), by_worker=True),
    "infinity": _corrupt(lambda: _spoiled(float("inf")), by_worker=True),
    "answers beyond float32": _corrupt(lambda: _spoiled(3e38), by_worker=True),
    "mean nested deeply": _harmless(lambda: _told(mean="[" * 10**5, std="[1, 1, 1]")),
    "mean of a hundred thousand numbers": _harmless(lambda: _told(mean=str([0] * 10**5), std="[1, 1, 1]")),
    "deviation of zero": _harmless(lambda: _told(mean="[0, 0, 0]", std="[0, 1, 1]")),
}
