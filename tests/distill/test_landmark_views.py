"""In training, points go along with crops and flips; without known pairs nothing is flipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill import plan
from distill.data.augment import Augmentation, AugmentationName
from distill.data.packed import PackedDataset, pack
from distill.data.readers import read
from distill.runs import Material, _EpochPlan, draw_views
from distill.spec import TrainingSpec
from distill.trainer import Inputs, train
from tests.fixtures.face_jobs import curve, ready, spec
from tests.fixtures.faces import FLIP_PAIRS, NUM_POINTS
from tests.fixtures.tiny_faces import HEIGHT, NUM_TRAIN, WIDTH, wide_faces_npz

LEVELS = np.array([250, 60, 120, 180, 215, 90, 30, 150], np.uint8)
"""Of the one pixel by which each point is drawn, on black."""
SWAPPED = [1, 0, 2, 4, 3, 5, 7, 6]
"""By FLIP_PAIRS: which one stands in a point's place in a mirror."""


@pytest.fixture
def dots(tmp_path: Path) -> PackedDataset:
    """Images whose points are single pixels, each in a column of its own, so that none hides another."""
    random = np.random.default_rng(3)
    images = np.zeros((72, HEIGHT, WIDTH), np.uint8)
    points = np.zeros((72, NUM_POINTS, 2), np.float32)
    for image, places in zip(images, points, strict=True):
        places[:, 0] = random.choice(np.arange(WIDTH), NUM_POINTS, replace=False)
        places[:, 1] = random.integers(0, HEIGHT, NUM_POINTS)
        image[places[:, 1].astype(int), places[:, 0].astype(int)] = LEVELS
    np.savez(tmp_path / "dots.npz", x_train=images, landmarks_train=points, flip_pairs=FLIP_PAIRS)
    pack(read(tmp_path / "dots.npz"), tmp_path / "dots.safetensors")
    return PackedDataset.load(tmp_path / "dots.safetensors")


def material_of(data: PackedDataset, name: AugmentationName, *, views: int | None) -> Material:
    assert data.train_points is not None
    assert data.markup is not None
    augmentation = Augmentation(name, image_size=data.image_size)
    drawn = None
    if views is not None:
        drawn = draw_views(augmentation, num_images=len(data.train_images), num_views=views, seed=0)
    return Material(
        training=TrainingSpec(epochs=3, batch_size=16),
        device=torch.device("cpu"),
        precision=torch.float32,
        images_NCHW=data.train_images,
        targets_N=data.train_points,
        test_images_NCHW=data.test_images,
        augmentation=augmentation,
        views_NV=drawn,
        bank=None,
        teacher=None,
        prepare=torch.Tensor.float,
        flip_pairs=data.markup.flip_pairs,
    )


def batches(material: Material) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for epoch in range(material.epochs):
        plan_of_epoch = _EpochPlan(material, epoch=epoch)
        for position in range(material.steps_per_epoch):
            yield plan_of_epoch.batch(position, needs=frozenset())[:3]


def levels_at(image: NDArray[Any], points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Which points lie inside of the image (L,), and the levels of their pixels."""
    places = points * (WIDTH, HEIGHT) - 0.5
    whole = np.rint(places).astype(int)
    np.testing.assert_allclose(places, whole, atol=1e-3)
    inside = ((whole >= 0) & (whole < (WIDTH, HEIGHT))).all(axis=1)
    return inside, image[whole[inside, 1], whole[inside, 0]]


@pytest.mark.parametrize("views", [4, None], ids=["four views", "fresh views"])
@pytest.mark.parametrize("name", ["none", "flip", "crop", "crop_flip"])
def test_points_go_where_their_pixels_go(dots: PackedDataset, name: AugmentationName, views: int | None) -> None:
    seen = moved = mirrored = hidden = 0
    for indices, images, targets in batches(material_of(dots, name, views=views)):
        assert dots.train_points is not None
        moved += int((targets != dots.train_points[indices]).any(dim=2).any(dim=1).sum())
        for image, points in zip(images[:, 0].numpy(), targets.numpy(), strict=True):
            inside, found = levels_at(image, points)
            is_mirrored = not np.array_equal(found, LEVELS[inside])
            if is_mirrored:
                np.testing.assert_array_equal(found, LEVELS[SWAPPED][inside])
            assert (image > 0).sum() == inside.sum()  # and what lies outside is not to be seen
            seen, mirrored, hidden = seen + 1, mirrored + is_mirrored, hidden + int(not inside.all())
    assert (moved > 0) == (name != "none")
    assert (0.3 < mirrored / seen < 0.7) == ("flip" in name)
    assert (mirrored == 0) == ("flip" not in name)
    assert (hidden > 0) == ("crop" in name)


@pytest.mark.parametrize("wanted", ["auto", "crop"])
def test_without_known_pairs_nothing_is_flipped(face_inputs: Inputs, wanted: str) -> None:
    path = face_inputs.dataset_path.with_name("unpaired.npz")
    path.write_bytes(wide_faces_npz())
    pack(read(path), path.with_suffix(".safetensors"))
    unpaired = replace(face_inputs, dataset_path=path.with_suffix(".safetensors"))
    asked = spec(epochs=1).model_copy(update={"training": TrainingSpec(epochs=1, batch_size=32, augmentation=wanted)})
    asked = plan.resolve(asked, num_images=NUM_TRAIN, image_size=(HEIGHT, WIDTH), can_flip=False)

    made = ready(asked, unpaired).material

    assert asked.training.augmentation == {"auto": "none", "crop": "crop"}[wanted]
    assert made.flip_pairs is None
    assert not made.augmentation.flips
    assert curve(train(asked, unpaired), "val/nme")


@pytest.mark.parametrize(("base", "unflipped"), [("small", "none"), ("cifar", "crop"), ("imagenet", "crop")])
def test_what_the_nearest_recipe_crops_is_cropped_all_the_same(base: str, unflipped: str) -> None:
    sizes = {"small": (5_000, 28), "cifar": (50_000, 32), "imagenet": (1_200_000, 224)}
    count, side = sizes[base]
    asked = spec().model_copy(update={"training": TrainingSpec()})
    resolved = plan.resolve(asked, num_images=count, image_size=(side, side), can_flip=False)
    assert resolved.training.augmentation == unflipped
