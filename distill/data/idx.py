"""The four files of MNIST, EMNIST and their kin as a data set."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from distill.data import known
from distill.data.archive import CHUNK_BYTES, shown
from distill.data.idx_layout import IdxFile, IdxLayout, idx_layout, open_idx
from distill.data.images import Images, Pixels, mapped
from distill.data.raw import RawDataset, Split, assemble
from distill.data.reading import Reading
from distill.data.source import Source
from distill.data.spool import Spool
from distill.errors import InputError


def read_idx(source: Source, how: Reading, *, classes: Sequence[str] | None = None) -> RawDataset:
    """Greyscale images with one channel; EMNIST's are turned upright, and the labels of its letters start at 0.

    Args:
        source: the files.
        how: the seed of the held-out split counts.
        classes: names in the order of the labels; None: EMNIST's own, else the numbers. Those behind the last
            label are not used.

    Raises:
        InputError: as :func:`distill.data.idx_layout.idx_layout`; ``dataset_unreadable`` when a file holds more than
            its header says, ``upload_corrupt`` when it holds less.
    """
    layout = idx_layout(source)
    with Spool(how.folder) as spool:
        train = _split(source, layout, layout.train, spool)
        test = _split(source, layout, layout.test, spool) if layout.test else None
    names = classes or known.EMNIST.get(layout.emnist or "")
    num_classes = int(train.labels.max()) + 1
    if names is not None and num_classes <= len(names):
        return assemble(train, test=test, classes=list(names[:num_classes]), seed=how.seed)
    return assemble(train, test=test, classes=None, seed=how.seed)


def _split(source: Source, layout: IdxLayout, pair: tuple[IdxFile, IdxFile], spool: Spool) -> Split:
    images, values = (_values(source, file, spool) for file in pair)
    if layout.emnist is not None:
        # EMNIST keeps the column order of the Matlab files it was made from.
        images = images.transpose(0, 2, 1)
    labels = values.astype(np.int64)
    if layout.emnist == "letters":
        if labels.min() == 0:
            raise InputError(
                "dataset_unreadable",
                f"{shown(pair[1].member)} holds a label 0; EMNIST's letters start at 1",
                hint="Send EMNIST's own files, or name them otherwise: labels of other files start at 0.",
            )
        labels -= 1
    return Split(images=Images.of(images[:, None]), labels=labels)


def _values(source: Source, file: IdxFile, spool: Spool) -> Pixels:
    """The values, mapped, in the shape that the header gives."""
    piece = spool.append(_chunks(source, file))
    values: Pixels = mapped(spool, piece, dtype=np.uint8, shape=file.shape)
    return values


def _chunks(source: Source, file: IdxFile) -> Iterator[bytes]:
    promised, filled = math.prod(file.shape), 0
    with open_idx(source, file.member) as stream:
        stream.read(file.header_bytes)
        # Never more than the header promised, however much a .gz would unpack to.
        while filled < promised:
            data = stream.read(min(CHUNK_BYTES, promised - filled))
            if not data:
                raise InputError(
                    "upload_corrupt",
                    f"{shown(file.member)} holds {filled:,} of the {promised:,} values its header promises",
                    hint="Upload it again.",
                )
            yield data
            filled += len(data)
        if stream.read(1):
            raise InputError(
                "dataset_unreadable",
                f"{shown(file.member)} goes on after the {promised:,} values its header promises",
                hint="Write the file again, with a header that counts all of its items.",
            )
