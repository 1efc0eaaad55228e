"""ResNets of four stages (He et al. 2016, section 3.4) behind a 3x3 stem for small images, without its max pooling.

State dicts are those of github.com/HobbitLong/RepDistiller, ``models/resnetv2.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from distill.architectures.blueprint import Family
from distill.architectures.layers import Layer, Size, conv, linear, norm, strided
from distill.architectures.options import Options, scaled
from distill.architectures.residual import Block, ResidualBlueprint

STEM, CHANNELS = 64, (64, 128, 256, 512)
EXPANSION = 4
# Name -> (blocks of each stage, whether they are bottlenecks).
RESNETS: dict[str, tuple[tuple[int, ...], bool]] = {
    "resnet10": ((1, 1, 1, 1), False),
    "resnet18": ((2, 2, 2, 2), False),
    "resnet34": ((3, 4, 6, 3), False),
    "resnet50": ((3, 4, 6, 3), True),
}


@dataclass(frozen=True, kw_only=True)
class FourStageBlueprint(ResidualBlueprint):
    """Blocks of two 3x3 convolutions, or of a 3x3 one between two of 1x1."""

    bottleneck: bool

    family = "resnet4stage"
    first_layer = "conv1"
    classifier = "linear"

    def layers(self, *, num_classes: int, in_channels: int, image_size: Size) -> Iterator[Layer]:
        size = strided(image_size, self.stem_stride)
        yield conv("conv1", in_channels, self.stem, size)
        yield norm("bn1", self.stem, size)
        for stage, blocks in enumerate(self.stages(), start=1):
            for i, block in enumerate(blocks):
                path = f"layer{stage}.{i}"
                yield from (_bottleneck if self.bottleneck else _basic)(path, block, size)
                size = strided(size, block.stride)
                if block.has_shortcut:
                    yield conv(f"{path}.shortcut.0", block.in_channels, block.out_channels, size, kernel=1)
                    yield norm(f"{path}.shortcut.1", block.out_channels, size)
        yield linear("linear", self.feature_width, num_classes)


def _basic(path: str, block: Block, size: Size) -> Iterator[Layer]:
    width, size = block.out_channels, strided(size, block.stride)
    yield conv(f"{path}.conv1", block.in_channels, width, size)
    yield norm(f"{path}.bn1", width, size)
    yield conv(f"{path}.conv2", width, width, size)
    yield norm(f"{path}.bn2", width, size)


def _bottleneck(path: str, block: Block, size: Size) -> Iterator[Layer]:
    width = block.out_channels // EXPANSION
    yield conv(f"{path}.conv1", block.in_channels, width, size, kernel=1)
    yield norm(f"{path}.bn1", width, size)
    size = strided(size, block.stride)
    yield conv(f"{path}.conv2", width, width, size)
    yield norm(f"{path}.bn2", width, size)
    yield conv(f"{path}.conv3", width, block.out_channels, size, kernel=1)
    yield norm(f"{path}.bn3", block.out_channels, size)


def read(name: str, options: Options) -> FourStageBlueprint | None:
    """The network of a name in the table."""
    if name not in RESNETS:
        return None
    num_blocks, bottleneck = RESNETS[name]
    expansion = EXPANSION if bottleneck else 1
    return FourStageBlueprint(
        widths=tuple(expansion * scaled(count, options.width) for count in CHANNELS),
        num_blocks=num_blocks,
        stem=scaled(STEM, options.width),
        stem_stride=options.stem_stride,
        bottleneck=bottleneck,
    )


FAMILY = Family(listed=tuple(RESNETS), read=read)
