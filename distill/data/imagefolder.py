"""Images that lie as files as a data set: every one decoded once, to one size."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

from distill.data.decoding import ImageReader, check_broken, check_memory, eight_bits, look, quiet_pillow
from distill.data.folder_layout import folder_layout
from distill.data.image_layout import ImageLayout
from distill.data.raw import Images, RawDataset, Split, assemble
from distill.data.source import Source

_KEPT_SIDE = 256
_USUAL_SIDE = 224

Pairs = list[tuple[str, int]]


@dataclass(frozen=True, kw_only=True)
class _Target:
    """The shape that every image gets; ``resize``: by its shorter side, and cut square about the centre."""

    channels: int
    height: int
    width: int
    resize: bool


def read_imagefolder(source: Source, *, seed: int, image_size: int | None = None) -> RawDataset:
    """Decode every image; those that cannot be read are left out and listed.

    Images of one size up to 256 pixels a side stay as they are. Others are scaled by their shorter side to
    ``image_size`` (the median shorter side, at most 224, when None) and cut square about the centre. One channel
    when every image is greyscale, else three.

    Raises:
        InputError: as :func:`distill.data.folder_layout.folder_layout`, and ``dataset_unreadable`` when more than 5 %
            cannot be read, ``unsafe_file`` when the whole takes too much memory.
    """
    return read_layout(source, folder_layout(source), seed=seed, image_size=image_size)


def read_layout(source: Source, layout: ImageLayout, *, seed: int, image_size: int | None = None) -> RawDataset:
    """The same of images whose splits and classes are known already.

    Raises:
        InputError: ``dataset_unreadable``, ``unsafe_file``, ``dataset_empty`` or ``dataset_class_mismatch``.
    """
    reader = ImageReader(source)
    with quiet_pillow():
        members = layout.train + layout.unlabeled + (layout.test or [])
        target = _choose_target(reader, members, image_size)
        train = _decode_all(reader, layout.train, target)
        unlabeled = _decode_all(reader, layout.unlabeled, target)
        test = _decode_all(reader, layout.test, target) if layout.test else None
        check_broken(reader.skipped + layout.missing, of=len(members) + len(layout.missing))
    notes = []
    if target.resize:
        notes.append(f"Images were scaled by their shorter side and cut square, {target.height}x{target.width} pixels.")
    if layout.unused:
        notes.append(f"Nothing was made of {layout.unused:,} images of a validation split, or of one without labels.")
    return assemble(
        train if layout.classes else None,
        test=test,
        classes=layout.classes,
        unlabeled=unlabeled.images,
        seed=seed,
        skipped=reader.skipped + layout.missing + layout.skipped,
        ignored=layout.ignored,
        notes=notes,
        originals=reader.originals,
    )


def _choose_target(reader: ImageReader, members: Pairs, image_size: int | None) -> _Target:
    looks = [seen for member, _ in members if (seen := reader.attempt(member, look)) is not None]
    check_broken(reader.skipped, of=len(members))
    grey = all(seen[0] for seen in looks)
    sizes = {seen[1:] for seen in looks}
    _, height, width = looks[0]
    same = len(sizes) == 1 and max(height, width) <= _KEPT_SIDE
    if not same or image_size not in (None, height) or image_size not in (None, width):
        height = width = image_size or min(_USUAL_SIDE, int(statistics.median(min(seen[1:]) for seen in looks)))
        same = False
    target = _Target(channels=1 if grey else 3, height=height, width=width, resize=not same)
    check_memory(len(members), channels=target.channels, height=height, width=width)
    return target


def _decode_all(reader: ImageReader, members: Pairs, target: _Target) -> Split:
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
    upright = ImageOps.exif_transpose(eight_bits(image)).convert("L" if target.channels == 1 else "RGB")
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
