"""ShuffleNet (Zhang et al. 2018), 3 groups, with a 1x1 stem for small images.

State dicts are those of github.com/HobbitLong/RepDistiller, ``models/ShuffleNetv1.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from distill.architectures.blueprint import Family, LayeredBlueprint
from distill.architectures.layers import Layer, Size, conv, linear, norm, strided
from distill.architectures.options import Options, scaled

NAME = "shufflenetv1"
STEM, CHANNELS, NUM_BLOCKS = 24, (240, 480, 960), (4, 8, 4)
GROUPS = 3
QUARTERS = 4  # a block works on a quarter of its channels


@dataclass(frozen=True)
class ShuffleBlock:
    """Grouped 1x1, shuffle, depthwise 3x3 with the stride, grouped 1x1; then the input is added or appended."""

    in_channels: int
    new_channels: int
    """What its convolutions put out."""
    stride: int
    first_groups: int
    """Groups of the first convolution, and of the shuffle behind it."""

    @property
    def middle(self) -> int:
        """Channels between its convolutions."""
        return self.new_channels // QUARTERS

    @property
    def appends(self) -> bool:
        """Whether the input, pooled, is appended to the new channels; else it is added to them."""
        return self.stride != 1


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV1Blueprint(LayeredBlueprint):
    """Stem and three stages, the last of which is what is pooled."""

    stem: int

    family = "shufflenetv1"
    first_layer = "conv1"
    classifier = "linear"

    def stages(self) -> list[list[ShuffleBlock]]:
        """The blocks of every stage; each stage halves the map."""
        stages = []
        before = self.stem
        for stage, (width, num_blocks) in enumerate(zip(self.widths, NUM_BLOCKS, strict=True)):
            # The stem has too few channels for groups.
            first = ShuffleBlock(before, width - before, stride=2, first_groups=1 if stage == 0 else GROUPS)
            rest = ShuffleBlock(width, width, stride=1, first_groups=GROUPS)
            stages.append([first, *[rest] * (num_blocks - 1)])
            before = width
        return stages

    def layers(self, *, num_classes: int, in_channels: int, image_size: Size) -> Iterator[Layer]:
        size = image_size
        yield conv("conv1", in_channels, self.stem, size, kernel=1)
        yield norm("bn1", self.stem, size)
        for stage, blocks in enumerate(self.stages(), start=1):
            for i, block in enumerate(blocks):
                yield from _block_layers(f"layer{stage}.{i}", block, size)
                size = strided(size, block.stride)
        yield linear("linear", self.feature_width, num_classes)


def _block_layers(path: str, block: ShuffleBlock, size: Size) -> Iterator[Layer]:
    middle, new = block.middle, block.new_channels
    yield conv(f"{path}.conv1", block.in_channels, middle, size, kernel=1, groups=block.first_groups)
    yield norm(f"{path}.bn1", middle, size)
    size = strided(size, block.stride)
    yield conv(f"{path}.conv2", middle, middle, size, groups=middle)
    yield norm(f"{path}.bn2", middle, size)
    yield conv(f"{path}.conv3", middle, new, size, kernel=1, groups=GROUPS)
    yield norm(f"{path}.bn3", new, size)


def read(name: str, options: Options) -> ShuffleNetV1Blueprint | None:
    """The one network; channels stay divisible by groups and quarters, and grow from stage to stage."""
    if name != NAME:
        return None
    whole = GROUPS * QUARTERS
    stem, *widths = (
        max(scaled(count, options.width, multiple=whole), whole * (i + 1)) for i, count in enumerate((STEM, *CHANNELS))
    )
    return ShuffleNetV1Blueprint(widths=tuple(widths), stem=stem)


# To stride the 1x1 stem would throw pixels away.
FAMILY = Family(listed=(NAME,), read=read, options=frozenset({"width"}))
