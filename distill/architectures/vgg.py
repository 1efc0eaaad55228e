"""VGG for small images (Simonyan and Zisserman 2015) with batch norms, and global pooling before one linear layer.

State dicts are those of github.com/HobbitLong/RepDistiller, ``models/vgg.py``, the networks with ``_bn``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from distill.architectures.blueprint import Family, LayeredBlueprint
from distill.architectures.layers import Layer, Size, conv, linear, norm, strided
from distill.architectures.options import Options, scaled

CHANNELS = (64, 128, 256, 512, 512)
# Name -> how many convolutions each of the five blocks has.
VGGS: dict[str, tuple[int, ...]] = {
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
LARGE = 64  # from this size on, the benchmark pools between the last two blocks too


@dataclass(frozen=True, kw_only=True)
class VGGBlueprint(LayeredBlueprint):
    """Five blocks, of which the last four are the stages; between the first four the map is halved."""

    blocks: tuple[tuple[int, ...], ...]
    """Output channels of every convolution of every block."""
    stem_stride: int

    family = "vgg"
    first_layer = "block0.0"
    classifier = "classifier"

    def layers(self, *, num_classes: int, in_channels: int, image_size: Size) -> Iterator[Layer]:
        size = strided(image_size, self.stem_stride)
        num_pooled = num_poolings(size)
        before = in_channels
        for number, channels in enumerate(self.blocks):
            for i, width in enumerate(channels):
                yield conv(f"block{number}.{3 * i}", before, width, size, has_bias=True)
                yield norm(f"block{number}.{3 * i + 1}", width, size)
                before = width
            if number < num_pooled:
                size = halved(size)
        yield linear("classifier", before, num_classes)


def num_poolings(size: Size) -> int:
    """Behind how many blocks the map is halved, by the size of the first block's map."""
    return 4 if min(size) >= LARGE else 3


def halved(size: Size) -> Size:
    """The map after 2x2 max pooling; one that is a single place high or wide stays as it is."""
    return size if min(size) < 2 else (size[0] // 2, size[1] // 2)


def read(name: str, options: Options) -> VGGBlueprint | None:
    """The network of a name in the table."""
    if name not in VGGS:
        return None
    channels = [scaled(count, options.width) for count in CHANNELS]
    blocks = tuple((count,) * depth for count, depth in zip(channels, VGGS[name], strict=True))
    return VGGBlueprint(widths=tuple(channels[1:]), blocks=blocks, stem_stride=options.stem_stride)


FAMILY = Family(listed=tuple(VGGS), read=read)
