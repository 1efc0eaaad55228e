"""A network as a list of its layers with weights: shapes, counts and costs without PyTorch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Size = tuple[int, int]
Shape = tuple[int, ...]


BITS = "_bits"
"""What the name of a binary weight that was packed has behind the weight's own."""


@dataclass(frozen=True)
class Layer:
    """A layer with weights: its name in the state dict, its weight's shape, the size of the map it puts out."""

    name: str
    kind: Literal["conv", "binary_conv", "norm", "prelu", "linear"]
    weight: Shape
    out_size: Size = (1, 1)
    has_bias: bool = True

    @property
    def positions(self) -> int:
        """How many places of one image the layer computes."""
        return math.prod(self.out_size)

    @property
    def tensors(self) -> dict[str, Shape]:
        """Name -> shape of everything it keeps in the state dict, in PyTorch's order."""
        channels = self.weight[:1]
        own: dict[str, Shape] = {"weight": self.weight}
        if self.kind == "binary_conv":
            own["scale"] = channels
        elif self.has_bias:
            own["bias"] = channels
        if self.kind == "norm":
            own |= {"running_mean": channels, "running_var": channels, "num_batches_tracked": ()}
        return {f"{self.name}.{key}": shape for key, shape in own.items()}

    @property
    def parameters(self) -> int:
        """Trained numbers: weight, and bias or scale."""
        return math.prod(self.weight) + (self.weight[0] if self.has_bias else 0)

    @property
    def macs(self) -> int:
        """Multiply-adds of one image; a norm counts as none, since it folds into its convolution."""
        return math.prod(self.weight) * self.positions if self.kind in ("conv", "linear") else 0

    @property
    def binary_macs(self) -> int:
        """The same of signs."""
        return math.prod(self.weight) * self.positions if self.kind == "binary_conv" else 0


def conv(
    name: str, num_in: int, num_out: int, size: Size, *, kernel: int = 3, groups: int = 1, has_bias: bool = False
) -> Layer:
    """A convolution that puts out a map of ``size`` (height, width)."""
    return Layer(name, "conv", (num_out, num_in // groups, kernel, kernel), size, has_bias)


def binary_conv(name: str, num_in: int, num_out: int, size: Size) -> Layer:
    """A 3x3 convolution of signs with a factor for each channel, which puts out a map of ``size``."""
    return Layer(name, "binary_conv", (num_out, num_in, 3, 3), size)


def prelu(name: str, channels: int) -> Layer:
    """A PReLU with a slope for each channel."""
    return Layer(name, "prelu", (channels,), has_bias=False)


def norm(name: str, channels: int, size: Size) -> Layer:
    """A batch norm over a map of ``size`` (height, width)."""
    return Layer(name, "norm", (channels,), size)


def linear(name: str, num_in: int, num_out: int) -> Layer:
    """A linear layer with bias."""
    return Layer(name, "linear", (num_out, num_in))


def strided(size: Size, stride: int) -> Size:
    """The map after a 3x3 convolution padded by 1, or an unpadded 1x1: both keep every stride-th place."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1
