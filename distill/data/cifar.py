"""CIFAR-10 and CIFAR-100 in their binary versions as a data set."""

from __future__ import annotations

import numpy as np

from distill.data import known
from distill.data.archive import shown
from distill.data.cifar_layout import PIXEL_BYTES, SIDE, CifarLayout, cifar_layout
from distill.data.raw import RawDataset, Split, assemble, normalised_as
from distill.data.source import Source
from distill.errors import InputError


def read_cifar(source: Source, *, seed: int) -> RawDataset:
    """Colour images of 32 x 32 pixels with the papers' normalisation; of CIFAR-100 the fine labels.

    Raises:
        InputError: as :func:`distill.data.cifar_layout.cifar_layout`, ``upload_corrupt`` when a file holds less than
            its size says, and for labels and names that do not fit.
    """
    layout = cifar_layout(source)
    parts = [_split(source, layout, member) for member in layout.train]
    train = Split(
        images=np.concatenate([part.images for part in parts]), labels=np.concatenate([part.labels for part in parts])
    )
    raw = assemble(
        train,
        test=_split(source, layout, layout.test) if layout.test else None,
        classes=layout.classes,
        seed=seed,
        notes=[f"There is no {', '.join(layout.missing)}."] if layout.missing else [],
    )
    return normalised_as(raw, known.CIFAR_100 if layout.num_labels == 2 else known.CIFAR_10)


def _split(source: Source, layout: CifarLayout, member: str) -> Split:
    data = source.read(member)
    if len(data) != source.files[member].file_size:
        message = f"{shown(member)} holds {len(data):,} bytes, not what was listed"
        raise InputError("upload_corrupt", message, hint="Make the archive again, and upload it whole.")
    records = np.frombuffer(data, dtype=np.uint8).reshape(-1, layout.record_bytes)
    images, labels = records[:, -PIXEL_BYTES:], records[:, layout.num_labels - 1]
    return Split(images=images.reshape(-1, 3, SIDE, SIDE), labels=labels.astype(np.int64))
