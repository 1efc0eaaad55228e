from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.data.images import Images
from distill.data.packed import PackedDataset, pack
from distill.data.raw import RawDataset
from distill.data.raw_landmarks import RawLandmarks
from distill.data.readers import read
from distill.errors import InputError
from distill.markup import IBUG_68, Markup
from tests.fixtures.face_files import w300_zip

MARKUP = Markup(num_points=4, flip_pairs=((0, 1),), normaliser=(0, 1))


@pytest.fixture
def raw() -> RawLandmarks:
    random = np.random.default_rng(0)
    return RawLandmarks(
        train_images=Images.of(random.integers(0, 200, (31, 3, 5, 7), dtype=np.uint8)),
        train_points=random.uniform(-1, 2, (31, 4, 2)).astype(np.float32),
        test_images=Images.of(random.integers(0, 256, (7, 3, 5, 7), dtype=np.uint8)),
        test_points=random.uniform(0, 1, (7, 4, 2)).astype(np.float32),
        markup=MARKUP,
        skipped=[{"path": f"{i}.png", "reason": "truncated"} for i in range(130)],
        ignored={".DS_Store": 3, "__MACOSX": 1},
        notes=["Cut out."],
    )


def test_round_trip(raw: RawLandmarks, tmp_path: Path) -> None:
    pack(raw, tmp_path / "packed")
    packed = PackedDataset.load(tmp_path / "packed")
    for name in ("train_images", "train_points", "test_images", "test_points"):
        assert np.array_equal(getattr(packed, name).numpy(), getattr(raw, name))
    assert packed.task == "landmarks"
    assert packed.markup == MARKUP
    assert (packed.classes, packed.num_classes, packed.in_channels, packed.image_size) == ([], 0, 3, (5, 7))
    for labels, count in ((packed.train_labels, 31), (packed.test_labels, 7)):
        assert labels.dtype == torch.int64
        assert labels.tolist() == [-1] * count


def test_the_file_is_plain_safetensors_without_labels(raw: RawLandmarks, tmp_path: Path) -> None:
    pack(raw, tmp_path / "packed")
    assert set(load_file(tmp_path / "packed")) == {"train_images", "train_points", "test_images", "test_points"}


def test_report(raw: RawLandmarks, tmp_path: Path) -> None:
    report = pack(raw, tmp_path / "packed")
    assert (report["task"], report["num_points"]) == ("landmarks", 4)
    assert (report["flip_pairs"], report["normaliser"]) == ([[0, 1]], [0, 1])
    assert report["splits"] == {"train": {"images": 31}, "test": {"images": 7}}
    assert report["image"] == {"channels": 3, "height": 5, "width": 7}
    assert (report["classes"], len(report["skipped"]), report["skipped_count"], report["ignored"]) == ([], 100, 130, 4)
    assert report["notes"] == ["Cut out."]
    values = np.asarray(raw.train_images).astype(np.float64) / 255
    np.testing.assert_allclose(report["mean"], values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(report["std"], values.std(axis=(0, 2, 3)), rtol=1e-12)
    assert json.loads(json.dumps(report)) == report


def test_equal_data_give_equal_bytes(raw: RawLandmarks, tmp_path: Path) -> None:
    assert len({pack(raw, tmp_path / f"{i}")["sha256"] for i in range(3)}) == 1


def test_a_data_set_with_labels_says_that_it_is_one(tmp_path: Path) -> None:
    labels = np.arange(8) % 2
    images = np.zeros((8, 1, 4, 4), dtype=np.uint8)
    raw = RawDataset(
        train_images=Images.of(images),
        train_labels=labels,
        test_images=Images.of(images),
        test_labels=labels,
        classes=["a", "b"],
    )
    assert pack(raw, tmp_path / "packed")["task"] == "classification"
    packed = PackedDataset.load(tmp_path / "packed")
    assert (packed.task, packed.markup, packed.train_points, packed.test_points) == ("classification", None, None, None)


def test_from_the_upload_to_the_packed_form(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(w300_zip(6, 2))
    pack(read(tmp_path / "upload"), tmp_path / "packed")
    packed = PackedDataset.load(tmp_path / "packed")
    assert packed.markup == IBUG_68
    assert packed.train_points is not None
    assert tuple(packed.train_points.shape) == (6, 68, 2)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"train_points": torch.zeros(31, 5, 2)}, {}),
        ({"train_points": torch.zeros(30, 4, 2)}, {}),
        ({"test_points": torch.zeros(7, 4, 2, dtype=torch.float64)}, {}),
        ({"test_points": torch.full((7, 4, 2), torch.nan)}, {}),
        ({"test_points": torch.full((7, 4, 2), 2.1)}, {}),
        ({"test_points": torch.full((7, 4, 2), -1.1)}, {}),
        ({"test_points": None}, {}),
        ({"test_images": None}, {}),
        ({"train_labels": torch.zeros(31, dtype=torch.int64)}, {}),
        ({}, {"task": "segmentation"}),
        ({}, {"task": None}),
        ({}, {"task": "classification"}),
        ({}, {"num_points": "5"}),
        ({}, {"num_points": None}),
        ({}, {"flip_pairs": "[[0, 9]]"}),
        ({}, {"flip_pairs": "{"}),
        ({}, {"normaliser": '"eyes"'}),
        ({}, {"normaliser": None}),
    ],
)
def test_unsound_files_are_refused(
    raw: RawLandmarks, tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, Any]
) -> None:
    path = tmp_path / "packed"
    report = pack(raw, path)
    sound = {name: json.dumps(report[name]) for name in ("classes", "mean", "std", *MARKUP.as_json())}
    sound |= {"format_version": "1", "task": "landmarks"}
    changed = {name: value for name, value in (load_file(path) | tensors).items() if value is not None}
    save_file(changed, path, {name: value for name, value in (sound | metadata).items() if value is not None})
    with pytest.raises(InputError) as caught:
        PackedDataset.load(path)
    assert caught.value.code == "dataset_unreadable"
