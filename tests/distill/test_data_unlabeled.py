"""Images without labels, beside labelled ones and alone: -1 from every reader to the packed form."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from distill.data.inspect import inspect_dataset
from distill.data.packed import PackedDataset, pack
from distill.data.readers import read
from distill.errors import InputError

RANDOM = np.random.default_rng(0)


def images(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


TRAIN, TEST, LOOSE = images(12, 5, 7, 3), images(4, 5, 7, 3), images(6, 5, 7, 3)
LABELED = {
    "x_train": TRAIN,
    "y_train": np.arange(12) % 3,
    "x_test": TEST,
    "y_test": np.array([0, 1, 2, 0]),
}


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def zipped(path: Path, members: dict[str, np.ndarray]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, pixels in members.items():
            file.writestr(name, png(pixels))
    return path


def classed(prefix: str, pictures: np.ndarray) -> dict[str, np.ndarray]:
    """Pictures in class folders a, b, c in turn."""
    return {f"{prefix}{'abc'[i % 3]}/{i:02}.png": picture for i, picture in enumerate(pictures)}


def flat(prefix: str, pictures: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{prefix}{i:02}.png": picture for i, picture in enumerate(pictures)}


def planes(pictures: np.ndarray) -> np.ndarray:
    return pictures.transpose(0, 3, 1, 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def save_npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with path.open("wb") as file:
        np.savez(file, **arrays)
    return path


def refused(path: Path) -> InputError:
    """The error of both doors, which must agree."""
    found: list[InputError] = []
    for door in (inspect_dataset, read):
        with pytest.raises(InputError) as caught:
            door(path)
        found.append(caught.value)
    assert found[0].as_json() == found[1].as_json()
    return found[0]


class TestBesideLabels:
    @pytest.mark.parametrize("key", ["x_train_unlabeled", "unlabeled_images"])
    def test_an_array_of_an_npz(self, path: Path, key: str) -> None:
        save_npz(path, {**LABELED, key: LOOSE})
        assert inspect_dataset(path).summary["splits"] == {"train": 12, "test": 4, "train_unlabeled": 6}
        raw = read(path)
        assert np.array_equal(raw.train_images, planes(np.concatenate([TRAIN, LOOSE])))
        assert raw.train_labels.tolist() == [0, 1, 2] * 4 + [-1] * 6
        assert raw.train_labels.dtype == np.int64
        assert np.array_equal(raw.test_images, planes(TEST))
        assert raw.test_labels.tolist() == [0, 1, 2, 0]
        assert raw.classes == ["0", "1", "2"]
        assert raw.notes == ["6 images without a label follow the 12 labelled ones in train."]

    @pytest.mark.parametrize("wrapper", ["", "my data/"])
    @pytest.mark.parametrize("folder", ["train_unlabeled/", "unlabeled/", "unlabelled/", "unlabeled/deep/er/"])
    @pytest.mark.parametrize("by_split", [True, False])
    def test_a_folder_of_a_zip(self, path: Path, wrapper: str, folder: str, by_split: bool) -> None:
        members = classed("train/" if by_split else "", TRAIN) | flat(folder, LOOSE)
        if by_split:
            members |= classed("test/", TEST)
        zipped(path, {f"{wrapper}{name}": pixels for name, pixels in members.items()})
        found = inspect_dataset(path)
        assert found.summary["splits"] == {"train": 12, "test": 4 if by_split else None, "train_unlabeled": 6}
        assert found.summary["classes"] == ["a", "b", "c"]
        raw = read(path)
        assert raw.classes == ["a", "b", "c"]
        assert np.array_equal(np.asarray(raw.train_images)[-6:], planes(LOOSE))
        assert (raw.train_labels[-6:] == -1).all()
        assert raw.train_labels[:-6].min() == 0
        if by_split:
            assert sorted(raw.train_labels[:-6]) == sorted(LABELED["y_train"])
        else:
            assert sorted([*raw.train_labels[:-6], *raw.test_labels]) == sorted(LABELED["y_train"])
        assert raw.test_labels.min() == 0
        assert raw.skipped == []

    def test_what_is_held_out_has_a_label(self, path: Path) -> None:
        save_npz(path, {"x_train": TRAIN, "y_train": LABELED["y_train"], "x_train_unlabeled": LOOSE})
        raw = read(path)
        assert sorted(raw.test_labels) == [0, 1, 2]
        assert (len(raw.train_labels), (raw.train_labels == -1).sum()) == (15, 6)
        assert "3 of 12 images were held out" in raw.notes[0]

    def test_the_report_counts_them_apart_and_the_statistics_include_them(self, path: Path, tmp_path: Path) -> None:
        raw = read(save_npz(path, {**LABELED, "x_train_unlabeled": LOOSE}))
        report = pack(raw, tmp_path / "packed")
        assert report["splits"] == {
            "train": {"images": 12, "per_class": {"0": 4, "1": 4, "2": 4}},
            "test": {"images": 4, "per_class": {"0": 2, "1": 1, "2": 1}},
            "train_unlabeled": {"images": 6},
        }
        values = np.concatenate([TRAIN, LOOSE]) / 255
        np.testing.assert_allclose(report["mean"], values.mean(axis=(0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(report["std"], values.std(axis=(0, 1, 2)), rtol=1e-12)
        packed = PackedDataset.load(tmp_path / "packed")
        assert packed.train_labels.tolist() == [0, 1, 2] * 4 + [-1] * 6
        assert packed.num_classes == 3

    def test_one_broken_image_among_many_is_left_out(self, path: Path) -> None:
        zipped(path, classed("train/", images(30, 5, 7, 3)) | classed("test/", TEST) | flat("train_unlabeled/", LOOSE))
        with zipfile.ZipFile(path, "a") as file:
            file.writestr("train_unlabeled/zz.png", b"no image")
        raw = read(path)
        assert [entry["path"] for entry in raw.skipped] == ["train_unlabeled/zz.png"]
        assert len(raw.train_labels) == 36

    def test_minus_one_among_the_labels_is_still_refused(self, path: Path) -> None:
        """Labels of -1 and 1 are a common way to write two classes."""
        save_npz(path, {**LABELED, "y_train": np.arange(12) % 2 * 2 - 1})
        with pytest.raises(InputError, match="label -1"):
            read(path)

    def test_one_class_is_too_few(self, path: Path) -> None:
        zipped(path, flat("cat/", TRAIN) | flat("unlabeled/", LOOSE))
        error = refused(path)
        assert (error.code, "cat" in error.message) == ("dataset_empty", True)

    def test_a_labelled_test_split_needs_labelled_images_in_train(self, path: Path) -> None:
        error = refused(zipped(path, flat("train_unlabeled/", LOOSE) | classed("test/", TEST)))
        assert (error.code, "none in train" in error.message) == ("dataset_unreadable", True)
        error = refused(save_npz(path, {"x_train_unlabeled": LOOSE, "x_test": TEST, "y_test": LABELED["y_test"]}))
        assert (error.code, "no x_train" in error.message) == ("dataset_unreadable", True)

    @pytest.mark.parametrize(
        ("changes", "code", "said"),
        [
            ({"x_train_unlabeled": LOOSE[:, :4]}, "dataset_unreadable", "different shapes"),
            ({"x_train_unlabeled": LOOSE[..., :1]}, "dataset_unreadable", "different shapes"),
            ({"x_train_unlabeled": LOOSE[0]}, "dataset_unreadable", "different shapes"),
            ({"x_train_unlabeled": LOOSE.astype(np.int32)}, "dataset_unreadable", "should be uint8"),
            ({"x_train_unlabeled": LOOSE[:0]}, "dataset_empty", "no images"),
            ({"x_train_unlabeled": LOOSE, "unlabeled_images": LOOSE}, "dataset_unreadable", "more than one"),
        ],
    )
    def test_arrays_that_do_not_fit(self, path: Path, changes: dict[str, Any], code: str, said: str) -> None:
        error = refused(save_npz(path, {**LABELED, **changes}))
        assert (error.code, said in error.message) == (code, True), error.message


class TestAlone:
    @pytest.mark.parametrize("key", ["x_train", "train_images", "x_train_unlabeled"])
    def test_an_npz_without_y(self, path: Path, key: str) -> None:
        save_npz(path, {key: TRAIN, "x_test": TEST})
        found = inspect_dataset(path)
        assert found.summary["splits"] == {"train": 0, "test": 4, "train_unlabeled": 12}
        assert found.summary["classes"] == []
        raw = read(path)
        assert np.array_equal(raw.train_images, planes(TRAIN))
        assert np.array_equal(raw.test_images, planes(TEST))
        assert raw.train_labels.tolist() == [-1] * 12
        assert raw.test_labels.tolist() == [-1] * 4
        assert raw.classes == []
        assert raw.notes == ["No image has a label: the teacher alone tells the student what they show."]

    def test_names_of_classes_are_of_no_use_then(self, path: Path) -> None:
        raw = read(save_npz(path, {"x_train": TRAIN, "x_test": TEST, "classes": np.array(["a", "b"])}))
        assert raw.classes == []
        assert raw.notes[0] == "Nothing was made of the arrays classes."

    def test_a_tenth_is_held_out_with_the_seed(self, path: Path) -> None:
        pictures = np.arange(40, dtype=np.uint8).repeat(4).reshape(-1, 2, 2)
        save_npz(path, {"x_train": pictures})
        raw = read(path, seed=3)
        ids = [*np.asarray(raw.train_images)[:, 0, 0, 0], *np.asarray(raw.test_images)[:, 0, 0, 0]]
        assert (len(raw.train_labels), len(raw.test_labels), sorted(ids)) == (36, 4, list(range(40)))
        assert {*raw.train_labels.tolist(), *raw.test_labels.tolist()} == {-1}
        assert "4 of 40 images were held out of train, with seed 3" in raw.notes[1]
        assert np.array_equal(read(path, seed=3).test_images, raw.test_images)
        assert not np.array_equal(read(path, seed=4).test_images, raw.test_images)

    @pytest.mark.parametrize(
        ("prefix", "splits"),
        [("", None), ("photos/", None), ("a/b/", None), ("train_unlabeled/", None), ("x/unlabeled/deep/", None),
         ("train_unlabeled/", "test/"), ("train/", "val/"), ("unlabeled/", "validation/")],
    )  # fmt: skip
    def test_a_zip_without_class_folders(self, path: Path, prefix: str, splits: str | None) -> None:
        zipped(path, flat(prefix, TRAIN) | (flat(splits, TEST) if splits else {}))
        found = inspect_dataset(path)
        assert found.format == "imagefolder"
        assert found.summary["splits"] == {"train": 0, "test": 4 if splits else None, "train_unlabeled": 12}
        assert found.summary["classes"] == []
        raw = read(path)
        assert raw.classes == []
        assert {*raw.train_labels.tolist(), *raw.test_labels.tolist()} == {-1}
        assert len(raw.train_labels) + len(raw.test_labels) == (16 if splits else 12)
        if splits:
            assert np.array_equal(raw.train_images, planes(TRAIN))
            assert np.array_equal(raw.test_images, planes(TEST))

    def test_folders_below_train_unlabeled_are_no_classes(self, path: Path) -> None:
        zipped(path, classed("train_unlabeled/", TRAIN))
        assert read(path).classes == []

    def test_loose_images_join_a_single_folder(self, path: Path) -> None:
        raw = read(zipped(path, flat("photos/", TRAIN) | flat("more-", TEST)))
        assert (raw.classes, len(raw.train_labels) + len(raw.test_labels), raw.skipped) == ([], 16, [])

    def test_a_validation_split_beside_test_is_mentioned(self, path: Path) -> None:
        raw = read(zipped(path, flat("train/", TRAIN) | flat("test/", TEST) | flat("val/", LOOSE)))
        assert np.array_equal(raw.test_images, planes(TEST))
        assert "6 images of a validation split" in raw.notes[0]

    def test_the_packed_form(self, path: Path, tmp_path: Path) -> None:
        report = pack(read(save_npz(path, {"x_train": TRAIN, "x_test": TEST})), tmp_path / "packed")
        assert report["classes"] == []
        assert report["splits"] == {
            "train": {"images": 0, "per_class": {}},
            "test": {"images": 4, "per_class": {}},
            "train_unlabeled": {"images": 12},
        }
        packed = PackedDataset.load(tmp_path / "packed")
        assert (packed.classes, packed.num_classes) == ([], 0)
        assert packed.train_labels.tolist() == [-1] * 12
        assert packed.test_labels.tolist() == [-1] * 4

    @pytest.mark.parametrize(
        ("arrays", "code", "said"),
        [
            ({"x_train": TRAIN, "x_train_unlabeled": LOOSE}, "dataset_unreadable", "more than one array"),
            ({"x_train": TRAIN, "train_images": LOOSE}, "dataset_unreadable", "once each"),
            ({"x_train": TRAIN, "x_test": TEST[:, :4]}, "dataset_unreadable", "different shapes"),
            ({"x_train": TRAIN[:0]}, "dataset_empty", "no images"),
            ({"x_test": TEST}, "dataset_unreadable", "no x_train"),
        ],
    )
    def test_arrays_that_do_not_fit(self, path: Path, arrays: dict[str, Any], code: str, said: str) -> None:
        error = refused(save_npz(path, arrays))
        assert (error.code, said in error.message) == (code, True), error.message

    def test_a_single_image_leaves_none_to_test_with(self, path: Path) -> None:
        zipped(path, flat("", TRAIN[:1]))
        with pytest.raises(InputError, match="none to test with") as caught:
            read(path)
        assert caught.value.code == "dataset_empty"


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ({"train_labels": torch.full((12,), -2)}, ["0", "1", "2"]),
        ({"test_labels": torch.tensor([0, -1, 1, 2])}, ["0", "1", "2"]),
        ({"test_labels": torch.full((4,), -1)}, ["0", "1", "2"]),
        ({}, []),  # labels without classes
    ],
)
def test_a_packed_file_with_labels_below_or_beyond_is_refused(
    path: Path, tmp_path: Path, labels: dict[str, torch.Tensor], classes: list[str]
) -> None:
    packed = tmp_path / "packed"
    report = pack(read(save_npz(path, LABELED)), packed)
    metadata = {"format_version": "1", "classes": json.dumps(classes)}
    metadata |= {key: json.dumps(report[key]) for key in ("mean", "std")}
    save_file(load_file(packed) | labels, packed, metadata)
    with pytest.raises(InputError):
        PackedDataset.load(packed)
