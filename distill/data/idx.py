"""The four files of MNIST and its kin as a data set."""

from __future__ import annotations

import math

import numpy as np

from distill.data.archive import Archive, shown
from distill.data.idx_layout import IdxFile, idx_layout, open_idx
from distill.data.raw import Images, RawDataset, Split, assemble
from distill.errors import InputError

_CHUNK_BYTES = 2**20


def read_idx(archive: Archive, *, seed: int) -> RawDataset:
    """Greyscale images with one channel; the classes are named by their numbers.

    Raises:
        InputError: as :func:`distill.data.idx_layout.idx_layout`; ``dataset_unreadable`` when a file holds more than
            its header says, ``upload_corrupt`` when it holds less.
    """
    layout = idx_layout(archive)
    test = _split(archive, layout.test) if layout.test else None
    return assemble(_split(archive, layout.train), test=test, classes=None, seed=seed)


def _split(archive: Archive, pair: tuple[IdxFile, IdxFile]) -> Split:
    images, labels = (_values(archive, file) for file in pair)
    return Split(images=images[:, None], labels=labels.astype(np.int64))


def _values(archive: Archive, file: IdxFile) -> Images:
    values = np.empty(math.prod(file.shape), dtype=np.uint8)
    filled = 0
    with open_idx(archive, file.member) as stream:
        stream.read(file.header_bytes)
        # Never more than the header promised, however much a .gz would unpack to.
        while filled < len(values):
            data = stream.read(min(_CHUNK_BYTES, len(values) - filled))
            if not data:
                raise InputError(
                    "upload_corrupt",
                    f"{shown(file.member)} holds {filled:,} of the {len(values):,} values its header promises",
                    hint="Upload it again.",
                )
            values[filled : filled + len(data)] = np.frombuffer(data, dtype=np.uint8)
            filled += len(data)
        if stream.read(1):
            raise InputError(
                "dataset_unreadable",
                f"{shown(file.member)} goes on after the {len(values):,} values its header promises",
            )
    return values.reshape(file.shape)
