from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.data.inspect import inspect_dataset
from distill.data.readers import read
from distill.errors import InputError

RANDOM = np.random.default_rng(0)


def images(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def arrays(**changes: Any) -> dict[str, Any]:
    """A sound data set of two classes, with some arrays replaced (None: left out)."""
    sound = {
        "x_train": images(12, 5, 7),
        "y_train": np.arange(12) % 2,
        "x_test": images(4, 5, 7),
        "y_test": np.array([1, 0, 1, 0]),
    }
    return {key: value for key, value in (sound | changes).items() if value is not None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.npz"


def refused(path: Path, *, code: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == code
    return caught.value


def test_values_and_order_are_kept(path: Path) -> None:
    data = arrays(classes=np.array(["cat", "Dog"]))
    np.savez_compressed(path, **data)
    raw = read(path)
    assert np.array_equal(raw.train_images, data["x_train"][:, None])
    assert np.array_equal(raw.test_images, data["x_test"][:, None])
    assert raw.train_labels.tolist() == data["y_train"].tolist()
    assert raw.test_labels.tolist() == [1, 0, 1, 0]
    assert (raw.train_labels.dtype, np.asarray(raw.train_images).dtype) == (np.int64, np.uint8)
    assert (raw.classes, raw.notes, raw.skipped) == (["cat", "Dog"], [], [])


def test_the_inspection_tells_shapes(path: Path) -> None:
    np.savez(path, **arrays(x_train=images(12, 5, 7, 3), x_test=images(4, 5, 7, 3)))
    found = inspect_dataset(path)
    assert found.format == "npz"
    assert found.summary["splits"] == {"train": 12, "test": 4}
    assert found.summary["image"] == {"channels": 3, "height": 5, "width": 7}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("last", [False, True])
def test_channels_first_and_last(path: Path, order: Any, channels: int, last: bool) -> None:
    train, test = images(12, channels, 5, 7), images(4, channels, 5, 7)
    shown = [np.asarray(x.transpose(0, 2, 3, 1) if last else x, order=order) for x in (train, test)]
    np.savez(path, **arrays(x_train=shown[0], x_test=shown[1]))
    raw = read(path)
    assert np.array_equal(raw.train_images, train)
    assert np.array_equal(raw.test_images, test)


def test_floats_in_0_to_1_become_bytes(path: Path) -> None:
    levels = images(12, 5, 7)
    for dtype in (np.float64, np.float32, ">f4"):
        np.savez(path, **arrays(x_train=(levels / 255).astype(dtype)))
        assert np.array_equal(np.asarray(read(path).train_images)[:, 0], levels)


@pytest.mark.parametrize("scale", [255.0, -1.0, np.nan])
def test_other_floats_are_refused(path: Path, scale: float) -> None:
    np.savez(path, **arrays(x_train=np.ones((12, 5, 7)) * scale))
    assert "x_train" in refused(path, code="dataset_unreadable").message


@pytest.mark.parametrize("names", ["train_images train_labels test_images test_labels", "x_train y_train x_val y_val"])
def test_other_names(path: Path, names: str) -> None:
    data = arrays()
    np.savez(path, **dict(zip(names.split(), data.values(), strict=True)))
    raw = read(path)
    assert np.array_equal(np.asarray(raw.train_images)[:, 0], data["x_train"])
    assert np.array_equal(np.asarray(raw.test_images)[:, 0], data["x_test"])


def test_test_is_preferred_to_val_and_the_rest_is_mentioned(path: Path) -> None:
    data = arrays(x_val=images(2, 5, 7), y_val=np.array([0, 1]), extra=np.zeros(3))
    np.savez(path, **data)
    raw = read(path)
    assert np.array_equal(np.asarray(raw.test_images)[:, 0], data["x_test"])
    assert raw.notes == ["Nothing was made of the arrays extra, x_val, y_val."]


def test_a_tenth_of_each_class_is_held_out(path: Path) -> None:
    labels = np.array([0] * 50 + [1] * 20 + [2] * 3 + [3])
    pictures = np.arange(len(labels), dtype=np.uint8).repeat(4).reshape(-1, 2, 2)
    np.savez(path, x_train=pictures, y_train=labels.reshape(-1, 1))
    raw = read(path, seed=3)
    assert np.bincount(raw.test_labels, minlength=4).tolist() == [5, 2, 1, 0]
    assert np.bincount(raw.train_labels).tolist() == [45, 18, 2, 1]
    ids = [*np.asarray(raw.train_images)[:, 0, 0, 0], *np.asarray(raw.test_images)[:, 0, 0, 0]]
    assert sorted(ids) == list(range(len(labels)))
    assert labels[ids].tolist() == [*raw.train_labels, *raw.test_labels]
    assert "8 of 74 images were held out" in raw.notes[0]
    assert "seed 3" in raw.notes[0]
    assert np.array_equal(read(path, seed=3).test_images, raw.test_images)
    assert not np.array_equal(read(path, seed=4).test_images, raw.test_images)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_train": None, "y_train": None}, "no x_train"),
        ({"y_train": None}, "must come once each; found x_train"),
        ({"train_images": images(12, 5, 7)}, "must come once each"),
        ({"y_train": np.arange(11) % 2}, "11 labels in y_train for 12 images in x_train"),
        ({"y_train": np.eye(2)[np.arange(12) % 2].astype(int)}, "argmax"),
        ({"y_train": np.arange(12.0) % 2}, "y_train (12,) float64 should hold integers"),
        ({"x_train": images(12, 5)}, "x_train (12, 5) uint8 should be (N, H, W)"),
        ({"x_train": images(12, 5, 7, 4)}, "1 or 3 channels"),
        ({"x_train": images(12, 5, 7).astype(np.int32)}, "should be uint8"),
        ({"x_train": images(2, 1, 2000), "y_train": np.array([0, 1])}, "above 1024"),
        ({"x_test": images(4, 5, 8)}, "different shapes"),
        ({"y_train": np.arange(12) % 2 - 1}, "label -1"),
        ({"y_test": np.array([0, 1, 0, -3])}, "label -3"),
        ({"y_train": np.array([2**40] * 12)}, str(2**40)),
        ({"classes": np.array([0, 1])}, "list of names"),
        ({"classes": np.array(["a"])}, "only 1 classes"),
        ({"y_train": np.zeros(12, dtype=[("a", "i4")])}, "not used here"),
    ],
)
def test_what_does_not_fit_is_named(path: Path, changes: dict[str, Any], said: str) -> None:
    np.savez(path, **arrays(**changes))
    assert said in refused(path, code="dataset_unreadable").message


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"y_train": np.arange(12) % 2 + 1}, "dataset_class_mismatch", "labels 1 to 2; there are none for 0"),
        ({"y_train": np.arange(12) % 2 * 5}, "dataset_class_mismatch", "none for 1"),
        ({"y_test": np.array([0, 1, 2, 0])}, "dataset_class_mismatch", "test has the label 2"),
        ({"classes": np.array(["a", "b", "spare"])}, "dataset_class_mismatch", "none for spare"),
        ({"classes": np.array(["a", "a"])}, "dataset_class_mismatch", "same name"),
        ({"classes": np.array(["a", " "])}, "dataset_class_mismatch", "empty"),
        ({"y_train": np.zeros(12, int)}, "dataset_empty", "one class"),
        ({"x_train": images(0, 5, 7), "y_train": np.zeros(0, int)}, "dataset_empty", "no images"),
        ({"x_test": images(0, 5, 7), "y_test": np.zeros(0, int)}, "dataset_empty", "no images"),
    ],
)
def test_classes_that_do_not_fit(path: Path, changes: dict[str, Any], code: str, said: str) -> None:
    np.savez(path, **arrays(**changes))
    assert said in refused(path, code=code).message


def test_one_image_of_each_class_leaves_nothing_to_test_with(path: Path) -> None:
    np.savez(path, x_train=images(3, 4, 4), y_train=np.arange(3))
    refused(path, code="dataset_empty")


@pytest.mark.parametrize("key", ["x_train", "y_train", "extra"])
def test_arrays_of_objects_are_refused_unopened(path: Path, key: str) -> None:
    np.savez(path, **arrays(**{key: np.array([{"a": 1}] * 12, dtype=object)}))
    assert key in refused(path, code="unsafe_file").message
    with pytest.raises(InputError, match="pickled"):
        inspect_dataset(path)


def rewritten(path: Path, member: str, data: bytes) -> None:
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()} | {member: data}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def npy(header: str) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


SHAPE = "{'descr': '|u1', 'fortran_order': False, 'shape': %s}"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (npy(SHAPE % "(12, 5, 7)"), "dataset_unreadable"),  # the values are missing
        (npy(SHAPE % "(10**6, 10**6, 10**6)"), "dataset_unreadable"),
        (npy(SHAPE % "(1000000, 1000000, 1000000)"), "dataset_unreadable"),
        (npy(SHAPE % "(-1, 5, 7)"), "dataset_unreadable"),
        (npy(SHAPE % "(True, 5, 7)"), "dataset_unreadable"),
        (npy(SHAPE % "__import__('os').getcwd()"), "dataset_unreadable"),
        (npy("(" * 1000), "dataset_unreadable"),
        (npy("-" * 4000 + "1"), "dataset_unreadable"),
        (npy(" " * 60_000), "unsafe_file"),
        (b"\x93NUMPY\x09\x00" + bytes(20), "dataset_unreadable"),
        (b"\x93NUMPY", "dataset_unreadable"),
        (b"hello", "dataset_unreadable"),
        (b"", "dataset_unreadable"),
    ],
)
def test_headers_that_lie(path: Path, data: bytes, code: str) -> None:
    np.savez(path, **arrays())
    rewritten(path, "x_train.npy", data)
    refused(path, code=code)
    with pytest.raises(InputError) as caught:
        inspect_dataset(path)
    assert caught.value.code == code


def test_damaged_values_are_noticed_by_their_checksum(path: Path) -> None:
    np.savez(path, **arrays())
    data = bytearray(path.read_bytes())
    data[data.index(b"x_train.npy") + 200] ^= 1
    path.write_bytes(data)
    assert "x_train" in refused(path, code="upload_corrupt").message


def test_names_that_are_no_text(path: Path) -> None:
    np.savez(path, **arrays(classes=np.array(["ab", "cd"])))
    buffer = io.BytesIO()
    np.save(buffer, np.array(["ab", "cd"]))
    rewritten(path, "classes.npy", buffer.getvalue().replace(b"c\0\0\0d", b"\xff\xff\xff\xffd"))
    refused(path, code="dataset_unreadable")
