"""ResNets of three stages for small images (He et al. 2016, section 4.2).

State dicts are those of github.com/HobbitLong/RepDistiller, ``models/resnet.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from distill.architectures.blueprint import Family
from distill.architectures.layers import Layer, Size, conv, linear, norm, strided
from distill.architectures.options import Options, scaled
from distill.architectures.residual import ResidualBlueprint

NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
# Name -> (depth 6n + 2, channels of the stem and of the three stages).
RESNETS: dict[str, tuple[int, tuple[int, ...]]] = {
    **{f"resnet{depth}": (depth, NARROW) for depth in (8, 14, 20, 26, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": (depth, WIDE) for depth in (8, 32)},
}


@dataclass(frozen=True, kw_only=True)
class ResNetBlueprint(ResidualBlueprint):
    """Blocks of two 3x3 convolutions."""

    family = "resnet"
    first_layer = "conv1"
    classifier = "fc"

    def layers(self, *, num_classes: int, in_channels: int, image_size: Size) -> Iterator[Layer]:
        size = strided(image_size, self.stem_stride)
        yield conv("conv1", in_channels, self.stem, size)
        yield norm("bn1", self.stem, size)
        for stage, blocks in enumerate(self.stages(), start=1):
            for i, block in enumerate(blocks):
                path, width = f"layer{stage}.{i}", block.out_channels
                size = strided(size, block.stride)
                yield conv(f"{path}.conv1", block.in_channels, width, size)
                yield norm(f"{path}.bn1", width, size)
                yield conv(f"{path}.conv2", width, width, size)
                yield norm(f"{path}.bn2", width, size)
                if block.has_shortcut:
                    yield conv(f"{path}.downsample.0", block.in_channels, width, size, kernel=1)
                    yield norm(f"{path}.downsample.1", width, size)
        yield linear("fc", self.feature_width, num_classes)


def read(name: str, options: Options) -> ResNetBlueprint | None:
    """The network of a name in the table."""
    if name not in RESNETS:
        return None
    depth, channels = RESNETS[name]
    stem, *widths = (scaled(count, options.width) for count in channels)
    num_blocks = ((depth - 2) // 6,) * 3
    return ResNetBlueprint(widths=tuple(widths), num_blocks=num_blocks, stem=stem, stem_stride=options.stem_stride)


FAMILY = Family(listed=tuple(RESNETS), read=read)
