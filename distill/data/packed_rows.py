"""Rows of a packed file, a piece at a time: neither the whole in memory nor mapped, however large it is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from distill.tensorfile import ITEM_BYTES, read_header

Pixels = NDArray[np.uint8]

_CHUNK_BYTES = 4 * 2**20
_DTYPES: dict[str, type[np.generic]] = {"U8": np.uint8, "I64": np.int64, "F32": np.float32}


class PackedRows:
    """Arrays of a file that :func:`distill.data.packed.pack` wrote; to be closed, as a context or by ``close``.

    Raises:
        InputError: as :func:`distill.tensorfile.read_header`.
    """

    def __init__(self, path: Path) -> None:
        header = read_header(path)
        self.shapes = header.shapes
        """By name: ``train_images``, ``test_labels`` and so on."""
        self.metadata = header.metadata
        self._dtypes = {name: np.dtype(_DTYPES[dtype]) for name, dtype in header.dtypes.items()}
        self._file = path.open("rb", buffering=0)
        end = 8 + int.from_bytes(self._file.read(8), "little")
        self._starts: dict[str, int] = {}
        for name, shape in header.shapes.items():
            self._starts[name] = end
            end += math.prod(shape) * ITEM_BYTES[header.dtypes[name]]

    @property
    def classes(self) -> list[str]:
        """Names in the order of the labels; empty with landmarks, and where nothing has a label."""
        names: list[str] = json.loads(self.metadata["classes"])
        return names

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """The rows from ``start`` up to ``stop``; all of them, unless told otherwise."""
        num_rows, *shape = self.shapes[name]
        stop = num_rows if stop is None else min(stop, num_rows)
        rows = np.empty((max(0, stop - start), *shape), dtype=self._dtypes[name])
        self._file.seek(self._starts[name] + start * self._row_bytes(name))
        left = rows.reshape(-1).view(np.uint8).data
        while left:
            if not (count := self._file.readinto(left)):
                raise EOFError(f"{name} ends before row {stop}")
            left = left[count:]
        return rows

    def take(self, name: str, indices: NDArray[np.int64]) -> NDArray[Any]:
        """The rows of these indices, in their order."""
        rows = np.empty((len(indices), *self.shapes[name][1:]), dtype=self._dtypes[name])
        for place, index in enumerate(indices.tolist()):
            rows[place] = self.read(name, index, index + 1)[0]
        return rows

    def taken(self, name: str, indices: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """The rows of these indices, in their order, some 4 MB at a time."""
        step = self._step(name)
        for start in range(0, max(1, len(indices)), step):
            yield self.take(name, indices[start : start + step])

    def chunks(self, name: str) -> Iterator[tuple[int, Pixels]]:
        """All rows in order, some 4 MB at a time, each piece with the index of its first row."""
        step = self._step(name)
        for start in range(0, self.shapes[name][0], step):
            yield start, self.read(name, start, start + step)

    def _step(self, name: str) -> int:
        return max(1, _CHUNK_BYTES // max(1, self._row_bytes(name)))

    def _row_bytes(self, name: str) -> int:
        return math.prod(self.shapes[name][1:]) * self._dtypes[name].itemsize

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
