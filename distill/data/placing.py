"""Where a data set's images lie while networks look at them, and how many of them at once. The one place that decides.

Images that lie in a file are mapped, and memory holds what was read of them last. On a GPU with room for all of them
they are moved there once; on one without, each batch is gathered here and sent while the one before is computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GPU_SHARE = 0.5
_BATCH_BYTES = 8 * 2**20


def place(images_NCHW: Tensor, *, device: torch.device) -> Tensor:
    """The images where they are gathered from: on the device, or as they are where that has no room for them."""
    if device.type == "cuda" and not fits(images_NCHW, free_bytes=torch.cuda.mem_get_info(device)[0]):
        return images_NCHW
    return images_NCHW.to(device)


def fits(images_NCHW: Tensor, *, free_bytes: int) -> bool:
    """Whether images leave a GPU half of the memory that is free."""
    return images_NCHW.nbytes <= _GPU_SHARE * free_bytes


def gather(images_NCHW: Tensor, indices_B: Tensor, *, device: torch.device) -> Tensor:
    """A batch (B, C, H, W) on the device, of images that lie there or elsewhere."""
    chosen = images_NCHW.index_select(0, indices_B.to(images_NCHW.device))
    if device.type == "cuda" and chosen.device.type == "cpu":
        chosen = chosen.pin_memory()  # so that sending it waits for nothing
    return chosen.to(device, non_blocking=True)


def select(images_NCHW: Tensor, indices_M: Tensor) -> Tensor:
    """Some of the images in rising order; without a copy where they are the first, as labelled ones are."""
    count = len(indices_M)
    if count > 0 and int(indices_M[-1]) == count - 1:
        return images_NCHW[:count]
    return images_NCHW[indices_M.to(images_NCHW.device)]


def per_batch(images_NCHW: Tensor, *, at_most: int) -> int:
    """How many of these images a network shall look at together when nothing is learnt: 8 MiB, or ``at_most``."""
    return max(1, min(at_most, _BATCH_BYTES // images_NCHW[0].nbytes))
