"""The networks of timm by name, as they are written in a generated table: neither timm nor PyTorch is needed.

``distill.networks.timm_catalogue`` writes the table from the networks themselves.
"""

from __future__ import annotations

import difflib
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "timm/"
TABLE = Path(__file__).with_name("timm_networks.json")
# The columns of the table, in order; the table repeats them, so that it can be read by itself.
COLUMNS = (
    "stage_widths",
    "feature_widths",
    "classifiers",
    "pooled",
    "parameters",
    "parameters_per_class",
    "parameters_per_channel",
    "macs",
    "image_size",
    "fixed_size",
    "preprocessing",
)
NUM_CLASSES, NUM_CHANNELS = 1000, 3
"""What ``parameters`` and ``macs`` of the table are for."""

Triple = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a network's own published weights want their images.

    Attributes:
        mean, std: of each colour, for values from 0 to 1.
        interpolation: ``bicubic`` or ``bilinear``.
        crop_pct: side of the centre crop over the side of the resized image; may exceed 1.
    """

    mean: Triple
    std: Triple
    interpolation: str
    crop_pct: float


@dataclass(frozen=True, kw_only=True)
class TimmFacts:
    """One network of timm.

    Attributes:
        name: begins with ``timm/``.
        stage_widths: channels of each of its stages, at most four; empty where it has no such row.
        feature_widths: what each of the classifiers reads.
        classifiers: names of the last linear layers; several answer with the mean of their logits, and none
            means that the answer is not linear in one penultimate feature.
        pooled: whether that feature is the mean of a map; None where that is found out when a job starts.
        macs: multiply-adds of one image of ``image_size`` in 1000 classes, in convolutions, linear layers and
            the products of attention; None where they could not be counted.
        image_size: (height, width) in pixels that it was made for.
        fixed_size: whether it takes no other.
    """

    name: str
    stage_widths: tuple[int, ...]
    feature_widths: tuple[int, ...]
    classifiers: tuple[str, ...]
    pooled: bool | None
    parameters_of_default: int
    parameters_per_class: int
    parameters_per_channel: int | None
    macs: int | None
    image_size: tuple[int, int]
    fixed_size: bool
    preprocessing: Preprocessing

    @property
    def feature_width(self) -> int | None:
        """What all its classifiers read; None where they read features of different widths, or there are none."""
        return self.feature_widths[0] if len(set(self.feature_widths)) == 1 else None

    def takes_channels(self, in_channels: int) -> bool:
        """Whether it can be built for images of that many channels; few are made for colour alone."""
        return self.parameters_per_channel is not None or in_channels == NUM_CHANNELS

    def parameters(self, *, num_classes: int, in_channels: int) -> int:
        """How many numbers are trained, exactly.

        Raises:
            ValueError: it takes no images of that many channels.
        """
        if not self.takes_channels(in_channels):
            raise ValueError(f"{self.name} takes images of {NUM_CHANNELS} channels only")
        return (
            self.parameters_of_default
            + (num_classes - NUM_CLASSES) * self.parameters_per_class
            + (in_channels - NUM_CHANNELS) * (self.parameters_per_channel or 0)
        )

    def estimated_macs(self, *, num_classes: int, image_size: tuple[int, int]) -> int | None:
        """Multiply-adds of one image, for the stated number of classes and scaled by the image's area.

        The scaling is not exact: maps are rounded up to whole places, and attention grows faster than the area.
        """
        if self.macs is None:
            return None
        classifier = sum(self.feature_widths)
        body = self.macs - NUM_CLASSES * classifier
        area = image_size[0] * image_size[1] / (self.image_size[0] * self.image_size[1])
        return round(body * area) + num_classes * classifier


def names() -> list[str]:
    """Every network of timm that classifies, sorted, each beginning with ``timm/``."""
    return [PREFIX + name for name in _table()["networks"]]


def facts(name: str) -> TimmFacts | None:
    """What is known of ``timm/<name>``; None where there is no such network."""
    row = _table()["networks"].get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    return None if row is None else _read(name, row)


def nearest(name: str) -> list[str]:
    """At most three names of timm's like this one, best first; the tag of weights behind a dot does not count."""
    plain = name[:64].lower().removeprefix(PREFIX).replace("-", "_").split(".")[0]
    return [PREFIX + near for near in difflib.get_close_matches(plain, _table()["networks"], n=3)]


def version() -> str:
    """The version of timm that the table describes."""
    written: str = _table()["timm"]
    return written


def _read(name: str, row: list[Any]) -> TimmFacts:
    cell = dict(zip(COLUMNS, row, strict=True))
    mean, std, interpolation, crop_pct = _table()["preprocessing"][cell["preprocessing"]]
    return TimmFacts(
        name=name,
        stage_widths=tuple(cell["stage_widths"]),
        feature_widths=tuple(cell["feature_widths"]),
        classifiers=tuple(cell["classifiers"]),
        pooled=cell["pooled"],
        parameters_of_default=cell["parameters"],
        parameters_per_class=cell["parameters_per_class"],
        parameters_per_channel=cell["parameters_per_channel"],
        macs=cell["macs"],
        image_size=tuple(cell["image_size"]),
        fixed_size=cell["fixed_size"],
        preprocessing=Preprocessing(mean=tuple(mean), std=tuple(std), interpolation=interpolation, crop_pct=crop_pct),
    )


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table
