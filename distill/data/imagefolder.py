"""Images that lie as files as a data set: every one decoded once, to one size."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from distill.data.decoding import ImageReader, check_broken, check_room, eight_bits, look, quiet_pillow
from distill.data.folder_layout import folder_layout
from distill.data.image_layout import ImageLayout
from distill.data.images import ImageFile, Images, Pixels
from distill.data.raw import RawDataset, Split, assemble
from distill.data.reading import Reading
from distill.data.source import Source
from distill.errors import InputError

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


def read_imagefolder(source: Source, how: Reading) -> RawDataset:
    """Decode every image; those that cannot be read are left out and listed.

    Images of one size up to 256 pixels a side stay as they are. Others are scaled by their shorter side to
    ``image_size`` (the median shorter side, at most 224, when None) and cut square about the centre. One channel
    when every image is greyscale, else three. Headers are looked at first; then one image at a time is decoded.

    Raises:
        InputError: as :func:`distill.data.folder_layout.folder_layout`, and ``dataset_unreadable`` when too many
            cannot be read, ``unsafe_file`` or ``storage_full`` when the whole takes too much room.
    """
    return read_layout(source, folder_layout(source), how)


def read_layout(source: Source, layout: ImageLayout, how: Reading) -> RawDataset:
    """The same of images whose splits and classes are known already.

    Raises:
        InputError: ``dataset_unreadable``, ``unsafe_file``, ``storage_full``, ``dataset_empty`` or
            ``dataset_class_mismatch``.
    """
    reader = ImageReader(source)
    with quiet_pillow():
        members = layout.train + layout.unlabeled + (layout.test or [])
        target = _choose_target(reader, members, how)
        train = _decode_all(reader, layout.train, target, how.folder)
        unlabeled = _decode_all(reader, layout.unlabeled, target, how.folder)
        test = _decode_all(reader, layout.test, target, how.folder) if layout.test else None
        broken = reader.skipped + layout.missing
        check_broken(broken, of=len(members) + len(layout.missing), max_share=how.max_broken_share)
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
        seed=how.seed,
        skipped=broken + layout.skipped,
        ignored=layout.ignored,
        notes=notes,
        originals=reader.originals,
    )


def _choose_target(reader: ImageReader, members: Pairs, how: Reading) -> _Target:
    looks = [seen for member, _ in members if (seen := reader.attempt(member, look)) is not None]
    check_broken(reader.skipped, of=len(members), max_share=how.max_broken_share)
    if not looks:
        message = f"none of {len(members):,} images can be read"
        raise InputError("dataset_empty", message, hint="Send JPEG, PNG, WebP or BMP images.")
    grey = all(seen[0] for seen in looks)
    sizes = {seen[1:] for seen in looks}
    _, height, width = looks[0]
    same = len(sizes) == 1 and max(height, width) <= _KEPT_SIDE
    if not same or how.image_size not in (None, height) or how.image_size not in (None, width):
        height = width = how.image_size or min(_USUAL_SIDE, int(statistics.median(min(seen[1:]) for seen in looks)))
        same = False
    target = _Target(channels=1 if grey else 3, height=height, width=width, resize=not same)
    check_room(len(looks), channels=target.channels, height=height, width=width, folder=how.folder)
    return target


def _decode_all(reader: ImageReader, members: Pairs, target: _Target, folder: Path) -> Split:
    labels = []
    with ImageFile(folder, (target.channels, target.height, target.width)) as file:
        for member, label in members:
            if member in reader.broken:
                continue
            image = reader.attempt(member, lambda opened: _decode(opened, target))
            if image is not None:
                file.append(image)
                labels.append(label)
        return Split(images=Images.of(file.array()), labels=np.array(labels, dtype=np.int64))


def _decode(image: Image.Image, target: _Target) -> Pixels:
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
