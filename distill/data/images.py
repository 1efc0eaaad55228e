"""Images of a data set that may be larger than memory: they lie in files, are chosen by row and read in pieces."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from distill.data.spool import Extent, Spool

PIECE_BYTES = 8 * 2**20

Pixels = NDArray[np.uint8]
Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Images:
    """Images uint8 (N, C, H, W): which rows of which arrays, in their order. Choosing and joining copy no pixels.

    Attributes:
        parts: at least one array (M, C, H, W), mapped from a file as a rule, with the rows (n,) of it that are meant.
    """

    parts: Sequence[tuple[Pixels, Rows]]

    @classmethod
    def of(cls, array_NCHW: Pixels) -> Self:
        """All images of an array, or of a view of one."""
        return cls([(array_NCHW, np.arange(len(array_NCHW)))])

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""
        return len(self), *self.parts[0][0].shape[1:]

    def chosen(self, mask_N: NDArray[np.bool_]) -> Images:
        """Those for which the mask is true."""
        ends = np.cumsum([len(rows) for _, rows in self.parts])
        masks = np.split(mask_N, ends[:-1])
        return Images([(array, rows[mask]) for (array, rows), mask in zip(self.parts, masks, strict=True)])

    def followed_by(self, others: Images) -> Images:
        """These, then others of the same size."""
        return Images([*self.parts, *others.parts])

    def first_channel(self) -> Images:
        """The same with one channel."""
        return Images([(array[:, :1], rows) for array, rows in self.parts])

    def pieces(self) -> Iterator[Pixels]:
        """All in order, as contiguous arrays (n, C, H, W) of a few MiB."""
        for array, rows in self.parts:
            count = rows_per_piece(array)
            for start in range(0, len(rows), count):
                yield np.ascontiguousarray(array[rows[start : start + count]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The whole in memory: for small data sets."""
        pieces = list(self.pieces())
        array = np.concatenate(pieces) if pieces else np.empty(self.shape, dtype=np.uint8)
        return array if dtype is None else array.astype(dtype)


class ImageFile:
    """A file without a name in which images are put aside one after the other.

    Args:
        folder: on whose disk it lies; nothing is left of it however the process ends.
        shape: of each image, (C, H, W).
    """

    def __init__(self, folder: Path, shape: tuple[int, ...]) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed on leaving)
        self._shape = shape
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, pixels_CHW: Pixels) -> int:
        """Put one image behind the others; its row."""
        # Written and not mapped: a full disk is an error then, and no signal that ends the process.
        self._file.write(np.ascontiguousarray(pixels_CHW).data)
        self._count += 1
        return self._count - 1

    def extend(self, pixels_NCHW: Pixels) -> None:
        """Put several behind the others."""
        self._file.write(np.ascontiguousarray(pixels_NCHW).data)
        self._count += len(pixels_NCHW)

    def array(self) -> Pixels:
        """All of them (N, C, H, W), mapped; they stay when the file is closed."""
        self._file.flush()
        return _mapped(self._file, dtype=np.dtype(np.uint8), shape=(self._count, *self._shape))


def mapped(spool: Spool, piece: Extent, *, dtype: Any, shape: tuple[int, ...], order: str = "C") -> NDArray[Any]:
    """A piece of a spool as an array that is read only when it is looked at; it stays when the spool is closed."""
    return _mapped(spool.file, dtype=np.dtype(dtype), shape=shape, offset=piece.offset, order=order)


def rows_per_piece(array: NDArray[Any]) -> int:
    """How many rows of an array make a piece, at least one."""
    return int(max(1, PIECE_BYTES // max(1, array.itemsize * int(np.prod(array.shape[1:])))))


def _mapped(
    file: IO[bytes], *, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0, order: str = "C"
) -> NDArray[Any]:
    if 0 in shape:
        return np.empty(shape, dtype=dtype)
    layout: Any = order
    return np.asarray(np.memmap(file, dtype=dtype, mode="r", offset=offset, shape=shape, order=layout))
