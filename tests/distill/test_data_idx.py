from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from distill.data.inspect import inspect_dataset
from distill.data.readers import read
from distill.errors import InputError

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.integers(0, 256, (12, 4, 5), dtype=np.uint8)
TEST = RANDOM.integers(0, 256, (4, 4, 5), dtype=np.uint8)


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def four() -> dict[str, bytes]:
    return {
        "train-images-idx3-ubyte": idx(TRAIN),
        "train-labels-idx1-ubyte": idx(np.arange(12, dtype=np.uint8) % 3),
        "t10k-images-idx3-ubyte": idx(TEST),
        "t10k-labels-idx1-ubyte": idx(np.array([2, 0, 1, 1], dtype=np.uint8)),
    }


def write(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "idx.zip"


def refused(path: Path, *, code: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["", "FashionMNIST/raw/"])
def test_plain_and_gzipped_in_any_folder(path: Path, packed: bool, folder: str) -> None:
    members = {
        folder + name + (".gz" if packed else ""): gzip.compress(data) if packed else data
        for name, data in four().items()
    }
    write(path, {**members, "README.md": b"#", "__MACOSX/._train-images-idx3-ubyte": b"x"})
    found = inspect_dataset(path)
    assert found.format == "idx"
    assert found.summary["splits"] == {"train": 12, "test": 4}
    assert found.summary["image"] == {"channels": 1, "height": 4, "width": 5}
    raw = read(path)
    assert np.array_equal(raw.train_images, TRAIN[:, None])
    assert np.array_equal(raw.test_images, TEST[:, None])
    assert raw.test_labels.tolist() == [2, 0, 1, 1]
    assert raw.classes == ["0", "1", "2"]


def test_dots_in_the_names_as_others_write_them(path: Path) -> None:
    write(path, {name.replace("-idx", ".idx"): data for name, data in four().items()})
    assert len(read(path).train_labels) == 12


def test_a_missing_test_split_is_held_out(path: Path) -> None:
    write(path, {name: data for name, data in four().items() if name.startswith("train")})
    raw = read(path)
    assert (len(raw.train_labels), len(raw.test_labels)) == (9, 3)
    assert raw.notes


@pytest.mark.parametrize("missing", list(four()))
def test_a_missing_file_is_named(path: Path, missing: str) -> None:
    write(path, {name: data for name, data in four().items() if name != missing})
    for door in (inspect_dataset, read):
        with pytest.raises(InputError, match=missing.split("-")[1]) as caught:
            door(path)
        assert caught.value.code == "dataset_unreadable"


@pytest.mark.parametrize(
    ("name", "data", "code", "said"),
    [
        ("train-images-idx3-ubyte", idx(TRAIN)[:-1], "dataset_unreadable", "should take 256 bytes"),
        ("train-images-idx3-ubyte", idx(TRAIN) + b"x", "dataset_unreadable", "it holds 257"),
        ("train-images-idx3-ubyte", idx(TRAIN[:11]), "dataset_unreadable", "11 images"),
        ("t10k-images-idx3-ubyte", idx(TEST[:, :3]), "dataset_unreadable", "(4, 5)"),
        ("train-images-idx3-ubyte", b"\0\0\x0d\3" + idx(TRAIN)[4:], "dataset_unreadable", "00 00 0d 03"),
        ("train-labels-idx1-ubyte", idx(TRAIN), "dataset_unreadable", "00 00 08 03"),
        ("train-images-idx3-ubyte", b"\0\0", "dataset_unreadable", "starts with 00 00,"),
        ("train-images-idx3-ubyte", b"\0\0\10\3" + b"\xff" * 12, "unsafe_file", "claims"),
        ("train-labels-idx1-ubyte", idx(np.arange(12, dtype=np.uint8) % 3 + 1), "dataset_class_mismatch", "0"),
        ("t10k-labels-idx1-ubyte", idx(np.array([0, 1, 9, 2], np.uint8)), "dataset_class_mismatch", "9"),
        ("other/train-images-idx3-ubyte", idx(TRAIN), "dataset_unreadable", "one data set"),
    ],
)
def test_what_does_not_fit_is_named(path: Path, name: str, data: bytes, code: str, said: str) -> None:
    write(path, {**four(), name: data})
    assert said in refused(path, code=code).message


def gzipped(path: Path, data: bytes) -> Path:
    members = four()
    del members["train-images-idx3-ubyte"]
    return write(path, {**members, "train-images-idx3-ubyte.gz": data})


def test_a_gzip_bomb_is_read_no_further_than_its_header_promises(path: Path) -> None:
    gzipped(path, gzip.compress(idx(TRAIN) + bytes(200 * 2**20), compresslevel=1))
    assert "goes on after" in refused(path, code="dataset_unreadable").message


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(idx(TRAIN)[:-1], mtime=0),  # less than promised
        gzip.compress(idx(TRAIN), mtime=0)[:-12],  # the stream is cut
        gzip.compress(idx(TRAIN), mtime=0)[:-8] + bytes(8),  # the checksum is wrong
        b"not gzip at all" * 10,
    ],
)
def test_damaged_gzip(path: Path, data: bytes) -> None:
    gzipped(path, data)
    assert "train-images-idx3-ubyte.gz" in refused(path, code="upload_corrupt").message


def test_no_images(path: Path) -> None:
    empty = {
        "train-images-idx3-ubyte": idx(TRAIN[:0]),
        "train-labels-idx1-ubyte": idx(np.zeros(0, np.uint8)),
    }
    refused(write(path, {**four(), **empty}), code="dataset_empty")


LETTERS = np.arange(12, dtype=np.uint8) % 3 + 1


def emnist(split: str, *, labels: np.ndarray = LETTERS, **changes: bytes) -> dict[str, bytes]:
    """EMNIST's files: columns where MNIST has rows."""
    members = {
        f"emnist-{split}-train-images-idx3-ubyte": idx(TRAIN.transpose(0, 2, 1)),
        f"emnist-{split}-train-labels-idx1-ubyte": idx(labels),
        f"emnist-{split}-test-images-idx3-ubyte": idx(TEST.transpose(0, 2, 1)),
        f"emnist-{split}-test-labels-idx1-ubyte": idx(labels[:4]),
        f"emnist-{split}-mapping.txt": b"1 65 97\n",
    }
    return members | changes


@pytest.mark.parametrize("packed", [False, True])
def test_emnist_is_turned_upright_and_its_letters_start_at_0(path: Path, packed: bool) -> None:
    members = emnist("letters")
    if packed:
        members = {f"gzip/{name}.gz": gzip.compress(data) for name, data in members.items()}
    write(path, members)
    found = inspect_dataset(path)
    assert found.format == "idx"
    assert found.summary["image"] == {"channels": 1, "height": 4, "width": 5}
    raw = read(path)
    assert np.array_equal(raw.train_images, TRAIN[:, None])
    assert np.array_equal(raw.test_images, TEST[:, None])
    assert raw.train_labels.tolist() == [0, 1, 2] * 4
    assert raw.test_labels.tolist() == [0, 1, 2, 0]
    assert raw.classes == ["A", "B", "C"]


@pytest.mark.parametrize(
    ("split", "count", "ends"),
    [("letters", 26, "AZ"), ("balanced", 47, "0t"), ("bymerge", 47, "0t"), ("byclass", 62, "0z"), ("digits", 10, "09")],
)
def test_the_classes_of_emnist_have_their_names(path: Path, split: str, count: int, ends: str) -> None:
    """The 47 merged classes end with t, label 46, in emnist-balanced-mapping.txt."""
    first = 1 if split == "letters" else 0
    labels = np.arange(first, first + count, dtype=np.uint8)
    images = np.zeros((count, 2, 2), dtype=np.uint8)
    members = {f"emnist-{split}-{part}-images-idx3-ubyte": idx(images) for part in ("train", "test")} | {
        f"emnist-{split}-{part}-labels-idx1-ubyte": idx(labels) for part in ("train", "test")
    }
    raw = read(write(path, members))
    assert (len(raw.classes), raw.classes[0] + raw.classes[-1]) == (count, ends)
    assert raw.train_labels.tolist() == list(range(count))


@pytest.mark.parametrize(
    ("members", "said"),
    [
        (emnist("letters") | emnist("digits"), "one data set"),
        (
            {name: data for name, data in emnist("letters").items() if "train" in name}
            | {name: data for name, data in emnist("digits").items() if "test" in name},
            "one data set",
        ),
        ({name: data for name, data in emnist("letters").items() if "train" in name} | four(), "one data set"),
        (emnist("letters", labels=LETTERS - 1), "start at 1"),
        (emnist("letters", **{"emnist-letters-train-images-idx3-ubyte": idx(TRAIN)}), "(4, 5)"),
    ],
)
def test_files_of_emnist_that_do_not_fit(path: Path, members: dict[str, bytes], said: str) -> None:
    assert said in refused(write(path, members), code="dataset_unreadable").message
