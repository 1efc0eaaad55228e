"""A zip of images in folders as a data set: every image decoded once, to one size."""

from __future__ import annotations

import io
import statistics
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from distill.data.archive import shown
from distill.data.folder_layout import folder_layout
from distill.data.raw import Images, RawDataset, Split, assemble
from distill.data.source import Source
from distill.errors import InputError

MAX_PIXELS = 50_000_000
MAX_DECODED_BYTES = 8 * 2**30
MAX_BROKEN = 0.05
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_KEPT_SIDE = 256
_USUAL_SIDE = 224
_ORIENTATION = 0x0112

Pairs = list[tuple[str, int]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class _Target:
    """The shape that every image gets; ``resize``: by its shorter side, and cut square about the centre."""

    channels: int
    height: int
    width: int
    resize: bool


@dataclass
class _Reader:
    """Reads images one by one and keeps the list of those that cannot be read."""

    source: Source
    broken: dict[str, str] = field(default_factory=dict)

    def attempt(self, member: str, act: Callable[[Image.Image], T]) -> T | None:
        """What ``act`` makes of the image, opened but not decoded; None, and a line in the list, if it fails."""
        try:
            with Image.open(io.BytesIO(self.source.read(member)), formats=_FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width * image.height:,} pixels; the limit is {MAX_PIXELS:,}")
                return act(image)
        except MemoryError:
            raise
        except UnidentifiedImageError:
            self.broken[member] = "not a JPEG, PNG, WebP or BMP image"
        except Exception as error:  # a decoder given hostile bytes may raise anything
            self.broken[member] = shown(str(error) or type(error).__name__)
        return None


def read_imagefolder(source: Source, *, seed: int, image_size: int | None = None) -> RawDataset:
    """Decode every image; those that cannot be read are left out and listed.

    Images of one size up to 256 pixels a side stay as they are. Others are scaled by their shorter side to
    ``image_size`` (the median shorter side, at most 224, when None) and cut square about the centre. One channel
    when every image is greyscale, else three.

    Raises:
        InputError: as :func:`distill.data.folder_layout.folder_layout`, and ``dataset_unreadable`` when more than 5 %
            cannot be read, ``unsafe_file`` when the whole takes too much memory.
    """
    layout = folder_layout(source)
    reader = _Reader(source)
    with _quiet_pillow():
        members = layout.train + layout.unlabeled + (layout.test or [])
        target = _choose_target(reader, members, image_size)
        train = _decode_all(reader, layout.train, target)
        unlabeled = _decode_all(reader, layout.unlabeled, target)
        test = _decode_all(reader, layout.test, target) if layout.test else None
        _check_broken(reader, len(members))
    notes = []
    if target.resize:
        notes.append(f"Images were scaled by their shorter side and cut square, {target.height}x{target.width} pixels.")
    if layout.unused:
        notes.append(f"Nothing was made of {layout.unused:,} images of a validation split beside the test split.")
    broken = [{"path": shown(member), "reason": reason} for member, reason in reader.broken.items()]
    return assemble(
        train if layout.classes else None,
        test=test,
        classes=layout.classes,
        unlabeled=unlabeled.images,
        seed=seed,
        skipped=broken + layout.skipped,
        ignored=layout.ignored,
        notes=notes,
    )


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Beyond its own limit Pillow only warns; the sizes of such images are refused by us as well.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _choose_target(reader: _Reader, members: Pairs, image_size: int | None) -> _Target:
    looks = [look for member, _ in members if (look := reader.attempt(member, _look)) is not None]
    _check_broken(reader, len(members))
    grey = all(look[0] for look in looks)
    sizes = {look[1:] for look in looks}
    _, height, width = looks[0]
    same = len(sizes) == 1 and max(height, width) <= _KEPT_SIDE
    if not same or image_size not in (None, height) or image_size not in (None, width):
        height = width = image_size or min(_USUAL_SIDE, int(statistics.median(min(look[1:]) for look in looks)))
        same = False
    target = _Target(channels=1 if grey else 3, height=height, width=width, resize=not same)
    decoded = len(members) * target.channels * height * width
    if decoded > MAX_DECODED_BYTES:
        raise InputError(
            "unsafe_file",
            f"{len(members):,} images of {height}x{width} pixels take {decoded:,} bytes of memory; "
            f"the limit is {MAX_DECODED_BYTES:,}",
            hint="Ask for a smaller image_size, or send fewer images.",
        )
    return target


def _decode_all(reader: _Reader, members: Pairs, target: _Target) -> Split:
    images = np.empty((len(members), target.channels, target.height, target.width), dtype=np.uint8)
    labels = np.empty(len(members), dtype=np.int64)
    count = 0
    for member, label in members:
        if member in reader.broken:
            continue
        image = reader.attempt(member, lambda opened: _decode(opened, target))
        if image is not None:
            images[count], labels[count] = image, label
            count += 1
    return Split(images=images[:count], labels=labels[:count])


def _decode(image: Image.Image, target: _Target) -> Images:
    if target.resize:
        # A JPEG can be decoded at a fraction of its size; twice the target loses nothing that scaling keeps.
        image.draft(None, (2 * target.width, 2 * target.height))
    upright = ImageOps.exif_transpose(_eight_bits(image)).convert("L" if target.channels == 1 else "RGB")
    if target.resize:
        short = min(upright.size)
        left, top = (upright.width - short) / 2, (upright.height - short) / 2
        # The square is cut while scaling, so that a strip of 1 x 50 million pixels never grows.
        upright = upright.resize(
            (target.width, target.height),
            Image.Resampling.BILINEAR,
            box=(left, top, left + short, top + short),
        )
    if (upright.height, upright.width) != (target.height, target.width):
        raise ValueError(f"decodes to {upright.width}x{upright.height} pixels, not to what its header says")
    pixels = np.asarray(upright, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _look(image: Image.Image) -> tuple[bool, int, int]:
    """Whether it is greyscale, and its height and width once upright, from the header."""
    grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I")
    turned = image.getexif().get(_ORIENTATION) in (5, 6, 7, 8)
    return (grey, image.width, image.height) if turned else (grey, image.height, image.width)


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling.
        scaled = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        scaled.info = dict(image.info)
        return scaled
    if image.mode in ("I", "F"):
        raise ValueError("pixels of 32 bits")
    return image


def _check_broken(reader: _Reader, num_images: int) -> None:
    if len(reader.broken) <= MAX_BROKEN * num_images:
        return
    listed = [{"path": shown(member), "reason": reason} for member, reason in reader.broken.items()]
    first = f"{listed[0]['path']}: {listed[0]['reason']}"
    raise InputError(
        "dataset_unreadable",
        f"{len(listed):,} of {num_images:,} images cannot be read, the first is {first}",
        hint=f"Up to {MAX_BROKEN:.0%} are left out; mend or remove the others.",
        details={"skipped": listed[:10]},
    )
