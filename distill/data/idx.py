"""The four files of MNIST, EMNIST and their kin as a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from distill.data import known
from distill.data.archive import shown
from distill.data.idx_layout import IdxFile, IdxLayout, idx_layout, open_idx
from distill.data.raw import Images, RawDataset, Split, assemble
from distill.data.source import Source
from distill.errors import InputError

_CHUNK_BYTES = 2**20


def read_idx(source: Source, *, seed: int, classes: Sequence[str] | None = None) -> RawDataset:
    """Greyscale images with one channel; EMNIST's are turned upright, and the labels of its letters start at 0.

    Args:
        source: the files.
        seed: of the held-out split.
        classes: names in the order of the labels; None: EMNIST's own, else the numbers. Those behind the last
            label are not used.

    Raises:
        InputError: as :func:`distill.data.idx_layout.idx_layout`; ``dataset_unreadable`` when a file holds more than
            its header says, ``upload_corrupt`` when it holds less.
    """
    layout = idx_layout(source)
    train = _split(source, layout, layout.train)
    test = _split(source, layout, layout.test) if layout.test else None
    names = classes or known.EMNIST.get(layout.emnist or "")
    num_classes = int(train.labels.max()) + 1
    if names is not None and num_classes <= len(names):
        return assemble(train, test=test, classes=list(names[:num_classes]), seed=seed)
    return assemble(train, test=test, classes=None, seed=seed)


def _split(source: Source, layout: IdxLayout, pair: tuple[IdxFile, IdxFile]) -> Split:
    images, labels = (_values(source, file) for file in pair)
    if layout.emnist is not None:
        # EMNIST keeps the column order of the Matlab files it was made from.
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    if layout.emnist == "letters":
        if labels.min() == 0:
            raise InputError(
                "dataset_unreadable",
                f"{shown(pair[1].member)} holds a label 0; EMNIST's letters start at 1",
                hint="Send EMNIST's own files, or name them otherwise: labels of other files start at 0.",
            )
        labels = labels - 1
    return Split(images=images[:, None], labels=labels.astype(np.int64))


def _values(source: Source, file: IdxFile) -> Images:
    values = np.empty(math.prod(file.shape), dtype=np.uint8)
    filled = 0
    with open_idx(source, file.member) as stream:
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
                hint="Write the file again, with a header that counts all of its items.",
            )
    return values.reshape(file.shape)
