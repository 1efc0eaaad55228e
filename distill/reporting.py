"""What a network costs: the lower half of its column in the report."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from distill.evaluation import cpu_latency_ms


def cost_figures(network: nn.Module, *, image_shape: tuple[int, int, int], num_bytes: int) -> dict[str, Any]:
    """The costs of a network as it is shipped.

    Args:
        network: as loaded from its file, on the CPU in float32, in eval mode.
        num_bytes: of that file.

    Returns:
        ``parameters``, ``macs``, ``bytes`` and ``latency_ms``: ``macs`` are the
        the multiply-adds of convolutions and linear layers for one image, ``latency_ms`` the
        median of single images on the CPU.
    """
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "macs": count_macs(network, image_shape=image_shape),
        "bytes": num_bytes,
        "latency_ms": round(cpu_latency_ms(network, image_shape=image_shape), 3),
    }


@torch.no_grad()
def count_macs(network: nn.Module, *, image_shape: tuple[int, int, int]) -> int:
    """Multiply-adds of the convolutions and linear layers that one image (C, H, W) really passes."""
    total = 0

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.Linear):
            total += output[0].numel() * module.weight[0].numel()

    handles = [m.register_forward_hook(count) for m in network.modules()]
    try:
        network(torch.zeros(1, *image_shape))
    finally:
        for handle in handles:
            handle.remove()
    return total
