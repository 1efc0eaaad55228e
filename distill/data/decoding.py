"""Images from strangers: opened one by one, within limits, and those that cannot be read listed."""

from __future__ import annotations

import io
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median_low
from typing import Any, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from distill.data.archive import shown
from distill.data.folder_layout import MAX_IMAGE_BYTES
from distill.data.source import Source
from distill.errors import InputError

MAX_PIXELS = 50_000_000
MAX_DECODED_BYTES = 32 * 2**30
_COPIES = 2  # of the pixels: those put aside, and the packed form
_MAX_SCANS = 100
_SCAN = b"\xff\xda"  # begins each scan of a JPEG, and stands nowhere within one
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_ORIENTATION = 0x0112

T = TypeVar("T")


@dataclass
class ImageReader:
    """Reads images one by one and keeps the list of those that cannot be read."""

    source: Source
    broken: dict[str, str] = field(default_factory=dict)
    """Why, by member."""
    seen: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    """Width, height and mode as the file has them, by member."""

    @property
    def skipped(self) -> list[dict[str, str]]:
        """The same with ``path`` and ``reason``."""
        return [{"path": shown(member), "reason": reason} for member, reason in self.broken.items()]

    @property
    def originals(self) -> dict[str, Any]:
        """``width`` and ``height`` with ``min``, ``median`` and ``max``, and how many images have each of ``modes``."""
        sound = [seen for member, seen in self.seen.items() if member not in self.broken]
        if not sound:
            return {}
        widths, heights, modes = zip(*sound, strict=True)
        return {
            "width": {"min": min(widths), "median": median_low(widths), "max": max(widths)},
            "height": {"min": min(heights), "median": median_low(heights), "max": max(heights)},
            "modes": dict(sorted(Counter(modes).items())),
        }

    def attempt(self, member: str, act: Callable[[Image.Image], T]) -> T | None:
        """What ``act`` makes of the image, opened but not decoded; None, and a line in the list, if it fails."""
        try:
            if (size := self.source.files[member].file_size) > MAX_IMAGE_BYTES:
                raise ValueError(f"{size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}")
            data = self.source.read(member)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width * image.height:,} pixels; the limit is {MAX_PIXELS:,}")
                if image.format in ("JPEG", "MPO") and (scans := data.count(_SCAN)) > _MAX_SCANS:
                    # Each may be a few bytes, and goes through all pixels again.
                    raise ValueError(f"{scans:,} scans; the limit is {_MAX_SCANS}")
                self.seen[member] = (image.width, image.height, image.mode)
                return act(image)
        except MemoryError:
            raise
        except UnidentifiedImageError:
            self.broken[member] = "not a JPEG, PNG, WebP or BMP image"
        except Exception as error:  # a decoder given hostile bytes may raise anything
            self.broken[member] = shown(str(error) or type(error).__name__)
        return None


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's warnings of odd files."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Beyond its own limit Pillow only warns; the sizes of such images are refused by us as well.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def look(image: Image.Image) -> tuple[bool, int, int]:
    """Whether it is greyscale, and its height and width once upright, from the header."""
    turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    return (is_grey(image), image.width, image.height) if turned else (is_grey(image), image.height, image.width)


def is_grey(image: Image.Image) -> bool:
    """Whether it is greyscale, from the header."""
    return image.mode in ("1", "L", "LA") or image.mode.startswith("I")


def eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits scaled to 8; other images as they are.

    Raises:
        ValueError: the pixels have 32 bits.
    """
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling.
        scaled = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        scaled.info = dict(image.info)
        return scaled
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits")
    return image


def check_broken(skipped: list[dict[str, str]], *, of: int, max_share: float, what: str = "images") -> None:
    """Refuse a data set of which too much cannot be read.

    Args:
        skipped: what cannot be read, with ``path`` and ``reason``.
        of: how many there are, those included.
        max_share: up to which they are left out, in 0..1.

    Raises:
        InputError: ``dataset_unreadable``; its details are ``skipped`` (the first ten), ``skipped_count``, ``count``
            and ``max_broken_share``.
    """
    if not skipped or len(skipped) / of <= max_share:
        return
    first = f"{skipped[0]['path']}: {skipped[0]['reason']}"
    raise InputError(
        "dataset_unreadable",
        f"{len(skipped):,} of {of:,} {what} cannot be read, more than a share of {max_share:g}; the first is {first}",
        hint="Mend or remove them, or ask for a higher max_broken_share, up to which they are left out.",
        details={
            "skipped": skipped[:10],
            "skipped_count": len(skipped),
            "count": of,
            "max_broken_share": max_share,
        },
    )


def check_room(num_images: int, *, channels: int, height: int, width: int, folder: Path) -> None:
    """Refuse what would not fit the disk once decoded.

    Raises:
        InputError: ``unsafe_file`` beyond the limit, ``storage_full``.
    """
    decoded = num_images * channels * height * width
    said = f"{num_images:,} images of {height}x{width} pixels take {decoded:,} bytes"
    if decoded > MAX_DECODED_BYTES:
        raise InputError(
            "unsafe_file",
            f"{said}; the limit is {MAX_DECODED_BYTES:,}",
            hint="Ask for a smaller image_size, or send fewer images.",
        )
    if _COPIES * decoded > (free := shutil.disk_usage(folder).free):
        raise InputError(
            "storage_full",
            f"{said}, and {_COPIES} times as much while they are read; the worker's disk has {free:,} bytes free",
            hint="Free room there, or send fewer images.",
        )
