from __future__ import annotations

import hashlib
import json
import pickle
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from distill import tensorfile
from distill.errors import InputError
from distill.tensorfile import MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS, read_header

ALL_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def file_bytes(header: object, data: bytes = bytes(4)) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


def refusal(path: Path, content: bytes) -> InputError:
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_header(path)
    return caught.value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


@pytest.fixture(scope="module")
def sound() -> bytes:
    """A small file as the library writes it, read back as bytes."""
    from safetensors.torch import save

    tensors = {"fc.weight": torch.arange(6.0).reshape(2, 3), "fc.bias": torch.zeros(2), "steps": torch.tensor(7)}
    return save(tensors, metadata={"format": "pt", "classes": '["a", "b"]'})


def test_header_of_a_file_of_the_library_in_every_type(path: Path) -> None:
    tensors = {str(dtype): torch.ones(2, 3, dtype=dtype) for dtype in ALL_DTYPES}
    save_file({**tensors, "scalar": torch.tensor(1.0), "empty": torch.zeros(0, 5)}, path, metadata={"mean": "[0.5]"})

    header = read_header(path)

    assert header.dtypes == {str(dtype): name for dtype, name in ALL_DTYPES.items()} | {"scalar": "F32", "empty": "F32"}
    assert header.shapes == dict.fromkeys(tensors, (2, 3)) | {"scalar": (), "empty": (0, 5)}
    assert header.metadata == {"mean": "[0.5]"}


def test_a_file_without_metadata_or_without_tensors_is_sound(path: Path) -> None:
    save_file({}, path)
    assert read_header(path) == tensorfile.Header(shapes={}, dtypes={}, places={}, metadata={})


def test_no_length_of_a_sound_header_is_taken_for_a_pickle(path: Path) -> None:
    first_bytes = set()
    for padding in range(0, 1300, 8):
        save_file({"w": torch.zeros(1)}, path, metadata={"padding": "x" * padding})
        first_bytes.add(path.read_bytes()[:2])
        assert read_header(path).shapes == {"w": (1,)}
    assert b"\x80\x04" in first_bytes  # where protocol 4 of pickle begins too


def _duplicate_entry() -> bytes:
    entry = json.dumps(ONE)
    return file_bytes(f'{{"w": {entry}, "w": {entry}}}'.encode())


def _entry(**changes: object) -> bytes:
    return file_bytes({"w": {**ONE, **changes}})


def _pair(first: list[int], second: list[int], *, size: int) -> bytes:
    return file_bytes({"a": {**ONE, "data_offsets": first}, "b": {**ONE, "data_offsets": second}}, bytes(size))


def _many(count: int) -> bytes:
    empty = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return file_bytes({f"t{number}": empty for number in range(count)}, b"")


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "duplicate tensor": ("unsafe_file", _duplicate_entry),
    "duplicate key in an entry": (
        "unsafe_file",
        lambda: file_bytes(b'{"w": {"dtype": "F32", "shape": [1], "shape": [1], "data_offsets": [0, 4]}}'),
    ),
    "duplicate metadata": ("unsafe_file", lambda: file_bytes(b'{"__metadata__": {"a": "", "a": ""}}', b"")),
    "header too large": ("unsupported_format", lambda: file_bytes(b" " * (MAX_HEADER_BYTES + 1))),
    "header said to be exabytes": ("unsupported_format", lambda: b"\xff" * 8 + b"{}"),
    "too many tensors": ("unsafe_file", lambda: _many(MAX_TENSORS + 1)),
    "rank": ("unsafe_file", lambda: _entry(shape=[1] * (MAX_RANK + 1))),
    "unknown type": ("unsafe_file", lambda: _entry(dtype="C64")),
    "type of a megabyte": ("unsafe_file", lambda: _entry(dtype="F" * 2**20)),
    "type no string": ("upload_corrupt", lambda: _entry(dtype=["F32"])),
    "shape no list": ("upload_corrupt", lambda: _entry(shape={})),
    "shape of text": ("upload_corrupt", lambda: _entry(shape="")),
    "fractional shape": ("upload_corrupt", lambda: _entry(shape=[1.0])),
    "shape of booleans": ("upload_corrupt", lambda: _entry(shape=[True])),
    "negative shape": ("upload_corrupt", lambda: _entry(shape=[-1, -1])),
    "shape beyond its bytes": ("upload_corrupt", lambda: _entry(shape=[2])),
    "shape of 2^62 beyond its bytes": ("upload_corrupt", lambda: _entry(shape=[2**62])),
    "shape that wraps around at 2^64": ("upload_corrupt", lambda: _entry(shape=[2**62, 4, 1])),
    "absurd empty": (
        "unsafe_file",
        lambda: file_bytes({"w": {**ONE, "shape": [2**62, 0], "data_offsets": [0, 0]}}, b""),
    ),
    "absurd empty, zero first": (
        "unsafe_file",
        lambda: file_bytes({"w": {**ONE, "shape": [0, 2**40, 2**40], "data_offsets": [0, 0]}}, b""),
    ),
    "negative offset": ("upload_corrupt", lambda: _entry(data_offsets=[-4, 0])),
    "offsets reversed": ("upload_corrupt", lambda: _entry(data_offsets=[4, 0])),
    "one offset": ("upload_corrupt", lambda: _entry(data_offsets=[0])),
    "three offsets": ("upload_corrupt", lambda: _entry(data_offsets=[0, 2, 4])),
    "offset beyond the file": ("upload_corrupt", lambda: _entry(data_offsets=[4, 8])),
    "further key": ("upload_corrupt", lambda: _entry(device="cuda")),
    "missing key": ("upload_corrupt", lambda: file_bytes({"w": {"dtype": "F32", "shape": [1]}})),
    "entry no object": ("upload_corrupt", lambda: file_bytes({"w": [1]})),
    "overlap": ("upload_corrupt", lambda: _pair([0, 4], [0, 4], size=4)),
    "partial overlap": ("upload_corrupt", lambda: _pair([0, 4], [2, 6], size=6)),
    "gap": ("upload_corrupt", lambda: _pair([0, 4], [8, 12], size=12)),
    "bytes left over": ("upload_corrupt", lambda: file_bytes({"w": ONE}, bytes(5))),
    "metadata no object": ("upload_corrupt", lambda: file_bytes({"__metadata__": [], "w": ONE})),
    "metadata no strings": ("upload_corrupt", lambda: file_bytes({"__metadata__": {"epoch": 1}, "w": ONE})),
    "header no object": ("upload_corrupt", lambda: file_bytes(b"[]", b"")),
    "header no JSON": ("upload_corrupt", lambda: file_bytes(b"{'w': 1}")),
    "header in UTF-16": ("upload_corrupt", lambda: file_bytes(json.dumps({"w": ONE}).encode("utf-16"))),
    "half a character": ("upload_corrupt", lambda: file_bytes(json.dumps({"\ud800": ONE}).encode())),
    "nested a hundred thousand deep": ("upload_corrupt", lambda: file_bytes(b"[" * 10**5 + b"]" * 10**5)),
    "number of a million digits": ("upload_corrupt", lambda: file_bytes(b'{"w": ' + b"9" * 10**6 + b"}")),
    "empty file": ("upload_corrupt", lambda: b""),
    "five bytes of text": ("unsupported_format", lambda: b"hello"),
    "pickle": ("unsupported_format", lambda: pickle.dumps({"w": [1.0]})),
    "short pickle": ("unsupported_format", lambda: pickle.dumps(1, protocol=2)),
    "pickle of protocol 0": ("unsupported_format", lambda: pickle.dumps({"w": [1.0] * 9}, protocol=0)),
    "web page": ("unsupported_format", lambda: b"<!doctype html><html><body>Not found</body></html>"),
}


@pytest.mark.parametrize(("code", "build"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file_is_refused_at_once(path: Path, code: str, build: Callable[[], bytes]) -> None:
    path.write_bytes(build())
    start = time.process_time()

    with pytest.raises(InputError) as caught:
        read_header(path)

    assert time.process_time() - start < 0.5
    assert caught.value.code == code
    assert caught.value.hint
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("legacy", [True, False], ids=["pickle", "zip"])
def test_renamed_torch_file_is_refused_with_the_way_to_save_it(path: Path, legacy: bool) -> None:
    torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=not legacy)

    error = refusal(path, path.read_bytes())

    assert error.code == "unsupported_format"
    assert "pickle" in error.message
    assert "save_file" in error.hint


def test_every_truncation_is_found(path: Path, sound: bytes) -> None:
    assert {refusal(path, sound[:size]).code for size in range(len(sound))} == {"upload_corrupt"}


def test_limits_themselves_are_allowed(path: Path) -> None:
    path.write_bytes(_many(MAX_TENSORS))
    assert len(read_header(path).shapes) == MAX_TENSORS
    path.write_bytes(_entry(shape=[1] * MAX_RANK))
    assert read_header(path).shapes == {"w": (1,) * MAX_RANK}
    entry = json.dumps({"w": ONE}).encode()
    path.write_bytes(file_bytes(entry + b" " * (MAX_HEADER_BYTES - len(entry))))
    assert read_header(path).shapes == {"w": (1,)}


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.dictionaries(st.integers(0, 10**6), st.integers(0, 255), min_size=1, max_size=3))
def test_what_passes_is_what_the_library_reads(path: Path, sound: bytes, damage: dict[int, int]) -> None:
    content = bytearray(sound)
    for place, value in damage.items():
        content[place % len(sound)] = value
    path.write_bytes(content)
    try:
        header = read_header(path)
    except InputError:
        return
    with safe_open(path, framework="pt") as file:
        assert header.metadata == (file.metadata() or {})
    assert header.shapes == {name: tuple(tensor.shape) for name, tensor in load_file(path).items()}


def tensor(array: NDArray[Any], dtype: str) -> tensorfile.Tensor:
    return tensorfile.Tensor(dtype, array.shape, array.reshape(-1).view("u1").data)


def test_written_file_is_read_by_the_library_and_by_ourselves(path: Path) -> None:
    weights, count = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(7, dtype=np.int64)
    written = {"count": tensor(count, "I64"), "wéights": tensor(weights, "F32")}

    digest = tensorfile.write(path, written, metadata={"classes": '["ä"]'})

    found = load_file(path)
    assert found["count"].item() == 7
    assert found["count"].shape == ()
    np.testing.assert_array_equal(found["wéights"].numpy(), weights)
    assert read_header(path).metadata == {"classes": '["ä"]'}
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_equal_contents_are_equal_files(tmp_path: Path) -> None:
    contents = {"w": tensor(np.ones(4, dtype=np.float32), "F32")}
    metadata = {str(number): "x" for number in range(20)}
    digests = {tensorfile.write(tmp_path / name, contents, metadata=metadata) for name in "abc"}
    assert len(digests) == 1


def test_write_that_fails_half_way_leaves_the_file_before_it(path: Path) -> None:
    whole = tensor(np.ones(4, dtype=np.float32), "F32")
    tensorfile.write(path, {"w": whole}, metadata={})
    before = path.read_bytes()
    broken = tensor(np.zeros(4, dtype=np.float32), "F32")
    broken.data.release()

    with pytest.raises(ValueError, match="released"):
        tensorfile.write(path, {"w": whole, "b": broken}, metadata={})

    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]
