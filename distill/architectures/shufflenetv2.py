"""ShuffleNetV2 (Ma et al. 2018) with a 1x1 stem for small images.

State dicts are those of github.com/HobbitLong/RepDistiller, ``models/ShuffleNetv2.py``, at its net size 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from distill.architectures.blueprint import Family, LayeredBlueprint
from distill.architectures.layers import Layer, Size, conv, linear, norm, strided
from distill.architectures.options import Options, scaled

NAME = "shufflenetv2"
STEM, CHANNELS, LAST = 24, (116, 232, 464), 1024
NUM_UNITS = (3, 7, 3)  # that keep the map, behind the one that halves it


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV2Blueprint(LayeredBlueprint):
    """Stem, three stages, and a last 1x1 convolution, whose map is what is pooled."""

    stem: int
    last: int

    family = "shufflenetv2"
    first_layer = "conv1"
    classifier = "linear"

    @property
    def feature_width(self) -> int:
        return self.last

    def layers(self, *, num_classes: int, in_channels: int, image_size: Size) -> Iterator[Layer]:
        size, before = image_size, self.stem
        yield conv("conv1", in_channels, self.stem, size, kernel=1)
        yield norm("bn1", self.stem, size)
        for stage, (width, num_units) in enumerate(zip(self.widths, NUM_UNITS, strict=True), start=1):
            yield from _halving_layers(f"layer{stage}.0", before, width // 2, size)
            size = strided(size, 2)
            for i in range(1, num_units + 1):
                yield from _keeping_layers(f"layer{stage}.{i}", width // 2, size)
            before = width
        yield conv("conv2", before, self.last, size, kernel=1)
        yield norm("bn2", self.last, size)
        yield linear("linear", self.last, num_classes)


def _halving_layers(path: str, num_in: int, half: int, size: Size) -> Iterator[Layer]:
    small = strided(size, 2)
    yield conv(f"{path}.conv1", num_in, num_in, small, groups=num_in)
    yield norm(f"{path}.bn1", num_in, small)
    yield conv(f"{path}.conv2", num_in, half, small, kernel=1)
    yield norm(f"{path}.bn2", half, small)
    yield conv(f"{path}.conv3", num_in, half, size, kernel=1)
    yield norm(f"{path}.bn3", half, size)
    yield conv(f"{path}.conv4", half, half, small, groups=half)
    yield norm(f"{path}.bn4", half, small)
    yield conv(f"{path}.conv5", half, half, small, kernel=1)
    yield norm(f"{path}.bn5", half, small)


def _keeping_layers(path: str, half: int, size: Size) -> Iterator[Layer]:
    yield conv(f"{path}.conv1", half, half, size, kernel=1)
    yield norm(f"{path}.bn1", half, size)
    yield conv(f"{path}.conv2", half, half, size, groups=half)
    yield norm(f"{path}.bn2", half, size)
    yield conv(f"{path}.conv3", half, half, size, kernel=1)
    yield norm(f"{path}.bn3", half, size)


def read(name: str, options: Options) -> ShuffleNetV2Blueprint | None:
    """The one network; the channels of a stage stay even, since its units work on one half."""
    if name != NAME:
        return None
    return ShuffleNetV2Blueprint(
        widths=tuple(scaled(count, options.width, multiple=2) for count in CHANNELS),
        stem=scaled(STEM, options.width),
        last=scaled(LAST, options.width),
    )


# To stride the 1x1 stem would throw pixels away.
FAMILY = Family(listed=(NAME,), read=read, options=frozenset({"width"}))
