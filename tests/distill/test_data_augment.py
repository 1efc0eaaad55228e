"""Batched augmentation against a per-image loop in Pillow, one view at a time."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from distill.data.augment import Augmentation, AugmentationName, _cut_windows, _gather_windows, normalize

NAMES = get_args(AugmentationName)


def random_images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def pad_crop_flip(image: np.ndarray, *, padding: int, dy: int, dx: int, flip: int) -> np.ndarray:
    """One (C, H, W) image, channel by channel, the way a data loader would do it."""
    planes = []
    for plane in image:
        padded = ImageOps.expand(Image.fromarray(plane), border=padding, fill=0)
        crop = padded.crop((dx, dy, dx + plane.shape[1], dy + plane.shape[0]))
        planes.append(np.asarray(ImageOps.mirror(crop) if flip else crop))
    return np.stack(planes)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 9, 17), (2, 5, 4)])
def test_every_view_of_crop_flip_equals_the_loop(shape: tuple[int, int, int]) -> None:
    augmentation = Augmentation("crop_flip", shape[1:])
    padding = max(1, min(shape[1:]) // 8)
    offsets = 2 * padding + 1
    assert augmentation.num_views == offsets * offsets * 2
    images = random_images(augmentation.num_views, *shape)
    expected = [
        pad_crop_flip(images[i].numpy(), padding=padding, dy=dy, dx=dx, flip=flip)
        for i, (dy, dx, flip) in enumerate(np.ndindex(offsets, offsets, 2))
    ]
    augmented = augmentation.apply(images, torch.arange(augmentation.num_views))
    assert augmented.dtype == torch.uint8
    assert np.array_equal(augmented.numpy(), np.stack(expected))


def test_flip_and_none() -> None:
    images = random_images(4, 3, 6, 7)
    flip = Augmentation("flip", (6, 7))
    assert flip.num_views == 2
    flipped = flip.apply(images, torch.tensor([0, 1, 1, 0])).numpy()
    expected = images.numpy().copy()
    expected[1:3] = expected[1:3, :, :, ::-1]
    assert np.array_equal(flipped, expected)
    none = Augmentation("none", (6, 7))
    assert none.num_views == 1
    assert torch.equal(none.apply(images, torch.zeros(4, dtype=torch.int64)), images)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 17)])
def test_every_view_of_crop_equals_the_loop(shape: tuple[int, int, int]) -> None:
    augmentation = Augmentation("crop", shape[1:])
    padding = max(1, min(shape[1:]) // 8)
    offsets = 2 * padding + 1
    assert augmentation.num_views == offsets * offsets
    images = random_images(augmentation.num_views, *shape)
    expected = [
        pad_crop_flip(images[i].numpy(), padding=padding, dy=dy, dx=dx, flip=0)
        for i, (dy, dx) in enumerate(np.ndindex(offsets, offsets))
    ]
    augmented = augmentation.apply(images, torch.arange(augmentation.num_views))
    assert np.array_equal(augmented.numpy(), np.stack(expected))


@pytest.mark.parametrize("name", NAMES)
def test_identity_leaves_images_as_they_are(name: AugmentationName) -> None:
    images = random_images(5, 1, 28, 28)
    augmentation = Augmentation(name, (28, 28))
    views = torch.full((5,), augmentation.identity)
    assert 0 <= augmentation.identity < augmentation.num_views
    assert torch.equal(augmentation.apply(images, views), images)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_does_not_depend_on_its_batch(name: AugmentationName) -> None:
    images = random_images(6, 3, 32, 32)
    augmentation = Augmentation(name, (32, 32))
    views = augmentation.draw(6, generator=torch.Generator().manual_seed(1))
    together = augmentation.apply(images, views)
    alone = [augmentation.apply(images[i : i + 1], views[i : i + 1]) for i in range(6)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("name", NAMES)
def test_memory_order_of_the_input_does_not_matter(name: AugmentationName) -> None:
    images = random_images(8, 3, 16, 16)
    augmentation = Augmentation(name, (16, 16))
    views = augmentation.draw(8, generator=torch.Generator().manual_seed(2))
    turned = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(augmentation.apply(turned, views), augmentation.apply(images, views))


def test_both_ways_to_cut_agree() -> None:
    padded = random_images(16, 3, 14, 15)
    starts = torch.randint(0, 4 * 15 + 4, (16,), generator=torch.Generator().manual_seed(3))
    cut = _cut_windows(padded, starts, (10, 11))
    assert torch.equal(cut, _gather_windows(padded, starts, (10, 11)))


def test_views_are_drawn_uniformly_and_from_the_seed() -> None:
    augmentation = Augmentation("crop_flip", (28, 28))
    draws = [augmentation.draw(98_000, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert draws[0].dtype == torch.int64
    counts = np.bincount(draws[0].numpy(), minlength=augmentation.num_views)
    assert len(counts) == 98
    # Each count is near 1000 with deviation 32; chi-squared over 97 degrees has deviation 14.
    assert 40 < ((counts - 1000) ** 2 / 1000).sum() < 170


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("turned", [False, True])
def test_normalize_equals_the_formula_in_float64(channels: int, turned: bool) -> None:
    images = random_images(5, channels, 12, 9)
    mean, std = torch.linspace(0.2, 0.6, channels), torch.linspace(0.5, 0.1, channels)
    expected = (images.numpy() / 255 - mean.double().numpy()[:, None, None]) / std.double().numpy()[:, None, None]
    given = images.contiguous(memory_format=torch.channels_last) if turned else images
    result = normalize(given, mean, std)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-6)
    assert torch.equal(given, images)
    np.testing.assert_allclose(normalize(given, mean, std, dtype=torch.float64).numpy(), expected, atol=1e-12)
    rounded = normalize(given, mean, std, dtype=torch.bfloat16)
    assert torch.equal(rounded, result.to(torch.bfloat16))


def test_wrong_sizes_and_names_are_refused() -> None:
    augmentation = Augmentation("crop_flip", (28, 28))
    with pytest.raises(ValueError, match="28"):
        augmentation.apply(random_images(2, 1, 32, 32), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="views"):
        augmentation.apply(random_images(2, 1, 28, 28), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="mixup"):
        Augmentation("mixup", (28, 28))  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", NAMES)
def test_the_device_gives_the_same_bytes(name: AugmentationName) -> None:
    images = random_images(64, 3, 32, 32)
    augmentation = Augmentation(name, (32, 32))
    views = augmentation.draw(64, generator=torch.Generator().manual_seed(4))
    on_device = augmentation.apply(images.cuda(), views.cuda())
    difference = (on_device.cpu().int() - augmentation.apply(images, views).int()).abs()
    # Scaling computes in floats, and what lies between two levels may be rounded either way.
    assert difference.max() <= (name == "resized_crop_flip")
    assert (difference > 0).double().mean() < 0.02
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.4])
    normalized = normalize(on_device, mean.cuda(), std.cuda())
    torch.testing.assert_close(normalized.cpu(), normalize(on_device.cpu(), mean, std))
