"""The random resized crop of ImageNet training, for whole batches on the device.

A box of 8 % to 100 % of the image's area and of a ratio of width to height from 3/4 to 4/3, uniform in its logarithm,
lies anywhere in the image and is scaled to the image's own size (Szegedy et al., CVPR 2015; torchvision's
``RandomResizedCrop``). Boxes that do not fit into the image are left out, as there, where new ones are drawn until
one fits.

A *crop* is an integer, and its box follows from it by whole numbers alone, so that it is the same on every device::

    crop = (size * PLACES + y) * PLACES + x
    top  = y * (H - height + 1) // PLACES      height, width = sizes[size]

Size 0 is the whole image. Legend: B batch, C channels, H height, W width, K sizes, L points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PLACES = 4096
"""Steps of a box's place along each side: more than an image has pixels."""
_STEPS = 256
_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Boxes:
    """One box an image, in whole pixels, each int64 (B,)."""

    top_B: Tensor
    left_B: Tensor
    height_B: Tensor
    width_B: Tensor


class ResizedCrops:
    """All crops of images of one size.

    Args:
        image_size: (height, width) in pixels.
    """

    def __init__(self, image_size: tuple[int, int]) -> None:
        self.image_size = image_size
        self._sizes_K2 = _sizes(*image_size)

    @property
    def num_crops(self) -> int:
        return len(self._sizes_K2) * PLACES**2

    def boxes(self, crops_B: Tensor) -> Boxes:
        """Where the crops lie, on the crops' device."""
        # Sent once and kept, for the first device that asks.
        self._sizes_K2 = self._sizes_K2.to(crops_B.device)
        height_B, width_B = self._sizes_K2.index_select(0, crops_B // PLACES**2).unbind(1)
        top_B = crops_B // PLACES % PLACES * (self.image_size[0] - height_B + 1) // PLACES
        left_B = crops_B % PLACES * (self.image_size[1] - width_B + 1) // PLACES
        return Boxes(top_B, left_B, height_B, width_B)

    def apply(self, images_BCHW: Tensor, crops_B: Tensor) -> Tensor:
        """The boxes of uint8 images, scaled bilinearly to the images' size and rounded to uint8.

        Without antialiasing: it would change nothing, since a box is never larger than what it is scaled to. As in
        cutting first and scaling then, no pixel beyond the box has a part in it.
        """
        boxes = self.boxes(crops_B)
        rows_BH = _positions(boxes.top_B, boxes.height_B, self.image_size[0])
        columns_BW = _positions(boxes.left_B, boxes.width_B, self.image_size[1])
        shape = (len(crops_B), *self.image_size)
        grid = columns_BW[:, None, :].expand(shape), rows_BH[:, :, None].expand(shape)
        with torch.autocast(images_BCHW.device.type, enabled=False):
            scaled = F.grid_sample(
                images_BCHW.float(),
                torch.stack(grid, dim=-1),
                mode="bilinear",
                padding_mode="border",
                align_corners=False,
            )
        return scaled.round_().to(torch.uint8)

    def apply_points(self, points_BLD: Tensor, crops_B: Tensor) -> Tensor:
        """Where points (B, L, 2) in 0..1 of width and height go; those outside of the box leave 0..1."""
        boxes = self.boxes(crops_B)
        height, width = self.image_size
        x_BL = (points_BLD[..., 0] * width - boxes.left_B[:, None]) / boxes.width_B[:, None]
        y_BL = (points_BLD[..., 1] * height - boxes.top_B[:, None]) / boxes.height_B[:, None]
        return torch.stack((x_BL, y_BL), dim=-1)


def _positions(starts_B: Tensor, lengths_B: Tensor, side: int) -> Tensor:
    """Where each of ``side`` pixels is taken from, in -1..1 between the image's edges, float32 (B, side)."""
    steps = torch.arange(side, device=starts_B.device) * 2 + 1
    inside = steps * lengths_B[:, None] / (2 * side) - 0.5
    inside = torch.minimum(inside.clamp_min(0), (lengths_B[:, None] - 1).float())
    return (2 * (inside + starts_B[:, None]) + 1) / side - 1


def _sizes(height: int, width: int) -> Tensor:
    """Heights and widths of boxes that fit, int64 (K, 2): of 256 areas by 256 ratios, each as likely as the next."""
    middles = (torch.arange(_STEPS, dtype=torch.float64) + 0.5) / _STEPS
    areas = (_AREA[0] + (_AREA[1] - _AREA[0]) * middles) * (height * width)
    low, high = (math.log(ratio) for ratio in _RATIO)
    ratios = torch.exp(low + (high - low) * middles)
    heights = (areas[:, None] / ratios).sqrt().round().long()
    widths = (areas[:, None] * ratios).sqrt().round().long()
    sizes_K2 = torch.stack((heights, widths), dim=-1).view(-1, 2)
    fits_K = ((sizes_K2 >= 1) & (sizes_K2 <= torch.tensor((height, width)))).all(dim=1)
    # Nothing fits into a strip of 1 to 17 and beyond: the whole image is what is left.
    return torch.cat((torch.tensor([[height, width]]), sizes_K2[fits_K]))
