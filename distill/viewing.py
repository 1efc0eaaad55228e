"""How a network sees images: in which size, and normalised by what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from distill import architectures
from distill.architectures import ImageInput
from distill.data.augment import normalize
from distill.data.packed import PackedDataset
from distill.spec import NetworkOptions

Shape = tuple[int, int, int]


def input_shape(architecture: str, *, options: NetworkOptions, data: PackedDataset) -> Shape:
    """(C, H, W) of the images as a network sees them: the data set's, unless it takes one size only; in pixels."""
    return seen_shape(architectures.blueprint(architecture, options=options).input, data)


def seen_shape(own: ImageInput, data: PackedDataset) -> Shape:
    """(C, H, W) of the images for a network that is made for ``own``; in pixels."""
    return (data.in_channels, *((own.height, own.width) if own.fixed else data.image_size))


def other_size(size: tuple[int, int], *, than: PackedDataset) -> tuple[int, int] | None:
    """A size, (height, width), to which the data's images must be scaled; None where it is their own."""
    return size if size != than.image_size else None


@dataclass(frozen=True, kw_only=True)
class ImagePreparation:
    """Uint8 images (B, C, H, W) to normalised float ones, channels last.

    Attributes:
        mean_C: per channel of what the network takes, of values in 0..1; on the images' device.
        std_C: the same, above zero.
        size: (height, width) to which images are scaled; None leaves them as they are.
        channels: ``bgr`` turns their order around first.
    """

    mean_C: Tensor
    std_C: Tensor
    size: tuple[int, int] | None = None
    channels: Literal["rgb", "bgr"] = "rgb"

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        ordered = images_BCHW.flip(1) if self.channels == "bgr" else images_BCHW
        normalised = normalize(ordered, self.mean_C, self.std_C)
        if self.size is None:
            return normalised
        return F.interpolate(normalised, size=self.size, mode="bilinear", align_corners=False, antialias=True)
