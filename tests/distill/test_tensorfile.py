from __future__ import annotations

import hashlib
import json
import time
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
from tests.hostile.case import Hostile
from tests.hostile.weights import HEADERS, ONE, file_bytes, many, one

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


@pytest.mark.parametrize("hostile", HEADERS.values(), ids=HEADERS)
def test_hostile_file_is_refused_at_once(path: Path, hostile: Hostile) -> None:
    path.write_bytes(hostile.build())
    start = time.process_time()

    with pytest.raises(InputError) as caught:
        read_header(path)

    assert time.process_time() - start < 0.5
    assert caught.value.code == hostile.code
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
    path.write_bytes(many(MAX_TENSORS))
    assert len(read_header(path).shapes) == MAX_TENSORS
    path.write_bytes(one(shape=[1] * MAX_RANK))
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
    return tensorfile.Tensor(dtype, array.shape, [array.reshape(-1).view("u1").data])


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
    lost = memoryview(b"1234")
    lost.release()

    with pytest.raises(ValueError, match="released"):
        tensorfile.write(path, {"w": whole, "b": tensorfile.Tensor("U8", (4,), [lost])}, metadata={})

    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_pieces_are_written_one_after_the_other_and_must_fill_the_shape(path: Path) -> None:
    items = np.arange(10, dtype=np.uint8)
    pieces = (items[start : start + 3].data for start in range(0, 10, 3))
    tensorfile.write(path, {"w": tensorfile.Tensor("U8", (5, 2), pieces)}, metadata={})
    np.testing.assert_array_equal(load_file(path)["w"].numpy(), items.reshape(5, 2))

    header = read_header(path)
    assert path.read_bytes()[header.places["w"][0] :] == items.tobytes()

    with pytest.raises(ValueError, match="the shapes take"):
        tensorfile.write(path, {"w": tensorfile.Tensor("U8", (11,), [items.data])}, metadata={})
    np.testing.assert_array_equal(load_file(path)["w"].numpy(), items.reshape(5, 2))
