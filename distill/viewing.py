"""How a network sees images: in which size, and normalised by what."""

from __future__ import annotations

from collections.abc import Callable

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


def normaliser(mean_C: Tensor, std_C: Tensor, *, size: tuple[int, int] | None = None) -> Callable[[Tensor], Tensor]:
    """Uint8 images (B, C, H, W) to normalised float ones, channels last; scaled to ``size``, (height, width)."""

    def prepare_images(images_BCHW: Tensor) -> Tensor:
        normalised = normalize(images_BCHW, mean_C, std_C)
        if size is None:
            return normalised
        return F.interpolate(normalised, size=size, mode="bilinear", align_corners=False, antialias=True)

    return prepare_images
