"""Random crops and flips of whole batches, on the device, as pure functions of (image, view).

A *view* is an integer, so that what depends on a view (a teacher's features, say) can be kept and
found again. With padding p and k = 2p + 1 offsets a side::

    view = (dy * k + dx) * 2 + flip        0 <= dy, dx < k, flip in {0, 1}

pads the image with p zeros on every side, cuts out the window whose corner is (dy, dx), and then
mirrors it left to right when flip is 1. Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

AugmentationName = Literal["none", "flip", "crop_flip"]


class Augmentation:
    """One of the named augmentations for images of one size.

    Args:
        name: ``none`` (1 view), ``flip`` (2 views) or ``crop_flip`` ((2p+1)² · 2 views).
        image_size: (height, width) of every image, in pixels.

    Raises:
        ValueError: the name is not known.
    """

    def __init__(self, name: AugmentationName, image_size: tuple[int, int]) -> None:
        if name not in ("none", "flip", "crop_flip"):
            raise ValueError(f"unknown augmentation {name!r}")
        self.name = name
        self.image_size = image_size
        self.padding = max(1, min(image_size) // 8) if name == "crop_flip" else 0
        """p: zeros on every side, an eighth of the shorter side."""

    @property
    def num_views(self) -> int:
        return 1 if self.name == "none" else (2 * self.padding + 1) ** 2 * 2

    @property
    def identity(self) -> int:
        """The view that leaves an image as it is."""
        return (self.padding * (2 * self.padding + 1) + self.padding) * 2

    def draw(self, num_images: int, *, generator: torch.Generator) -> Tensor:
        """Views uniform over all, int64 (num_images,), on the generator's device."""
        return torch.randint(self.num_views, (num_images,), generator=generator, device=generator.device)

    def apply(self, images_BCHW: Tensor, views_B: Tensor) -> Tensor:
        """The given view of each image, uint8 as the images and on their device; never waits for the device.

        Args:
            images_BCHW: uint8 (B, C, H, W) of this augmentation's size.
            views_B: int64 (B,), each in 0 .. num_views - 1 (not checked: that would cost a wait).

        Raises:
            ValueError: the images have another size, or the counts differ.
        """
        if tuple(images_BCHW.shape[2:]) != self.image_size or len(images_BCHW) != len(views_B):
            raise ValueError(f"images {tuple(images_BCHW.shape)} and {len(views_B)} views for size {self.image_size}")
        if self.name == "none":
            return images_BCHW
        views_B = views_B.to(images_BCHW.device, non_blocking=True)
        if self.padding:
            images_BCHW = self._crop(images_BCHW, views_B // 2)
        return _flip(images_BCHW, views_B % 2)

    def _crop(self, images_BCHW: Tensor, corners_B: Tensor) -> Tensor:
        num_offsets = 2 * self.padding + 1
        padded_BCHW = F.pad(images_BCHW, (self.padding,) * 4).contiguous()
        starts_B = corners_B // num_offsets * padded_BCHW.shape[3] + corners_B % num_offsets
        if images_BCHW.device.type in ("cpu", "cuda"):
            return _cut_windows(padded_BCHW, starts_B, self.image_size)
        return _gather_windows(padded_BCHW, starts_B, self.image_size)


def normalize(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 images to (x / 255 - mean) / std, in channels-last memory, as one multiply and one add.

    Args:
        images_BCHW: uint8 (B, C, H, W).
        mean_C: per channel, of values in 0 .. 1; on the images' device.
        std_C: the same, above zero.
        dtype: of the result; the arithmetic is at least float32.
    """
    exact = torch.promote_types(dtype, torch.float32)
    scale_C = 1 / (255 * std_C.to(exact))
    shift_C = -mean_C.to(exact) / std_C.to(exact)
    batch, channels, height, width = images_BCHW.shape
    # Interleaved as bytes: turning floats takes four times the traffic, and 'to(channels_last)' three times the time.
    bytes_BHWC = images_BCHW.permute(0, 2, 3, 1)
    if not bytes_BHWC.is_contiguous():
        bytes_BHWC = torch.stack(images_BCHW.unbind(1), dim=-1)
    # Whole rows with the channels' factors repeated along them: a last axis of three would not be vectorised.
    rows = bytes_BHWC.reshape(batch, height, width * channels).to(exact)
    rows = rows.mul_(scale_C.repeat(width)).add_(shift_C.repeat(width)).to(dtype)
    return rows.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _flip(images_BCHW: Tensor, flips_B: Tensor) -> Tensor:
    # Copying whole images by index is several times faster than choosing pixel by pixel.
    both = torch.cat([images_BCHW, images_BCHW.flip(3)])
    places_B = torch.arange(len(images_BCHW), device=images_BCHW.device)
    return both.index_select(0, flips_B * len(images_BCHW) + places_B)


def _cut_windows(padded_BCHW: Tensor, starts_B: Tensor, size: tuple[int, int]) -> Tensor:
    """One window an image, by laying a view over the batch in which every possible window is a row.

    ``index_select`` then copies runs of W bytes; three times faster than gathering each pixel.
    """
    batch, channels, padded_height, padded_width = padded_BCHW.shape
    plane = padded_height * padded_width
    span = (channels - 1) * plane + (size[0] - 1) * padded_width + size[1]
    windows = padded_BCHW.as_strided((padded_BCHW.numel() - span + 1, channels, *size), (1, plane, padded_width, 1))
    images_B = torch.arange(batch, device=padded_BCHW.device) * (channels * plane)
    return windows.index_select(0, images_B + starts_B)


def _gather_windows(padded_BCHW: Tensor, starts_B: Tensor, size: tuple[int, int]) -> Tensor:
    """The same for devices that would write out a view of overlapping windows, such as mps."""
    batch, channels, _, padded_width = padded_BCHW.shape
    rows_H = torch.arange(size[0], device=padded_BCHW.device) * padded_width
    cells_HW = rows_H[:, None] + torch.arange(size[1], device=padded_BCHW.device)
    cells = (starts_B[:, None] + cells_HW.flatten()).unsqueeze(1).expand(batch, channels, -1)
    return padded_BCHW.flatten(2).gather(2, cells).view(batch, channels, *size)
