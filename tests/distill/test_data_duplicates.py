"""Duplicates against the correlations of all pairs in float64, on images that nobody would take for others."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill.data.duplicates import MAX_LISTED, MIN_CORRELATION, find_duplicates
from distill.data.images import Images
from distill.data.packed import pack
from distill.data.packed_rows import PackedRows
from distill.data.raw import RawDataset

Pixels = NDArray[np.uint8]


def blobs(count: int, *, channels: int, height: int, width: int, seed: int) -> Pixels:
    """Coarse random patterns, scaled up: as smooth as photographs, and no two alike."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, channels, 5, 5), dtype=np.uint8)
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BILINEAR))
        for plane in coarse.reshape(-1, 5, 5)
    ]
    return np.stack(planes).reshape(count, channels, height, width)


def saved_again(image_CHW: Pixels, quality: int) -> Pixels:
    """As a JPEG of it decodes."""
    buffer = io.BytesIO()
    Image.fromarray(image_CHW.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).transpose(2, 0, 1)


def found(
    folder: Path,
    train: Pixels,
    test: Pixels,
    *,
    train_labels: list[int] | None = None,
    classes: int = 2,
) -> dict[str, Any]:
    labels = np.arange(len(train)) % classes if train_labels is None else np.array(train_labels)
    raw = RawDataset(
        train_images=Images.of(train),
        train_labels=labels.astype(np.int64),
        test_images=Images.of(test),
        test_labels=np.arange(len(test), dtype=np.int64) % classes,
        classes=[str(number) for number in range(classes)],
    )
    pack(raw, folder / "packed.safetensors")
    with PackedRows(folder / "packed.safetensors") as file:
        return find_duplicates(file)


def test_they_are_those_of_all_pairs(tmp_path: Path) -> None:
    train = blobs(20_000, channels=1, height=9, width=11, seed=0)
    test = blobs(300, channels=1, height=9, width=11, seed=1)
    random = np.random.default_rng(2)
    for index in range(200):  # from hardly changed to hardly to be known
        noisy = train[97 * index] + random.normal(0, index / 30, train.shape[1:])
        test[index] = noisy.round().clip(0, 255)
    test[200] = train[19_999]
    test[201] = (train[5] * 0.6 + 40).astype(np.uint8)

    answer = found(tmp_path, train, test)["test"]

    standard = [
        (flat - flat.mean(axis=1, keepdims=True)) / flat.std(axis=1, keepdims=True)
        for flat in (images.reshape(len(images), -1).astype(np.float64) for images in (train, test))
    ]
    correlations = standard[0] @ standard[1].T / (9 * 11)
    nearest = correlations.argmax(axis=0)
    expected = [
        (index, match) for index, match in enumerate(nearest.tolist()) if correlations[match, index] >= MIN_CORRELATION
    ]
    assert 100 < len(expected) < 200  # the limit lies within what was changed
    assert (answer["searched"], answer["near"]) == (300, len(expected))
    assert answer["share"] == pytest.approx(len(expected) / 300, abs=1e-6)
    assert [(pair["test"], pair["train"]) for pair in answer["pairs"]] == expected[:MAX_LISTED]
    for pair in answer["pairs"]:
        assert 1 - pair["distance"] == pytest.approx(correlations[pair["train"], pair["test"]], abs=2e-6)
        assert pair["labels"] == [pair["test"] % 2, pair["train"] % 2]
    assert {200, 201} <= {index for index, _ in expected}
    assert answer["exact"] == int((test[:, None] == train[nearest][:, None]).all(axis=(1, 2, 3, 4)).sum())


def test_large_images_in_colour_are_held_against_each_other_averaged_down(tmp_path: Path) -> None:
    train = blobs(700, channels=3, height=128, width=96, seed=3)  # more than is read at once
    test = blobs(5, channels=3, height=128, width=96, seed=4)
    test[1] = saved_again(train[650], 60)
    test[2] = train[11, ::-1]  # other colours: another image
    test[4] = np.roll(train[12], 20, axis=2)

    answer = found(tmp_path, train, test)["test"]

    (pair,) = answer["pairs"]
    small = [image.reshape(3, 32, 4, 32, 3).mean(axis=(2, 4)).ravel() for image in (test[1], train[650])]
    assert (pair["test"], pair["train"]) == (1, 650)
    assert 1 - pair["distance"] == pytest.approx(np.corrcoef(*small)[0, 1], abs=2e-6)
    assert (answer["exact"], answer["near"]) == (0, 1)


def test_images_without_any_pattern_are_near_only_to_their_equals(tmp_path: Path) -> None:
    train = blobs(6, channels=1, height=8, width=8, seed=5)
    test = blobs(3, channels=1, height=8, width=8, seed=6)
    train[2], test[0], test[1] = 0, 0, 255
    answer = found(tmp_path, train, test)["test"]
    assert (answer["exact"], answer["near"]) == (1, 1)
    assert [(pair["test"], pair["train"], pair["distance"]) for pair in answer["pairs"]] == [(0, 2, 0.0)]


def test_where_all_train_images_are_alike_each_test_image_finds_its_own(tmp_path: Path) -> None:
    pattern = blobs(1, channels=1, height=16, width=16, seed=7)
    noise = np.random.default_rng(8).integers(-3, 4, (3000, 1, 16, 16))
    train = (pattern + noise).clip(0, 255).astype(np.uint8)
    answer = found(tmp_path, train, train[::-1].copy())["test"]
    assert (answer["exact"], answer["near"], answer["share"]) == (3000, 3000, 1.0)
    assert answer["pairs"][0]["train"] == 2999
    assert len(answer["pairs"]) == MAX_LISTED
    changed = train[1000:1200].copy()
    changed[:, 0, 0, 0] ^= 1
    answer = found(tmp_path, train, changed)["test"]
    assert (answer["exact"], answer["near"]) == (0, 200)
    assert [pair["train"] for pair in answer["pairs"]] == list(range(1000, 1100))


def test_equal_train_images_are_counted_and_those_with_other_labels_named(tmp_path: Path) -> None:
    train = blobs(9, channels=1, height=8, width=8, seed=9)
    train[4] = train[1]  # the same label
    train[5] = train[0]  # another one
    train[7] = train[0]
    train[8] = train[6]  # one of the two has no label
    labels = [0, 1, 0, 1, 1, 1, -1, 0, 0]
    answer = found(tmp_path, train, blobs(2, channels=1, height=8, width=8, seed=10), train_labels=labels)["train"]
    assert (answer["exact"], answer["conflicting"]) == (4, 3)
    assert answer["pairs"] == [{"train": 5, "earlier": 0, "labels": [1, 0]}]


def test_of_too_many_pairs_a_part_is_looked_at_and_that_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.data.duplicates._MAX_PAIRS", 40 * 10)
    train = blobs(40, channels=1, height=8, width=8, seed=11)
    answer = found(tmp_path, train, train.copy())["test"]
    assert (answer["searched"], answer["exact"], answer["near"], answer["share"]) == (10, 10, 10, 1.0)
    assert [pair["test"] for pair in answer["pairs"]] == np.linspace(0, 39, 10).astype(int).tolist()
