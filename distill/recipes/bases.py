"""The few kinds of data for which settings are known, and which of them is nearest to given data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Base:
    """What trains well on one kind of data, whatever the pair of networks and the length of the run."""

    name: str
    num_images: int
    """In the training split of the data that it was found on."""
    side: int
    """Of these images, in pixels."""
    batch_size: int
    learning_rate: float
    """The peak at ``batch_size``."""
    light_rate: float
    """The same for students of the mobile and shuffle families, whose depthwise layers bear less."""
    weight_decay: float
    schedule: Literal["one_cycle", "step"]
    drops: tuple[float, ...]
    """Where a stepped rate drops, in shares of the epochs."""
    nesterov: bool
    augmentation: Literal["flip", "crop_flip", "resized_crop_flip"]

    def peak_rate(self, student: str, *, batch_size: int) -> float:
        """The peak for a student, growing with the root of the batch."""
        is_light = any(family in student for family in ("mobile", "shuffle"))
        rate = self.light_rate if is_light else self.learning_rate
        return round(rate * math.sqrt(batch_size / self.batch_size), 6)


SMALL_DATA = Base(
    name="small-data",  # measured: docs/decisions/0005-defaults.md
    num_images=5_000,
    side=28,
    batch_size=64,
    learning_rate=0.1,
    light_rate=0.1,
    weight_decay=5e-4,
    schedule="one_cycle",
    drops=(0.625, 0.75, 0.875),
    nesterov=True,
    augmentation="flip",
)
CIFAR = Base(
    name="cifar",  # the CRD benchmark's, and that of the authors' later code: 150, 180 and 210 of 240 epochs
    num_images=50_000,
    side=32,
    batch_size=64,
    learning_rate=0.05,
    light_rate=0.01,
    weight_decay=5e-4,
    schedule="step",
    drops=(0.625, 0.75, 0.875),
    nesterov=False,
    augmentation="crop_flip",
)
IMAGENET = Base(
    name="imagenet",  # the authors' code: 30, 60 and 90 of 100 epochs
    num_images=1_281_167,
    side=224,
    batch_size=512,
    learning_rate=0.2,
    light_rate=0.2,
    weight_decay=1e-4,
    schedule="step",
    drops=(0.3, 0.6, 0.9),
    nesterov=False,
    augmentation="resized_crop_flip",
)
BASES = (SMALL_DATA, CIFAR, IMAGENET)


def nearest(*, num_images: int, image_size: tuple[int, int] | None = None) -> Base:
    """The base whose data are most like these: nearest in the logarithms of count and side.

    The distance is ``sqrt(ln(N / N0)^2 + ln(s / s0)^2)``: ten times the images are as far as ten times the side.

    Args:
        num_images: N, in the training split.
        image_size: (height, width) in pixels, s being the root of their product; None leaves the side out.
    """

    def distance(base: Base) -> float:
        side = base.side if image_size is None else math.sqrt(image_size[0] * image_size[1])
        return math.hypot(math.log(num_images / base.num_images), math.log(side / base.side))

    return min(BASES, key=distance)


def milestones(drops: tuple[float, ...], *, epochs: int) -> list[int]:
    """After which epochs the rate drops: the shares of a run, rounded half up; those that fall together count once."""
    places = sorted({math.floor(share * epochs + 0.5) for share in drops})
    return [place for place in places if 0 < place < epochs]
