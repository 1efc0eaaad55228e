"""CIFAR-10 and CIFAR-100 in their binary versions as a data set."""

from __future__ import annotations

import functools

import numpy as np

from distill.data import known
from distill.data.archive import CHUNK_BYTES, shown
from distill.data.cifar_layout import PIXEL_BYTES, SIDE, CifarLayout, cifar_layout
from distill.data.images import Images, mapped
from distill.data.raw import RawDataset, Split, assemble, normalised_as
from distill.data.reading import Reading
from distill.data.source import Source
from distill.data.spool import Spool
from distill.errors import InputError


def read_cifar(source: Source, how: Reading) -> RawDataset:
    """Colour images of 32 x 32 pixels with the papers' normalisation; of CIFAR-100 the fine labels.

    Raises:
        InputError: as :func:`distill.data.cifar_layout.cifar_layout`, ``upload_corrupt`` when a file holds less than
            its size says, and for labels and names that do not fit.
    """
    layout = cifar_layout(source)
    with Spool(how.folder) as spool:
        parts = [_split(source, layout, member, spool) for member in layout.train]
        test = _split(source, layout, layout.test, spool) if layout.test else None
    train = Split(
        images=functools.reduce(Images.followed_by, (part.images for part in parts)),
        labels=np.concatenate([part.labels for part in parts]),
    )
    raw = assemble(
        train,
        test=test,
        classes=layout.classes,
        seed=how.seed,
        notes=[f"There is no {', '.join(layout.missing)}."] if layout.missing else [],
    )
    return normalised_as(raw, known.CIFAR_100 if layout.num_labels == 2 else known.CIFAR_10)


def _split(source: Source, layout: CifarLayout, member: str, spool: Spool) -> Split:
    with source.open(member) as stream:
        piece = spool.append(iter(lambda: stream.read(CHUNK_BYTES), b""))
    if piece.file_size != source.files[member].file_size:
        message = f"{shown(member)} holds {piece.file_size:,} bytes, not what was listed"
        raise InputError("upload_corrupt", message, hint="Make the archive again, and upload it whole.")
    shape = (piece.file_size // layout.record_bytes, layout.record_bytes)
    records = mapped(spool, piece, dtype=np.uint8, shape=shape)
    images, labels = records[:, -PIXEL_BYTES:], records[:, layout.num_labels - 1]
    return Split(images=Images.of(images.reshape(-1, 3, SIDE, SIDE)), labels=labels.astype(np.int64))
