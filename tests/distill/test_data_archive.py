"""Files that are no data set, or mean harm: refused by their structure, the same way at both doors."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data import archive, folder_layout, inspect
from distill.data.inspect import inspect_dataset
from distill.data.readers import read
from distill.errors import InputError
from tests.fixtures.archives import tarred


def png(value: int = 0, *, side: int = 4) -> bytes:
    data = io.BytesIO()
    Image.new("L", (side, side), value).save(data, "PNG")
    return data.getvalue()


def folders() -> dict[str, bytes]:
    return {f"{name}/{i}.png": png(i) for name in ("cat", "dog") for i in range(3)}


def zipped(members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return data.getvalue()


def npz() -> bytes:
    data = io.BytesIO()
    images, labels = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4), np.array([0, 1, 0, 1, 0, 1])
    np.savez(data, x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])
    return data.getvalue()


def refused(path: Path, data: bytes) -> InputError:
    """The error of both doors, which must agree."""
    path.write_bytes(data)
    errors: list[InputError] = []
    for door in (inspect_dataset, read):
        with pytest.raises(InputError) as caught:
            door(path)
        errors.append(caught.value)
    assert errors[0].as_json() == errors[1].as_json()
    return errors[0]


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


@pytest.mark.parametrize("keep", [0, 10, -1, -40])
def test_a_file_cut_short_is_corrupt(upload: Path, keep: int) -> None:
    assert refused(upload, zipped(folders())[:keep]).code == "upload_corrupt"


def saved(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (pickle.dumps({"x_train": [1, 2]}), "pickle"),
        (gzip.compress(b"values", mtime=0), "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (png(), "single PNG"),
        (saved(np.zeros(3)), "single numpy array"),
        (struct.pack(">4I", 0x803, 1, 2, 2) + bytes(4), "single IDX"),
        (b"label,pixel0\n1,2\n", "not a zip"),
        (b"\x80", "not a zip"),
    ],
)
def test_other_kinds_are_named_and_told_what_is_accepted(upload: Path, data: bytes, said: str) -> None:
    error = refused(upload, data)
    assert error.code == "unsupported_format"
    assert said in error.message
    assert "class folders" in error.hint


def test_a_zip_of_something_else(upload: Path) -> None:
    error = refused(upload, zipped({"model/data.pkl": b"x", "model/version": b"3"}))
    assert error.code == "unsupported_format"
    assert "model/data.pkl" in error.message
    assert "Pickles" in error.hint


def test_another_format_than_asked_for(upload: Path) -> None:
    upload.write_bytes(npz())
    assert inspect_dataset(upload, format="npz").format == "npz"
    for door in (inspect_dataset, read):
        with pytest.raises(InputError, match="looks like npz, and idx was asked for") as caught:
            door(upload, format="idx")
        assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize("members", [{}, {".DS_Store": b"x", "__MACOSX/cat/._1.png": b"x"}])
def test_nothing_inside(upload: Path, members: dict[str, bytes]) -> None:
    assert refused(upload, zipped(members)).code == "dataset_empty"


@pytest.mark.parametrize(
    "name", ["../cat/1.png", "cat/../../1.png", "/cat/1.png", "..\\cat\\1.png", "C:\\cat\\1.png", "c" * 2000]
)
def test_names_that_lead_elsewhere(upload: Path, name: str) -> None:
    error = refused(upload, zipped({**folders(), name: png()}))
    assert error.code == "unsafe_file"
    assert len(error.message) < 300


def test_a_link(upload: Path) -> None:
    data = io.BytesIO(zipped(folders()))
    with zipfile.ZipFile(data, "a") as file:
        link = zipfile.ZipInfo("cat/9.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    error = refused(upload, data.getvalue())
    assert (error.code, "cat/9.png" in error.message) == ("unsafe_file", True)


def test_an_encrypted_member(upload: Path) -> None:
    data = bytearray(zipped(folders()))
    flags = data.index(b"PK\x01\x02") + 8
    data[flags] |= 1
    error = refused(upload, bytes(data))
    assert (error.code, "encrypted" in error.message) == ("unsafe_file", True)


def test_a_name_that_comes_twice(upload: Path) -> None:
    data = io.BytesIO(zipped(folders()))
    with zipfile.ZipFile(data, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("cat/1.png", png(9))
    assert refused(upload, data.getvalue()).code == "unsafe_file"


def test_an_unusual_compression(upload: Path) -> None:
    error = refused(upload, zipped(folders(), method=zipfile.ZIP_LZMA))
    assert (error.code, "deflate" in error.hint) == ("unsupported_format", True)


def test_a_directory_that_lies_about_sizes(upload: Path) -> None:
    data = bytearray(zipped(folders()))
    entry = data.index(b"PK\x01\x02")
    struct.pack_into("<I", data, entry + 20, 0x7FFFFFFF)
    assert refused(upload, bytes(data)).code == "upload_corrupt"


def test_members_that_share_their_bytes(upload: Path) -> None:
    """A quine-like bomb: many directory entries for one large body."""
    body = random.Random(0).randbytes(50_000)
    data = bytearray(zipped({f"cat/{i}.png": body if i == 0 else b"" for i in range(9)}))
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    first = data[start : start + 46]
    while start < end:
        data[start + 16 : start + 28], data[start + 42 : start + 46] = first[16:28], first[42:46]
        start += 46 + struct.unpack_from("<H", data, start + 28)[0]
    error = refused(upload, bytes(data))
    assert (error.code, "share" in error.message) == ("unsafe_file", True)


def test_too_many_members(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 5)
    error = refused(upload, zipped(folders()))
    assert (error.code, "more than 5 members" in error.message) == ("unsafe_file", True)


def test_too_many_bytes(upload: Path) -> None:
    data = bytearray(zipped(folders()))
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 0xFFFFFFFE)
    error = refused(upload, bytes(data))
    assert (error.code, "unpacks to 4," in error.message) == ("unsafe_file", True)


def test_a_bomb_among_images(upload: Path) -> None:
    members = {**folders(), "cat/zeros.bmp": bytes(40 * 2**20)}
    error = refused(upload, zipped(members, method=zipfile.ZIP_DEFLATED))
    assert (error.code, "unpack to" in error.message) == ("unsafe_file", True)


def test_one_image_that_is_too_large(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_layout, "MAX_IMAGE_BYTES", 1000)
    error = refused(upload, zipped({**folders(), "dog/big.png": bytes(1001)}))
    assert (error.code, "dog/big.png" in error.message) == ("unsafe_file", True)


def test_arrays_of_zeros_may_shrink_as_they_like(upload: Path) -> None:
    data = io.BytesIO()
    labels = np.arange(4000) % 2
    np.savez_compressed(data, x_train=np.zeros((4000, 28, 28), np.uint8), y_train=labels)
    upload.write_bytes(data.getvalue())
    assert len(data.getvalue()) * 200 < 4000 * 28 * 28
    assert inspect_dataset(upload).summary["splits"] == {"train": 4000, "test": None}


def test_an_inspection_needs_the_standard_library_alone(upload: Path) -> None:
    upload.write_bytes(npz())
    program = (
        "import sys\n"
        "for name in ('numpy', 'PIL', 'torch', 'safetensors'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from distill.data.inspect import inspect_dataset\n"
        "print(inspect_dataset(Path(sys.argv[1])).format)"
    )
    result = subprocess.run([sys.executable, "-c", program, str(upload)], capture_output=True, text=True, check=True)
    assert result.stdout == "npz\n"


@pytest.mark.parametrize("make", [npz, lambda: zipped(folders())], ids=["npz", "folders"])
def test_no_damage_brings_anything_but_an_input_error(upload: Path, make: Callable[[], bytes]) -> None:
    sound = make()
    randomness = random.Random(5)
    outcomes = set()
    for _ in range(300):
        data = bytearray(sound)
        for _ in range(randomness.choice([1, 1, 3])):
            # Half of the hits go to the directory at the end, which is where parsing happens.
            span = 400 if randomness.random() < 0.5 else len(data)
            data[-1 - randomness.randrange(min(span, len(data)))] = randomness.randrange(256)
        upload.write_bytes(data)
        for door in (inspect_dataset, read):
            try:
                door(upload)
                outcomes.add("ok")
            except InputError as error:
                outcomes.add(error.code)
    assert {"ok", "upload_corrupt"} <= outcomes


def test_more_members_than_an_outline_lists_are_left_to_the_worker(
    upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspect, "_OUTLINE_MEMBERS", 5)
    for data in (zipped(folders()), tarred(folders())):
        upload.write_bytes(data)
        found = inspect_dataset(upload)
        assert (found.format, found.summary["splits"]) == ("auto", {"train": None, "test": None})
        assert inspect_dataset(upload, format="imagefolder").format == "imagefolder"
        assert sorted(read(upload).classes) == ["cat", "dog"]


def test_what_unpacks_to_far_more_than_it_takes_is_no_data_set_of_any_format(upload: Path) -> None:
    data = io.BytesIO()
    np.savez_compressed(data, x_train=np.zeros((512, 256, 256), np.uint8), y_train=np.arange(512) % 2)
    assert (refused(upload, data.getvalue()).code) == "unsafe_file"
