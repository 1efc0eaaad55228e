"""The step that lets groups of channels see each other."""

from __future__ import annotations

from torch import Tensor


def shuffle_channels(x: Tensor, groups: int) -> Tensor:
    """Deal the channels of (B, C, H, W) out anew: the first of every group, then the second of every group, ..."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, groups, channels // groups, height, width).transpose(1, 2).flatten(1, 2)
