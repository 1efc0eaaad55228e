"""CIFAR's binary versions, written byte by byte as https://www.cs.toronto.edu/~kriz/cifar.html describes them."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from distill.data.inspect import inspect_dataset
from distill.data.packed import pack
from distill.data.readers import read
from distill.errors import InputError

RANDOM = np.random.default_rng(0)
TEN = ["airplane", "automobile", "bird"]


def pixels(count: int) -> np.ndarray:
    """Upright pictures (N, 32, 32, 3)."""
    return RANDOM.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def records(images: np.ndarray, *labels: list[int]) -> bytes:
    """Label bytes, 1,024 red ones, 1,024 green ones, 1,024 blue ones; rows from the top."""
    data = bytearray()
    for index, image in enumerate(images):
        data += bytes(column[index] for column in labels)
        for colour in range(3):
            for row in range(32):
                data += bytes(int(image[row, column, colour]) for column in range(32))
    return bytes(data)


TRAIN, TEST = [pixels(3) for _ in range(5)], pixels(4)


def ten() -> dict[str, bytes]:
    batches = {f"data_batch_{n + 1}.bin": records(images, [n % 3, 1, 2]) for n, images in enumerate(TRAIN)}
    meta = ("\n".join(TEN) + "\n\n").encode()
    return {**batches, "test_batch.bin": records(TEST, [2, 0, 1, 1]), "batches.meta.txt": meta}


def hundred() -> dict[str, bytes]:
    return {
        "train.bin": records(np.concatenate(TRAIN), [9] * 15, [n % 3 for n in range(15)]),
        "test.bin": records(TEST, [9] * 4, [0, 2, 1, 1]),
        "fine_label_names.txt": b"apple\naquarium_fish\nbaby\n",
        "coarse_label_names.txt": b"fish\n",
    }


def write(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cifar.zip"


def refused(path: Path, *, code: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("folder", ["", "cifar-10-batches-bin/"])
def test_the_batches_of_cifar_10_follow_each_other(path: Path, folder: str) -> None:
    members = {folder + name: data for name, data in reversed(ten().items())}
    write(path, {**members, f"{folder}readme.html": b"<html>", "__MACOSX/data_batch_1.bin": b"x"})
    found = inspect_dataset(path)
    assert found.format == "cifar"
    assert found.summary["splits"] == {"train": 15, "test": 4}
    assert found.summary["image"] == {"channels": 3, "height": 32, "width": 32}
    assert found.summary["classes"] == TEN
    raw = read(path, format="cifar")
    assert np.array_equal(raw.train_images, np.concatenate(TRAIN).transpose(0, 3, 1, 2))
    assert np.array_equal(raw.test_images, TEST.transpose(0, 3, 1, 2))
    assert raw.train_labels.tolist() == [0, 1, 2, 1, 1, 2, 2, 1, 2, 0, 1, 2, 1, 1, 2]
    assert raw.test_labels.tolist() == [2, 0, 1, 1]
    assert raw.classes == TEN
    assert (raw.mean, raw.std) == ([0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616])


def test_of_cifar_100_the_fine_label_is_read(path: Path, tmp_path: Path) -> None:
    write(path, {f"cifar-100-binary/{name}": data for name, data in hundred().items()})
    assert inspect_dataset(path).format == "cifar"
    raw = read(path)
    assert np.array_equal(raw.train_images, np.concatenate(TRAIN).transpose(0, 3, 1, 2))
    assert raw.train_labels.tolist() == [n % 3 for n in range(15)]
    assert raw.test_labels.tolist() == [0, 2, 1, 1]
    assert raw.classes == ["apple", "aquarium_fish", "baby"]
    report = pack(raw, tmp_path / "packed")
    assert (report["mean"], report["std"]) == ([0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761])
    assert report["notes"] == ["Mean and std are those that papers use for CIFAR-100, not computed from the images."]


def test_without_the_names_classes_are_numbers(path: Path) -> None:
    members = ten()
    del members["batches.meta.txt"]
    assert read(write(path, members)).classes == ["0", "1", "2"]


def test_a_missing_test_split_is_held_out(path: Path) -> None:
    members = ten()
    del members["test_batch.bin"]
    raw = read(write(path, members))
    assert (len(raw.train_labels), len(raw.test_labels)) == (12, 3)
    assert "held out" in raw.notes[0]


def test_fewer_batches_are_taken_and_mentioned(path: Path) -> None:
    members = ten()
    del members["data_batch_5.bin"], members["data_batch_4.bin"]
    raw = read(write(path, members))
    assert len(raw.train_labels) == 9
    assert raw.notes[0] == "There is no data_batch_4.bin, data_batch_5.bin."


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"data_batch_2.bin": None}, "dataset_unreadable", "data_batch_2.bin is not"),
        ({"data_batch_1.bin": ten()["data_batch_1.bin"][:-1]}, "dataset_unreadable", "no multiple of the 3,073"),
        ({"data_batch_1.bin": ten()["data_batch_1.bin"] + b"x"}, "dataset_unreadable", "9,220 bytes"),
        ({"test_batch.bin": b"x" * 3072}, "dataset_unreadable", "test_batch.bin takes 3,072"),
        ({"data_batch_3.bin": b""}, "dataset_empty", "data_batch_3.bin holds no images"),
        ({"test_batch.bin": b""}, "dataset_empty", "test_batch.bin holds no images"),
        ({"train.bin": hundred()["train.bin"]}, "dataset_unreadable", "CIFAR-10 and of CIFAR-100"),
        ({"more/data_batch_1.bin": b"x"}, "dataset_unreadable", "one data set"),
        ({"batches.meta.txt": b"\xff\xfe"}, "dataset_unreadable", "no text"),
        ({"batches.meta.txt": b"x" * 70_000}, "dataset_unreadable", "too many"),
        ({"batches.meta.txt": b"a\nb\n"}, "dataset_unreadable", "only 2 classes"),
        ({"batches.meta.txt": b"a\nb\na\n"}, "dataset_class_mismatch", "same name"),
        ({"batches.meta.txt": b"a\nb\nc\nd\n"}, "dataset_class_mismatch", "none for d"),
        ({"data_batch_1.bin": records(TRAIN[0], [0, 1, 255])}, "dataset_unreadable", "label 255"),
        ({"test_batch.bin": records(TEST, [2, 0, 1, 7])}, "dataset_class_mismatch", "test has the label 7"),
    ],
)
def test_what_does_not_fit_is_named(path: Path, changes: dict[str, bytes | None], code: str, said: str) -> None:
    write(path, {name: data for name, data in {**ten(), **changes}.items() if data is not None})
    error = refused(path, code=code)
    assert said in error.message
    assert len(error.message) < 300


def test_both_doors_refuse_structure_alike(path: Path) -> None:
    write(path, {**hundred(), "train.bin": hundred()["train.bin"][:-2]})
    for door in (inspect_dataset, read):
        with pytest.raises(InputError, match="no multiple of the 3,074") as caught:
            door(path)
        assert caught.value.code == "dataset_unreadable"
        assert "binary versions" in caught.value.hint


def test_the_pickled_version_is_told_from_the_binary_one(path: Path) -> None:
    for name in ("cifar-10-batches-py/data_batch_1", "cifar-100-python/train"):
        write(path, {name: b"\x80\x02}q\x00."})
        error = refused(path, code="unsupported_format")
        assert "binary version" in error.hint


def test_a_directory_that_promises_more_than_there_is(path: Path) -> None:
    """The directory and the member's own header both say ten images more than deflate yields."""
    write(path, hundred())
    data = bytearray(path.read_bytes())
    size = len(hundred()["train.bin"])
    places = [i for i in range(len(data) - 3) if data[i : i + 4] == size.to_bytes(4, "little")]
    assert len(places) == 2
    for place in places:
        data[place : place + 4] = (size + 10 * 3074).to_bytes(4, "little")
    path.write_bytes(data)
    assert inspect_dataset(path).summary["splits"]["train"] == 25
    assert "train.bin" in refused(path, code="upload_corrupt").message


def test_no_damage_brings_anything_but_an_input_error(path: Path) -> None:
    sound = write(path, hundred()).read_bytes()
    randomness = random.Random(5)
    outcomes = set()
    for _ in range(200):
        data = bytearray(sound)
        span = 400 if randomness.random() < 0.7 else len(data)
        data[-1 - randomness.randrange(span)] = randomness.randrange(256)
        path.write_bytes(data)
        for door in (inspect_dataset, read):
            try:
                door(path)
                outcomes.add("ok")
            except InputError as error:
                outcomes.add(error.code)
    assert {"ok", "upload_corrupt"} <= outcomes
