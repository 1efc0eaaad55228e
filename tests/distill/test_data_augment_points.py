"""Points must go where their pixels go: each is drawn into the image, and found again in the augmented one."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from distill.data.augment import Augmentation, AugmentationName

NAMES = get_args(AugmentationName)


def dots(points_BLD: np.ndarray, *, size: tuple[int, int], radius: float) -> Tensor:
    """One channel a point: a spot of light about it, uint8 (B, L, H, W); points in pixels, pixel i from i to i + 1."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    squares = (x - points_BLD[..., 0, None, None]) ** 2 + (y - points_BLD[..., 1, None, None]) ** 2
    return torch.from_numpy(np.rint(255 * np.exp(-squares / (2 * radius**2))).astype(np.uint8))


def centres(images_BLHW: Tensor) -> np.ndarray:
    """Where each channel's light is centred, in pixels, (B, L, 2)."""
    light = images_BLHW.double().numpy()
    y, x = np.mgrid[: light.shape[2], : light.shape[3]] + 0.5
    total = np.maximum(light.sum(axis=(2, 3)), 1)
    return np.stack([(light * x).sum(axis=(2, 3)) / total, (light * y).sum(axis=(2, 3)) / total], axis=-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 64), (56, 72)])
def test_points_go_where_their_light_goes(name: AugmentationName, size: tuple[int, int]) -> None:
    """Three points, of which the first two are a pair; the third is alone."""
    height, width = size
    random = np.random.default_rng(0)
    before = random.uniform(0.25, 0.75, (300, 3, 2)) * (width, height)
    augmentation = Augmentation(name, size)
    views = augmentation.draw(300, generator=torch.Generator().manual_seed(1))
    points = torch.from_numpy(before / (width, height)).float()
    after = augmentation.apply_points(points, views, flip_pairs=[(0, 1)])
    assert after.dtype == torch.float32
    pixels = after.double().numpy() * (width, height)
    images = augmentation.apply(dots(before, size=size, radius=1.0), views)
    flipped = (views.numpy() % 2 == 1) & augmentation.flips
    # In a mirrored image, the light of what was the second point is now the first one's.
    images[torch.from_numpy(flipped)] = images[torch.from_numpy(flipped)][:, [1, 0, 2]]
    # A resized crop makes the spots four times as large at most; those that are wholly inside can be compared.
    border = 16 if name == "resized_crop_flip" else 4
    inside = ((pixels > border) & (pixels < np.array([width, height]) - border)).all(axis=2)
    assert inside.sum() > 100
    assert flipped.any() == augmentation.flips
    np.testing.assert_allclose(pixels[inside], centres(images)[inside], atol=0.1)


@pytest.mark.parametrize("name", ["crop", "crop_flip", "flip"])
def test_single_pixels_are_found_exactly_or_are_told_to_be_outside(name: AugmentationName) -> None:
    height, width = 16, 24
    augmentation = Augmentation(name, (height, width))
    count = augmentation.num_views
    random = np.random.default_rng(2)
    places = random.integers(0, (width, height), (count, 2))
    images = torch.zeros(count, 1, height, width, dtype=torch.uint8)
    images[torch.arange(count), 0, places[:, 1], places[:, 0]] = 255
    points = torch.from_numpy((places[:, None] + 0.5) / (width, height)).float()
    views = torch.arange(count)
    after = augmentation.apply_points(points, views, flip_pairs=[])[:, 0] * torch.tensor([width, height])
    seen = augmentation.apply(images, views)[:, 0]
    for point, image in zip(after.numpy(), seen.numpy(), strict=True):
        found = np.argwhere(image)[:, ::-1]
        is_inside = bool(((point > 0) & (point < (width, height))).all())
        assert len(found) == is_inside
        if is_inside:
            np.testing.assert_allclose(point, found[0] + 0.5, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_identity_moves_nothing(name: AugmentationName) -> None:
    points = torch.rand(5, 4, 2)
    augmentation = Augmentation(name, (20, 30))
    views = torch.full((5,), augmentation.identity)
    after = augmentation.apply_points(points, views, flip_pairs=[(0, 3)])
    torch.testing.assert_close(after, points)


def test_a_mirror_twice_is_no_mirror() -> None:
    points = torch.rand(6, 5, 2)
    augmentation = Augmentation("flip", (8, 8))
    once = augmentation.apply_points(points, torch.ones(6, dtype=torch.int64), flip_pairs=[(0, 4), (1, 2)])
    assert torch.equal(once[:, 3, 1], points[:, 3, 1])
    assert torch.equal(once[:, 0, 1], points[:, 4, 1])
    torch.testing.assert_close(once[:, 1, 0], 1 - points[:, 2, 0])
    twice = augmentation.apply_points(once, torch.ones(6, dtype=torch.int64), flip_pairs=[(0, 4), (1, 2)])
    torch.testing.assert_close(twice, points)


def test_mirrors_are_refused_where_the_pairs_are_not_known() -> None:
    points, views = torch.rand(2, 3, 2), torch.zeros(2, dtype=torch.int64)
    for name in NAMES:
        augmentation = Augmentation(name, (8, 8))
        if augmentation.flips:
            with pytest.raises(ValueError, match="mirrors"):
                augmentation.apply_points(points, views, flip_pairs=None)
        else:
            assert augmentation.apply_points(points, views, flip_pairs=None).shape == points.shape


@pytest.mark.parametrize("shape", [(3, 3, 2), (2, 3, 3), (2, 6)])
def test_points_that_are_none_and_other_counts_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="views"):
        Augmentation("crop", (8, 8)).apply_points(torch.rand(shape), torch.zeros(2, dtype=torch.int64), flip_pairs=None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_the_device_gives_the_same_points(name: AugmentationName) -> None:
    points = torch.rand(64, 6, 2)
    augmentation = Augmentation(name, (32, 40))
    views = augmentation.draw(64, generator=torch.Generator().manual_seed(4))
    expected = augmentation.apply_points(points, views, flip_pairs=[(0, 5)])
    found = augmentation.apply_points(points.cuda(), views.cuda(), flip_pairs=[(0, 5)])
    torch.testing.assert_close(found.cpu(), expected)
