"""The resized crop against Pillow, against float64 interpolation, and against the published way to draw boxes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from distill.data.augment import Augmentation
from distill.data.resized_crop import PLACES, ResizedCrops


def random_images(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def drawn_boxes(size: tuple[int, int], *, count: int) -> np.ndarray:
    """(top, left, height, width) of drawn views, (count, 4)."""
    augmentation = Augmentation("resized_crop_flip", size)
    views = augmentation.draw(count, generator=torch.Generator().manual_seed(0))
    boxes = ResizedCrops(size).boxes(views // 2)
    return torch.stack([boxes.top_B, boxes.left_B, boxes.height_B, boxes.width_B], dim=1).numpy()


def published_boxes(size: tuple[int, int], *, count: int) -> np.ndarray:
    """The definition, one box at a time: draw area, ratio and place until the box fits."""
    random = np.random.default_rng(1)
    boxes = []
    while len(boxes) < count:
        area = size[0] * size[1] * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= size[1] and 0 < height <= size[0]:
            top, left = random.integers(0, size[0] - height + 1), random.integers(0, size[1] - width + 1)
            boxes.append((top, left, height, width))
    return np.array(boxes)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 24, 40), (3, 96, 72)])
def test_views_equal_cutting_and_scaling_in_pillow(shape: tuple[int, int, int]) -> None:
    """Pillow rounds to whole levels between its two passes, so that one level of 255 may differ."""
    _, height, width = shape
    images = random_images(100, *shape)
    augmentation = Augmentation("resized_crop_flip", (height, width))
    views = augmentation.draw(100, generator=torch.Generator().manual_seed(5))
    boxes = ResizedCrops((height, width)).boxes(views // 2)
    result = augmentation.apply(images, views)
    assert result.dtype == torch.uint8
    differences = []
    for i in range(100):
        left, top = int(boxes.left_B[i]), int(boxes.top_B[i])
        box = (left, top, left + int(boxes.width_B[i]), top + int(boxes.height_B[i]))
        for plane, found in zip(images[i].numpy(), result[i].numpy(), strict=True):
            cut = Image.fromarray(plane).crop(box).resize((width, height), Image.Resampling.BILINEAR)
            expected = np.asarray(cut)[:, ::-1] if views[i] % 2 else np.asarray(cut)
            differences.append(np.abs(expected.astype(int) - found.astype(int)))
    assert max(difference.max() for difference in differences) <= 1
    assert np.mean([difference.mean() for difference in differences]) < 0.25


def test_views_equal_interpolation_in_float64() -> None:
    images = random_images(60, 3, 28, 36)
    augmentation = Augmentation("resized_crop_flip", (28, 36))
    views = augmentation.draw(60, generator=torch.Generator().manual_seed(6))
    boxes = ResizedCrops((28, 36)).boxes(views // 2)
    result = augmentation.apply(images, views)
    for i in range(60):
        top, left = int(boxes.top_B[i]), int(boxes.left_B[i])
        cut = images[i : i + 1, :, top : top + int(boxes.height_B[i]), left : left + int(boxes.width_B[i])]
        exact = F.interpolate(cut.double(), size=(28, 36), mode="bilinear", antialias=True)[0]
        exact = exact.flip(2) if views[i] % 2 else exact
        assert (result[i] - exact).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (48, 64), (64, 48)])
def test_boxes_are_spread_as_the_published_ones(size: tuple[int, int]) -> None:
    """Two samples of 20,000: their distributions differ nowhere by 2 %, four times what chance lets expect."""
    ours, published = drawn_boxes(size, count=20_000), published_boxes(size, count=20_000)
    assert (ours >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()
    measures = [
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 2],
        lambda b: b[:, 3],
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
        lambda b: b[:, 0] * size[1] + b[:, 1],
    ]
    for measure in measures:
        a, b = np.sort(measure(ours)), np.sort(measure(published))
        steps = np.union1d(a, b)
        gap = np.abs(np.searchsorted(a, steps, side="right") - np.searchsorted(b, steps, side="right")).max() / 20_000
        assert gap < 0.02


def test_every_corner_can_be_reached() -> None:
    boxes = drawn_boxes((32, 32), count=20_000)
    assert (boxes[:, 0] == 0).any()
    assert (boxes[:, 0] + boxes[:, 2] == 32).any()
    assert (boxes[:, 1] == 0).any()
    assert (boxes[:, 1] + boxes[:, 3] == 32).any()


def test_a_crop_is_decoded_as_it_is_written_down() -> None:
    crops = ResizedCrops((40, 50))
    sizes = [1, 17, 3000]
    places = [(0, 0), (4095, 4095), (1234, 77)]
    numbers = torch.tensor([(k * PLACES + y) * PLACES + x for k, (y, x) in zip(sizes, places, strict=True)])
    boxes = crops.boxes(numbers)
    for i, (y, x) in enumerate(places):
        height, width = int(boxes.height_B[i]), int(boxes.width_B[i])
        assert int(boxes.top_B[i]) == math.floor(y * (40 - height + 1) / 4096)
        assert int(boxes.left_B[i]) == math.floor(x * (50 - width + 1) / 4096)


@pytest.mark.parametrize("size", [(2, 2), (1, 1), (4, 400), (400, 4)])
def test_small_images_and_strips_have_boxes_too(size: tuple[int, int]) -> None:
    boxes = drawn_boxes(size, count=500)
    assert (boxes[:, 2:] >= 1).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= size).all()
    augmentation = Augmentation("resized_crop_flip", size)
    views = augmentation.draw(7, generator=torch.Generator().manual_seed(0))
    assert augmentation.apply(random_images(7, 2, *size), views).shape == (7, 2, *size)


def test_views_are_many_and_fit_into_json() -> None:
    augmentation = Augmentation("resized_crop_flip", (224, 224))
    assert 10**12 < augmentation.num_views < 2**53
    views = augmentation.draw(1000, generator=torch.Generator().manual_seed(1))
    assert views.dtype == torch.int64
    assert len(views.unique()) == 1000


def test_an_even_image_stays_even() -> None:
    for level in (0, 1, 128, 255):
        images = torch.full((50, 3, 30, 20), level, dtype=torch.uint8)
        augmentation = Augmentation("resized_crop_flip", (30, 20))
        views = augmentation.draw(50, generator=torch.Generator().manual_seed(level))
        assert torch.equal(augmentation.apply(images, views), images)
