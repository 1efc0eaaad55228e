"""1x1 convolutions with a stride, computed so that PyTorch does not crash.

PyTorch 2.13 on the CPU writes beyond its memory in the backward pass of such a convolution in channels-last memory
when it has few channels, such as ``Conv2d(8, 16, 1, stride=2)`` on images of 64 pixels: the process dies, or goes on
with wrong numbers. To take every second pixel first and convolve those is the same by definition, and sound.
"""

from __future__ import annotations

from torch import Tensor, nn


class StridedPointwise(nn.Conv2d):
    """A 1x1 convolution that takes its stride before it computes; its parameters are those of ``nn.Conv2d``."""

    def forward(self, input: Tensor) -> Tensor:
        rows, columns = self.stride
        return nn.functional.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias, groups=self.groups)


def without_strided_pointwise(network: nn.Module) -> nn.Module:
    """The network with its plain strided 1x1 convolutions made sound, in place; names and parameters stay."""
    for module in network.modules():
        is_pointwise = type(module) is nn.Conv2d and (module.kernel_size, module.padding) == ((1, 1), (0, 0))
        if is_pointwise and module.stride != (1, 1):
            module.__class__ = StridedPointwise
    return network
