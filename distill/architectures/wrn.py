"""Wide ResNets (Zagoruyko and Komodakis 2016) without dropout: any ``wrn_<depth>_<widen factor>``.

State dicts are those of github.com/HobbitLong/RepDistiller, ``models/wrn.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from distill.architectures.blueprint import Family
from distill.architectures.layers import Layer, Size, conv, linear, norm, strided
from distill.architectures.options import Options, scaled
from distill.architectures.residual import ResidualBlueprint

LISTED = ((10, 1), (16, 1), (16, 2), (16, 4), (40, 1), (40, 2), (40, 4), (10, 10), (16, 10))
# Three digits bound the work of describing a network: the depth comes from a request.
NAME = re.compile(r"wrn_([1-9][0-9]{1,2})_([1-9][0-9]?)")
MAX_WIDEN_FACTOR = 16


@dataclass(frozen=True, kw_only=True)
class WideResNetBlueprint(ResidualBlueprint):
    """Blocks of two 3x3 convolutions, each behind its batch norm."""

    family = "wrn"
    first_layer = "conv1"
    classifier = "fc"

    def layers(self, *, num_classes: int, in_channels: int, image_size: Size) -> Iterator[Layer]:
        size = strided(image_size, self.stem_stride)
        yield conv("conv1", in_channels, self.stem, size)
        for stage, blocks in enumerate(self.stages(), start=1):
            for i, block in enumerate(blocks):
                path, width = f"block{stage}.layer.{i}", block.out_channels
                yield norm(f"{path}.bn1", block.in_channels, size)
                size = strided(size, block.stride)
                yield conv(f"{path}.conv1", block.in_channels, width, size)
                yield norm(f"{path}.bn2", width, size)
                yield conv(f"{path}.conv2", width, width, size)
                if block.has_shortcut:
                    yield conv(f"{path}.convShortcut", block.in_channels, width, size, kernel=1)
        yield norm("bn1", self.feature_width, size)
        yield linear("fc", self.feature_width, num_classes)


def read(name: str, options: Options) -> WideResNetBlueprint | None:
    """Any depth 6n + 4 below 1000, any whole factor of at most 16."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    depth, factor = int(match[1]), int(match[2])
    if depth % 6 != 4 or factor > MAX_WIDEN_FACTOR:
        return None
    stem, *widths = (scaled(count, options.width) for count in (16, 16 * factor, 32 * factor, 64 * factor))
    num_blocks = ((depth - 4) // 6,) * 3
    return WideResNetBlueprint(widths=tuple(widths), num_blocks=num_blocks, stem=stem, stem_stride=options.stem_stride)


FAMILY = Family(listed=tuple(f"wrn_{depth}_{factor}" for depth, factor in LISTED), read=read)
