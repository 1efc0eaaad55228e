"""What all residual networks share: stages of blocks, of which the first may halve the map."""

from __future__ import annotations

from dataclasses import dataclass

from distill.architectures.blueprint import LayeredBlueprint


@dataclass(frozen=True)
class Block:
    """One residual block; its (first) 3x3 convolution has the stride."""

    in_channels: int
    out_channels: int
    stride: int

    @property
    def has_shortcut(self) -> bool:
        """Whether a 1x1 convolution replaces the identity, which must keep both channels and size."""
        return self.stride != 1 or self.in_channels != self.out_channels


@dataclass(frozen=True, kw_only=True)
class ResidualBlueprint(LayeredBlueprint):
    """Depth and channels of a residual network."""

    num_blocks: tuple[int, ...]
    """Per stage."""
    stem: int
    """Channels that the first convolution puts out."""
    stem_stride: int

    def stage(self, number: int) -> list[Block]:
        """The blocks of a stage, counted from 1; stages after the first halve the map."""
        before = self.stem if number == 1 else self.widths[number - 2]
        width = self.widths[number - 1]
        first = Block(before, width, stride=1 if number == 1 else 2)
        return [first] + [Block(width, width, stride=1)] * (self.num_blocks[number - 1] - 1)

    def stages(self) -> list[list[Block]]:
        """The blocks of every stage."""
        return [self.stage(number) for number in range(1, len(self.widths) + 1)]
