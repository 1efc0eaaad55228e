"""MobileNetV2 (Sandler et al. 2018) with fewer strides for small images.

State dicts are those of github.com/HobbitLong/RepDistiller, ``models/mobilenetv2.py``: ``mobilenetv2_half`` is its
``mobile_half``, ``mobilenetv2`` its ``mobilenetv2_T_w(6, 1.0)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from distill.architectures.blueprint import Family, LayeredBlueprint
from distill.architectures.layers import Layer, Size, conv, linear, norm, strided
from distill.architectures.options import Options, scaled

WIDTHS = {"mobilenetv2_half": 0.5, "mobilenetv2": 1.0}
STEM, STEM_STRIDE, LAST = 32, 2, 1280
# Of each group of blocks: expansion, output channels, how many blocks, stride of the first.
GROUPS = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STAGES = (1, 2, 4, 6)  # the groups whose maps the benchmark's methods read


@dataclass(frozen=True)
class InvertedBlock:
    """A 1x1 convolution to ``hidden`` channels, a depthwise 3x3 one with the stride, a 1x1 one back, without ReLU."""

    in_channels: int
    hidden: int
    out_channels: int
    stride: int

    @property
    def has_shortcut(self) -> bool:
        """Whether the input is added, which keeps channels and size."""
        return self.stride == 1 and self.in_channels == self.out_channels


@dataclass(frozen=True, kw_only=True)
class MobileNetV2Blueprint(LayeredBlueprint):
    """Stem, groups of blocks, and a last 1x1 convolution, whose map is what is pooled."""

    stem: int
    groups: tuple[tuple[InvertedBlock, ...], ...]
    last: int

    family = "mobilenetv2"
    first_layer = "conv1.0"
    classifier = "classifier.0"

    @property
    def feature_width(self) -> int:
        return self.last

    def layers(self, *, num_classes: int, in_channels: int, image_size: Size) -> Iterator[Layer]:
        size = strided(image_size, STEM_STRIDE)
        yield conv("conv1.0", in_channels, self.stem, size)
        yield norm("conv1.1", self.stem, size)
        for number, group in enumerate(self.groups):
            for i, block in enumerate(group):
                yield from _block_layers(f"blocks.{number}.{i}.conv", block, size)
                size = strided(size, block.stride)
        yield conv("conv2.0", self.widths[-1], self.last, size, kernel=1)
        yield norm("conv2.1", self.last, size)
        yield linear("classifier.0", self.last, num_classes)


def _block_layers(path: str, block: InvertedBlock, size: Size) -> Iterator[Layer]:
    yield conv(f"{path}.0", block.in_channels, block.hidden, size, kernel=1)
    yield norm(f"{path}.1", block.hidden, size)
    size = strided(size, block.stride)
    yield conv(f"{path}.3", block.hidden, block.hidden, size, groups=block.hidden)
    yield norm(f"{path}.4", block.hidden, size)
    yield conv(f"{path}.6", block.hidden, block.out_channels, size, kernel=1)
    yield norm(f"{path}.7", block.out_channels, size)


def read(name: str, options: Options) -> MobileNetV2Blueprint | None:
    """The network of a name in the table; the width is the paper's, which spares the last convolution below 1."""
    if name not in WIDTHS:
        return None
    width = WIDTHS[name] * options.width
    before = stem = scaled(STEM, width)
    groups = []
    for expansion, channels, num_blocks, stride in GROUPS:
        out = scaled(channels, width)
        first = InvertedBlock(before, expansion * before, out, stride)
        groups.append((first, *[InvertedBlock(out, expansion * out, out, 1)] * (num_blocks - 1)))
        before = out
    return MobileNetV2Blueprint(
        widths=tuple(groups[number][-1].out_channels for number in STAGES),
        stem=stem,
        groups=tuple(groups),
        last=scaled(LAST, max(1.0, width)),
    )


# The stem has its stride already.
FAMILY = Family(listed=tuple(WIDTHS), read=read, options=frozenset({"width"}))
