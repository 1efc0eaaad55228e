from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.data.images import Images
from distill.data.packed import PackedDataset, pack, statistics
from distill.data.raw import RawDataset
from distill.errors import InputError


@pytest.fixture
def raw() -> RawDataset:
    random = np.random.default_rng(0)
    return RawDataset(
        train_images=Images.of(random.integers(0, 200, (31, 3, 5, 7), dtype=np.uint8)),
        train_labels=np.arange(31) % 3,
        test_images=Images.of(random.integers(0, 256, (7, 3, 5, 7), dtype=np.uint8)),
        test_labels=np.array([0, 0, 1, 1, 1, 2, 0]),
        classes=["ant", "bee", "Käfer"],
        skipped=[{"path": f"ant/{i}.png", "reason": "truncated"} for i in range(130)],
        ignored={".DS_Store": 3, "__MACOSX": 1},
        notes=["Held out."],
    )


def test_round_trip(raw: RawDataset, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    pack(raw, path)
    packed = PackedDataset.load(path)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert np.array_equal(getattr(packed, name).numpy(), getattr(raw, name))
    assert (packed.train_images.dtype, packed.train_labels.dtype) == (torch.uint8, torch.int64)
    assert packed.classes == raw.classes
    assert (packed.num_classes, packed.in_channels, packed.image_size) == (3, 3, (5, 7))
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_is_plain_safetensors(raw: RawDataset, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    pack(raw, path)
    tensors = load_file(path)
    assert set(tensors) == {"train_images", "train_labels", "test_images", "test_labels"}
    assert np.array_equal(tensors["test_images"].numpy(), raw.test_images)


def test_report(raw: RawDataset, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    report = pack(raw, path)
    assert report["classes"] == ["ant", "bee", "Käfer"]
    assert report["splits"] == {
        "train": {"images": 31, "per_class": {"ant": 11, "bee": 10, "Käfer": 10}},
        "test": {"images": 7, "per_class": {"ant": 3, "bee": 3, "Käfer": 1}},
    }
    assert report["image"] == {"channels": 3, "height": 5, "width": 7}
    assert (len(report["skipped"]), report["skipped_count"], report["ignored"]) == (100, 130, 4)
    assert report["ignored_kinds"] == {".DS_Store": 3, "__MACOSX": 1}
    assert report["notes"] == ["Held out."]
    assert report["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report["bytes"] == path.stat().st_size
    assert json.loads(json.dumps(report)) == report


def test_equal_data_give_equal_bytes(raw: RawDataset, tmp_path: Path) -> None:
    hashes = {pack(raw, tmp_path / f"{i}.safetensors")["sha256"] for i in range(5)}
    assert len(hashes) == 1


def test_statistics_equal_float64(raw: RawDataset, tmp_path: Path) -> None:
    values = np.asarray(raw.train_images).astype(np.float64) / 255
    mean, std = statistics(raw.train_images)
    np.testing.assert_allclose(mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(axis=(0, 2, 3)), rtol=1e-12)
    pack(raw, tmp_path / "packed")
    packed = PackedDataset.load(tmp_path / "packed")
    np.testing.assert_allclose(packed.mean_C.numpy(), mean, rtol=1e-6)
    np.testing.assert_allclose(packed.std_C.numpy(), std, rtol=1e-6)


def test_statistics_over_many_chunks() -> None:
    images = np.random.default_rng(1).integers(0, 256, (2500, 1, 3, 3), dtype=np.uint8)
    mean, std = statistics(Images.of(images))
    np.testing.assert_allclose(mean, [(images / 255).mean()], rtol=1e-12)
    np.testing.assert_allclose(std, [(images / 255).std()], rtol=1e-12)


def test_a_channel_that_never_changes_can_be_divided_by() -> None:
    images = np.full((4, 1, 3, 3), 51, dtype=np.uint8)
    mean, std = statistics(Images.of(images))
    assert mean == pytest.approx([0.2])
    assert std == [1.0]


def test_a_failed_write_leaves_nothing_and_the_old_file(raw: RawDataset, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    before = pack(raw, path)["sha256"]
    wrong = RawDataset(**{**vars(raw), "train_labels": raw.train_labels.astype(np.complex64)})
    with pytest.raises((KeyError, TypeError)):
        pack(wrong, path)
    assert list(tmp_path.iterdir()) == [path]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own list of mappings")
def test_images_are_mapped_read_only_and_take_no_memory_of_their_own(raw: RawDataset, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    pack(raw, path)

    packed = PackedDataset.load(path)

    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    assert {line[1] for line in lines} == {"r--s"}  # what is not private is not counted as this process's data
    places = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    for images in (packed.train_images, packed.test_images):
        assert any(start <= images.data_ptr() < end for start, end in places)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"train_labels": torch.full((31,), 3)}, {}),
        ({"train_labels": torch.zeros(30, dtype=torch.int64)}, {}),
        ({"train_labels": torch.zeros(31, dtype=torch.int32)}, {}),
        ({"test_images": torch.zeros(7, 3, 5, 8, dtype=torch.uint8)}, {}),
        ({"test_images": torch.zeros(7, 3, 5, 7)}, {}),
        ({"test_images": None}, {}),
        ({"extra": torch.zeros(1)}, {}),
        ({}, {"format_version": "2"}),
        ({}, {"classes": "[1, 2, 3]"}),
        ({}, {"classes": "{"}),
        ({}, {"mean": "[0.1]"}),
        ({}, {"std": "[0.1, 0.0, 0.1]"}),
        ({}, {"std": "[0.1, NaN, 0.1]"}),
        ({}, {"mean": None}),
    ],
)
def test_unsound_files_are_refused(
    raw: RawDataset, tmp_path: Path, tensors: dict[str, Any], metadata: dict[str, Any]
) -> None:
    path = tmp_path / "packed.safetensors"
    report = pack(raw, path)
    sound = {
        "format_version": "1",
        "classes": json.dumps(report["classes"]),
        "mean": json.dumps(report["mean"]),
        "std": json.dumps(report["std"]),
    }
    changed = {k: v for k, v in (load_file(path) | tensors).items() if v is not None}
    save_file(changed, path, {k: v for k, v in (sound | metadata).items() if v is not None})
    with pytest.raises(InputError) as caught:
        PackedDataset.load(path)
    assert caught.value.code == "dataset_unreadable"


def test_a_file_cut_short_is_refused(raw: RawDataset, tmp_path: Path) -> None:
    path = tmp_path / "packed.safetensors"
    pack(raw, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError):
        PackedDataset.load(path)
    with pytest.raises(FileNotFoundError):
        PackedDataset.load(tmp_path / "none")
