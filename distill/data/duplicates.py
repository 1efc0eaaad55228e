"""Images that come twice: equal ones within train, and test images that train has too, equal or nearly so.

Nearly: averaged down to at most 32 x 32 pixels, the values of all pixels and channels of the two images have a
correlation of at least 0.997. That is blind to brightness and contrast, and holds for an image that was saved or
scaled again. Why so: decision 0021.

As vectors without their mean and of length 1, such images lie within ``sqrt(2 (1 - 0.997))`` of each other. They are
found by an orthogonal projection, which only shortens distances: train is sorted along its first direction, each
block of test images is held against the stretch of train that can be near, and what stays near in all directions is
looked at in full.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data import UNLABELED
from distill.data.packed_rows import PackedRows, Pixels
from distill.data.raw import Labels

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

MIN_CORRELATION = 0.997
MAX_LISTED = 100
_SIDE = 32
_DIRECTIONS = 32
_SAMPLE = 2048
_BLOCK, _STRETCH = 256, 16_384
_LOOKED_AT = 1024
_MAX_CANDIDATES = 32
"""Of a test image, the nearest in projection; it has more only where train is full of the like."""
_MAX_PAIRS = 2e10
"""Of train and test: three minutes on one core where all are alike; beyond, a part of the test images is looked for."""
_SLACK = 1e-4
"""Of distances: what float32 may be off."""
REACH = math.sqrt(2 * (1 - MIN_CORRELATION))


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A split after one pass."""

    digests: NDArray[np.bytes_]
    """(N,) of the pixels."""
    places: Floats
    """(N, directions): where the images lie in projection."""


def find_duplicates(file: PackedRows) -> dict[str, Any]:
    """See the module.

    Returns:
        ``train``: ``exact`` (images that are equal to an earlier one), ``conflicting`` (images that have equals
        with another label) and ``pairs`` (of the first 100 with an earlier equal of another label: ``train``,
        ``earlier``, ``labels``). ``test``: ``searched`` (images), ``exact`` and ``near`` (of these, with an equal in
        train, and with a near one or an equal), ``share`` (near of searched), ``pairs`` (the first 100: ``test``,
        ``train``, ``distance``, which is 1 - correlation, and ``labels``, test first, where there are any).
        Numbers are indices of the packed form, labels are numbers of classes.
    """
    basis = _basis(_units(file, "train_images", _spread(file.shapes["train_images"][0], _SAMPLE)))
    train, test = (_pass(file, f"{split}_images", basis) for split in ("train", "test"))
    labels = {split: labels_of(file, split) for split in ("train", "test")}
    return {"train": _within(train, labels["train"]), "test": _across(file, train, test, labels)}


def _within(train: _Seen, labels: Labels) -> dict[str, Any]:
    """What is said of train alone."""
    labelled = np.flatnonzero(labels != UNLABELED)
    groups, firsts, group_of = np.unique(train.digests[labelled], return_index=True, return_inverse=True)
    lowest, highest = np.full(len(groups), np.iinfo(np.int64).max), np.full(len(groups), UNLABELED)
    np.minimum.at(lowest, group_of, labels[labelled])
    np.maximum.at(highest, group_of, labels[labelled])
    earlier = labelled[firsts[group_of]]
    differing = np.flatnonzero(labels[labelled] != labels[earlier])[:MAX_LISTED]
    return {
        "exact": len(labels) - len(np.unique(train.digests)),
        "conflicting": int((lowest < highest)[group_of].sum()),
        "pairs": [
            {"train": index, "earlier": first, "labels": [int(labels[index]), int(labels[first])]}
            for index, first in zip(labelled[differing].tolist(), earlier[differing].tolist(), strict=True)
        ],
    }


def _across(file: PackedRows, train: _Seen, test: _Seen, labels: dict[str, Labels]) -> dict[str, Any]:
    """What is said of test against train."""
    searched = _spread(len(test.places), int(_MAX_PAIRS / len(train.places)))
    digests, firsts = np.unique(train.digests, return_index=True)
    spots = np.searchsorted(digests, test.digests[searched]).clip(max=len(digests) - 1)
    equal = digests[spots] == test.digests[searched]
    matches = {index: (first, 0.0) for index, first in zip(searched[equal], firsts[spots[equal]], strict=True)}
    matches |= _Search(file, train.places).near(test.places, searched[~equal])
    pairs = [
        {"test": int(index), "train": int(match), "distance": round(distance, 6)}
        | _named(int(labels["test"][index]), int(labels["train"][match]))
        for index, (match, distance) in sorted(matches.items())[:MAX_LISTED]
    ]
    share = len(matches) / len(searched) if len(searched) else 0.0
    counts = {"searched": len(searched), "exact": int(equal.sum()), "near": len(matches)}
    return {**counts, "share": round(share, 6), "pairs": pairs}


def _named(test: int, train: int) -> dict[str, list[int]]:
    return {} if UNLABELED in (test, train) else {"labels": [test, train]}


class _Search:
    """Train in projection, sorted along the first direction."""

    def __init__(self, file: PackedRows, places: Floats) -> None:
        self._file = file
        self._order = np.argsort(places[:, 0], kind="stable")
        sorted_places = places[self._order]
        self._keys = np.ascontiguousarray(sorted_places[:, 0])
        # Behind each place stands minus half its square, so that one product tells which distances are short.
        self._train = np.column_stack([sorted_places, -0.5 * _squares(sorted_places)])

    def near(self, places: Floats, indices: Indices) -> dict[np.int64, tuple[np.int64, float]]:
        """The nearest train image of each of these test images that has a near one, and the distance."""
        order = indices[np.argsort(places[indices, 0], kind="stable")]
        found: dict[np.int64, tuple[np.int64, float]] = {}
        for start in range(0, len(order), _BLOCK):
            block = order[start : start + _BLOCK]
            rows, candidates = self._candidates(places[block])
            if len(rows):
                found |= self._looked_at(block[rows], candidates)
        return found

    def _candidates(self, block: Floats) -> tuple[Indices, Indices]:
        """Row of the block and train image of what is near in projection."""
        reach = REACH + _SLACK
        first = np.searchsorted(self._keys, block[0, 0] - reach)
        last = np.searchsorted(self._keys, block[-1, 0] + reach, side="right")
        homogeneous = np.column_stack([block, np.ones(len(block), dtype=np.float32)])
        least = 0.5 * (_squares(block) - np.float32(reach**2))
        hits: list[tuple[Indices, Indices, Floats]] = []
        for start in range(first, last, _STRETCH):
            scores = homogeneous @ self._train[start : min(start + _STRETCH, last)].T
            near = scores >= least[:, None]
            if near.any():
                if (full := near.sum(axis=1) > _MAX_CANDIDATES).any():
                    # From here on only what is nearer than the last of these counts for such a row.
                    least[full] = np.partition(scores[full], -_MAX_CANDIDATES, axis=1)[:, -_MAX_CANDIDATES]
                    near &= scores >= least[:, None]
                rows, columns = np.nonzero(near)
                hits.append((rows, start + columns, scores[rows, columns]))
        if not hits:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        rows, columns, scores = (np.concatenate(parts) for parts in zip(*hits, strict=True))
        order = np.lexsort((-scores, rows))
        rows, columns = rows[order], columns[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        return rows[rank < _MAX_CANDIDATES], self._order[columns[rank < _MAX_CANDIDATES]]

    def _looked_at(self, tests: Indices, candidates: Indices) -> dict[np.int64, tuple[np.int64, float]]:
        """Of pairs that are near in projection those that are near in full, the nearest of each test image."""
        best: dict[np.int64, tuple[np.int64, float]] = {}
        for start in range(0, len(tests), _LOOKED_AT):
            piece = slice(start, start + _LOOKED_AT)
            some_tests, test_rows = np.unique(tests[piece], return_inverse=True)
            some_trains, train_rows = np.unique(candidates[piece], return_inverse=True)
            test_units = _units(self._file, "test_images", some_tests)
            train_units = _units(self._file, "train_images", some_trains)
            correlations = np.einsum("nd,nd->n", test_units[test_rows], train_units[train_rows])
            for row in np.flatnonzero(correlations >= MIN_CORRELATION).tolist():
                test, distance = tests[start + row], max(0.0, 1.0 - float(correlations[row]))
                if test not in best or distance < best[test][1]:
                    best[test] = (candidates[start + row], distance)
        return best


def _pass(file: PackedRows, name: str, basis: Floats) -> _Seen:
    count = file.shapes[name][0]
    digests, places = np.empty(count, dtype="S16"), np.empty((count, basis.shape[1]), dtype=np.float32)
    for start, images in file.chunks(name):
        stop = start + len(images)
        digests[start:stop] = [hashlib.blake2b(image.data, digest_size=16).digest() for image in images]
        places[start:stop] = _unit(images) @ basis
    return _Seen(digests=digests, places=places)


def _units(file: PackedRows, name: str, indices: Indices) -> Floats:
    """:func:`_unit` of these images; a few at a time, since they may be large."""
    return np.concatenate([_unit(images) for images in file.taken(name, indices)])


def _unit(images_NCHW: Pixels) -> Floats:
    """(N, D): averaged down, without the mean, of length 1; zeros where all values are the same."""
    height, width = images_NCHW.shape[2:]
    small = images_NCHW.astype(np.float32)
    if height > _SIDE:
        small = _averaging(height) @ small
    if width > _SIDE:
        small = small @ _averaging(width).T
    vectors = small.reshape(len(small), -1)
    vectors -= vectors.mean(axis=1, keepdims=True)
    lengths = np.sqrt(_squares(vectors))[:, None]
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 1e-3)


def _averaging(side: int) -> Floats:
    """(32, side): each row averages the pixels, in part those at its ends, that one of 32 equal stretches covers."""
    edges = np.linspace(0, side, _SIDE + 1)
    pixels = np.arange(side)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (covered.clip(min=0) / (side / _SIDE)).astype(np.float32)


def _basis(sample_ND: Floats) -> Floats:
    """(D, directions), orthonormal: about those in which the sample varies most, the first one most of all."""
    centred = sample_ND - sample_ND.mean(axis=0)
    size = min(_DIRECTIONS, *centred.shape)
    start = np.random.default_rng(0).standard_normal((centred.shape[1], size)).astype(np.float32)
    for _ in range(2):  # subspace iteration
        start, _ = np.linalg.qr(centred.T @ (centred @ start))
    _, _, turned = np.linalg.svd(centred @ start, full_matrices=False)
    return np.ascontiguousarray(start @ turned.T)


def labels_of(file: PackedRows, split: str) -> Labels:
    """The labels of a split; -1 for each image where there are points in their place."""
    name = f"{split}_labels"
    if name in file.shapes:
        return file.read(name)
    return np.full(file.shapes[f"{split}_images"][0], UNLABELED)


def _spread(count: int, at_most: int) -> Indices:
    """Indices below ``count``, evenly spread; all of them if they are few enough."""
    return np.arange(count) if count <= at_most else np.linspace(0, count - 1, max(1, at_most)).astype(np.int64)


def _squares(rows: Floats) -> Floats:
    squares: Floats = np.einsum("nd,nd->n", rows, rows)
    return squares
