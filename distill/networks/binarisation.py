"""Convolutions of signs (Courbariaux et al. 2016; Rastegari et al., ECCV 2016), and their weights as bits on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.architectures import BITS


def sign(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1; the gradient passes where |x| <= 1 (straight-through estimator)."""
    clipped = x.clamp(-1.0, 1.0)
    signs = torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
    return clipped + (signs - clipped).detach()


class BinaryConv2d(nn.Module):
    """3x3 convolution of the signs of its input by the signs of its weights, times a learned factor a channel.

    Signs are padded with zeros, which add nothing. The real weights behind the signs are trained, clipped to
    -1..1 before each training pass; weight decay would only draw them to where signs flip, and is left out.
    """

    undecayed: ClassVar[tuple[str, ...]] = ("weight",)

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        # A convolution of signs has values around the root of their number: undone here, learned from there.
        self.scale = nn.Parameter(torch.full((out_channels,), 1.0 / math.sqrt(9 * in_channels)))
        self.stride = stride
        nn.init.uniform_(self.weight, -0.5, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/s, W/s)."""
        if self.training:
            with torch.no_grad():
                self.weight.clamp_(-1.0, 1.0)
        signs = F.conv2d(sign(x), sign(self.weight), stride=self.stride, padding=1)
        return signs * self.scale[:, None, None]


def pack_bits(network: nn.Module, state: Mapping[str, Tensor], *, prefix: str = "") -> dict[str, Tensor]:
    """The same state with each binary weight as the bits of its signs: uint8 under its name and ``_bits``.

    Args:
        state: of the network, or of something that holds it under ``prefix``.
    """
    names = {f"{prefix}{name}.weight" for name, m in network.named_modules() if isinstance(m, BinaryConv2d)}
    return {
        name + BITS if name in names else name: _packed(value) if name in names else value
        for name, value in state.items()
    }


def unpack_bits(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state that ``network`` loads: packed weights become +1 and -1 in the shape that it has there.

    Raises:
        ValueError: bits whose number is not that of the weight.
    """
    expected = network.state_dict()
    unpacked = dict(state)
    for name in [name for name in state if name.endswith(BITS) and name.removesuffix(BITS) in expected]:
        own = name.removesuffix(BITS)
        unpacked[own] = _unpacked(unpacked.pop(name), expected[own].shape, name=own)
    return unpacked


def _packed(weight: Tensor) -> Tensor:
    bits = np.packbits((weight.detach().cpu().reshape(-1) >= 0).numpy())
    return torch.from_numpy(bits)


def _unpacked(bits: Tensor, shape: torch.Size, *, name: str) -> Tensor:
    count = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
        raise ValueError(f"{name}: {list(bits.shape)} bytes of {bits.dtype} for {count} signs")
    signs = torch.from_numpy(np.unpackbits(bits.numpy(), count=count).astype(np.float32))
    return (2 * signs - 1).view(shape)
