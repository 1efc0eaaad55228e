"""What a network costs: the lower half of its column in the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.evaluation import cpu_latency_ms
from distill.networks.binarisation import BinaryConv2d
from distill.networks.opaque import OpaqueNetwork

BITS_PER_OPERATION = 64
"""Multiply-adds of signs that one 64-bit word computes at once (Rastegari et al., ECCV 2016, section 4.1)."""


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one image, of real numbers and of signs."""

    real: int
    binary: int

    @property
    def operations(self) -> int:
        """Real ones, and binary ones as the 64-bit operations that compute them."""
        return self.real + -(-self.binary // BITS_PER_OPERATION)


def cost_figures(network: nn.Module, *, image_shape: tuple[int, int, int], num_bytes: int) -> dict[str, Any]:
    """The costs of a network as it is shipped.

    Args:
        network: as loaded from its file, on the CPU in float32, in eval mode.
        num_bytes: of that file.

    Returns:
        ``parameters``, of which ``binary_parameters`` take one bit; ``macs``, the multiply-adds of convolutions and
        linear layers for one image, ``binary_macs`` those of signs, and both as ``operations``; ``bytes``;
        ``latency_ms``, the median of single images on the CPU. Operations are None where torch cannot look into.
    """
    macs = None if isinstance(network, OpaqueNetwork) else count_macs(network, image_shape=image_shape)
    return {
        "parameters": num_parameters(network),
        "binary_parameters": sum(m.weight.numel() for m in network.modules() if isinstance(m, BinaryConv2d)),
        "macs": macs and macs.real,
        "binary_macs": macs and macs.binary,
        "operations": macs and macs.operations,
        "bytes": num_bytes,
        "latency_ms": round(cpu_latency_ms(network, image_shape=image_shape), 3),
    }


def num_parameters(network: nn.Module) -> int:
    """How many numbers were trained (running statistics are not counted where they are told apart)."""
    if isinstance(network, OpaqueNetwork):
        return network.num_parameters
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def count_macs(network: nn.Module, *, image_shape: tuple[int, int, int]) -> Macs:
    """Multiply-adds of the convolutions and linear layers that one image (C, H, W) really passes."""
    real = binary = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal real, binary
        if isinstance(module, nn.Conv2d | nn.Linear):
            real += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, BinaryConv2d):
            binary += output[0].numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in network.modules()]
    try:
        network(torch.zeros(1, *image_shape))
    finally:
        for handle in handles:
            handle.remove()
    return Macs(real, binary)
