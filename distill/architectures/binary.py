"""Binary ResNets (Martinez et al., ICLR 2020): 3x3 convolutions of signs, everything else real.

Those for small images have the depth and width of the ResNet they are named after; ``binary_resnet18`` has the
stem of ImageNet's networks, ``binary_resnet18_cifar`` a 3x3 one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from distill.architectures import resnet, resnet4stage
from distill.architectures.blueprint import Family
from distill.architectures.layers import Layer, Size, binary_conv, conv, linear, norm, prelu, strided
from distill.architectures.options import Options, scaled
from distill.architectures.residual import ResidualBlueprint

PREFIX = "binary_"
_SMALL = tuple(name for name in resnet.RESNETS if name != "resnet110")
_LARGE = {"binary_resnet18": True, "binary_resnet18_cifar": False}


@dataclass(frozen=True, kw_only=True)
class BinaryBlueprint(ResidualBlueprint):
    """Blocks of two binary 3x3 convolutions, each with a shortcut of its own."""

    large_stem: bool = False
    """A 7x7 convolution with stride 2 and a max pooling, as for ImageNet."""

    family: ClassVar[str] = "binary"
    first_layer: ClassVar[str] = "conv1"
    classifier: ClassVar[str] = "fc"

    def layers(self, *, num_classes: int, in_channels: int, image_size: Size) -> Iterator[Layer]:
        size = strided(image_size, 2 if self.large_stem else self.stem_stride)
        yield conv("conv1", in_channels, self.stem, size, kernel=7 if self.large_stem else 3)
        yield norm("bn1", self.stem, size)
        yield prelu("prelu1", self.stem)
        if self.large_stem:
            size = strided(size, 2)
        for number, blocks in enumerate(self.stages(), start=1):
            for i, block in enumerate(blocks):
                path, width = f"layer{number}.{i}", block.out_channels
                size = strided(size, block.stride)
                yield from _unit(f"{path}.unit1", block.in_channels, width, size, widened=block.has_shortcut)
                yield from _unit(f"{path}.unit2", width, width, size, widened=False)
        yield linear("fc", self.feature_width, num_classes)


def _unit(path: str, num_in: int, width: int, size: Size, *, widened: bool) -> Iterator[Layer]:
    yield norm(f"{path}.bn", num_in, size)
    yield binary_conv(f"{path}.conv", num_in, width, size)
    yield prelu(f"{path}.prelu", width)
    if widened:
        yield conv(f"{path}.shortcut.1", num_in, width, size, kernel=1)
        yield norm(f"{path}.shortcut.2", width, size)


def read(name: str, options: Options) -> BinaryBlueprint | None:
    """The binary form of a ResNet."""
    real = name.removeprefix(PREFIX)
    if not name.startswith(PREFIX) or (real not in _SMALL and name not in _LARGE):
        return None
    num_blocks: tuple[int, ...]
    channels: tuple[int, ...]
    if name in _LARGE:
        large, num_blocks, channels = _LARGE[name], (2, 2, 2, 2), (resnet4stage.STEM, *resnet4stage.CHANNELS)
    else:
        depth, channels = resnet.RESNETS[real]
        large, num_blocks = False, ((depth - 2) // 6,) * 3
    stem, *widths = (scaled(count, options.width) for count in channels)
    return BinaryBlueprint(
        widths=tuple(widths), num_blocks=num_blocks, stem=stem, stem_stride=options.stem_stride, large_stem=large
    )


FAMILY = Family(listed=(*(f"{PREFIX}{name}" for name in _SMALL), *_LARGE), read=read)
