"""Random crops and flips of whole batches, on the device, as pure functions of (image, view).

A *view* is an integer, so that what depends on a view (a teacher's features, say) can be kept and
found again. With padding p and k = 2p + 1 offsets a side::

    view = (dy * k + dx) * 2 + flip        0 <= dy, dx < k, flip in {0, 1}

pads the image with p zeros on every side, cuts out the window whose corner is (dy, dx), and then
mirrors it left to right when flip is 1. ``crop`` leaves ``* 2 + flip`` out, ``flip`` has k = 1, and
``resized_crop_flip`` has a crop of :mod:`distill.data.resized_crop` in the place of (dy * k + dx).
Legend: B batch, C channels, H height, W width, L points.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.data.resized_crop import ResizedCrops
from distill.markup import Pair, mirrored_order

AugmentationName = Literal["none", "flip", "crop", "crop_flip", "resized_crop_flip"]


class Augmentation:
    """One of the named augmentations for images of one size.

    Args:
        name: ``none`` (1 view), ``flip`` (2 views), ``crop`` ((2p+1)² views), ``crop_flip`` ((2p+1)² · 2 views) or
            ``resized_crop_flip`` (about 2·10¹² views: too many to go through, but any number can be drawn and kept).
        image_size: (height, width) of every image, in pixels.

    Raises:
        ValueError: the name is not known.
    """

    def __init__(self, name: AugmentationName, image_size: tuple[int, int]) -> None:
        if name not in get_args(AugmentationName):
            raise ValueError(f"unknown augmentation {name!r}")
        self.name = name
        self.image_size = image_size
        self.flips = name in ("flip", "crop_flip", "resized_crop_flip")
        """Whether some views are mirrored: not for digits or letters, nor for points without known pairs."""
        self.padding = max(1, min(image_size) // 8) if name in ("crop", "crop_flip") else 0
        """p: zeros on every side, an eighth of the shorter side."""
        self._resized = ResizedCrops(image_size) if name == "resized_crop_flip" else None

    @property
    def num_views(self) -> int:
        crops = self._resized.num_crops if self._resized else (2 * self.padding + 1) ** 2
        return crops * self._sides

    @property
    def identity(self) -> int:
        """The view that leaves an image as it is."""
        if self._resized:
            return 0
        return (self.padding * (2 * self.padding + 1) + self.padding) * self._sides

    @property
    def _sides(self) -> int:
        return 2 if self.flips else 1

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
        crops_B = views_B // self._sides
        if self._resized:
            images_BCHW = self._resized.apply(images_BCHW, crops_B)
        elif self.padding:
            images_BCHW = self._crop(images_BCHW, crops_B)
        return _flip(images_BCHW, views_B % 2) if self.flips else images_BCHW

    def apply_points(self, points_BLD: Tensor, views_B: Tensor, *, flip_pairs: Iterable[Pair] | None) -> Tensor:
        """Where :meth:`apply` takes the points of each image, on the points' device.

        A point that a crop cuts off is told all the same: it lies outside of 0..1.

        Args:
            points_BLD: float (B, L, 2), x and y in 0..1 of width and height.
            views_B: int64 (B,).
            flip_pairs: the points that change places in a mirrored view: the left eye of a mirrored face is where
                the right one was. None: not known.

        Raises:
            ValueError: the pairs are not known and views may be mirrored, or the counts differ.
        """
        if points_BLD.ndim != 3 or points_BLD.shape[2] != 2 or len(points_BLD) != len(views_B):
            raise ValueError(f"points {tuple(points_BLD.shape)} and {len(views_B)} views")
        if self.flips and flip_pairs is None:
            raise ValueError(f"{self.name} mirrors, and it is not known which points then change places")
        if self.name == "none":
            return points_BLD
        views_B = views_B.to(points_BLD.device, non_blocking=True)
        crops_B = views_B // self._sides
        if self._resized:
            points_BLD = self._resized.apply_points(points_BLD, crops_B)
        elif self.padding:
            points_BLD = self._shift(points_BLD, crops_B)
        return _mirror(points_BLD, views_B % 2, flip_pairs=flip_pairs or ()) if self.flips else points_BLD

    def _shift(self, points_BLD: Tensor, corners_B: Tensor) -> Tensor:
        num_offsets = 2 * self.padding + 1
        height, width = self.image_size
        right_B = (self.padding - corners_B % num_offsets) / width
        down_B = (self.padding - corners_B // num_offsets) / height
        return points_BLD + torch.stack((right_B, down_B), dim=1)[:, None]

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


def _mirror(points_BLD: Tensor, flips_B: Tensor, *, flip_pairs: Iterable[Pair]) -> Tensor:
    order = torch.tensor(mirrored_order(flip_pairs, num_points=points_BLD.shape[1]))
    turned_BLD = points_BLD.index_select(1, order.to(points_BLD.device, non_blocking=True))
    turned_BLD = torch.stack((1 - turned_BLD[..., 0], turned_BLD[..., 1]), dim=-1)
    return torch.where(flips_B[:, None, None] == 1, turned_BLD, points_BLD)


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
