"""Which arrays of an .npz hold images and their landmarks, by their headers alone. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from distill.data.archive import shown
from distill.data.npz_layout import ArrayHeader, array_headers, channels_last, check_images, image_shape
from distill.data.source import Source
from distill.errors import InputError

MAX_POINTS = 1000
_IMAGES = {
    "train": ("x_train", "train_images"),
    "test": ("x_test", "test_images"),
    "val": ("x_val", "val_images"),
}
_LANDMARKS = {
    "train": ("landmarks_train", "train_landmarks"),
    "test": ("landmarks_test", "test_landmarks"),
    "val": ("landmarks_val", "val_landmarks"),
}
_HINT = (
    "An .npz with landmarks needs x_train (N, H, W[, C]) of uint8 and landmarks_train (N, L, 2), x and y in pixels, "
    "and x_test, landmarks_test likewise; flip_pairs (P, 2) and normaliser (2,), numbers of points, may be there."
)

Pair = tuple[ArrayHeader, ArrayHeader]


@dataclass(frozen=True, kw_only=True)
class NpzLandmarksLayout:
    """The arrays that will be used. ``test`` is None when a part of ``train`` must be held out."""

    train: Pair
    test: Pair | None
    flip_pairs: ArrayHeader | None
    normaliser: ArrayHeader | None
    unused: list[str]
    """Keys that nothing is made of."""

    @property
    def num_points(self) -> int:
        return self.train[1].shape[1]

    @property
    def channels_last(self) -> bool:
        return channels_last(self.train[0])

    @property
    def summary(self) -> dict[str, Any]:
        """What :class:`distill.data.inspect.Inspection` says of it."""
        return {
            "task": "landmarks",
            "num_points": self.num_points,
            "splits": {"train": self.train[0].shape[0], "test": self.test[0].shape[0] if self.test else None},
            "image": image_shape(self.train[0]),
            "classes": None,
            "per_class": None,
            "skipped": 0,
            "ignored": 0,
            "unused": len(self.unused),
        }


def has_landmarks(source: Source) -> bool:
    """Whether an .npz has landmarks by the names of its arrays."""
    return any(f"{key}.npy" in source.files for keys in _LANDMARKS.values() for key in keys)


def npz_landmarks_layout(source: Source) -> NpzLandmarksLayout:
    """Find images and landmarks and check that types, shapes and sizes agree.

    Raises:
        InputError: ``unsafe_file`` for arrays of objects, ``dataset_empty``, ``dataset_unreadable``.
    """
    arrays = array_headers(source)
    train = _pair(arrays, "train")
    if train is None:
        found = ", ".join(sorted(shown(key) for key in arrays)[:10])
        _refuse(f"the .npz has no x_train; it holds {found}")
    test = _pair(arrays, "test") or _pair(arrays, "val")
    for images, landmarks in filter(None, (train, test)):
        check_images(images)
        _check_landmarks(landmarks, len_of=images)
    for ours, theirs in zip(train, test or (), strict=False):
        if ours.shape[1:] != theirs.shape[1:]:
            _refuse(f"{_said(ours)} and {_said(theirs)} should differ in nothing but their length")
    pairs, normaliser = arrays.get("flip_pairs"), arrays.get("normaliser")
    if pairs is not None and (pairs.kind not in "iu" or len(pairs.shape) != 2 or pairs.shape[1] != 2):
        _refuse(f"{_said(pairs)} should be (P, 2) of integers")
    if normaliser is not None and (normaliser.kind not in "iu" or normaliser.shape != (2,)):
        _refuse(f"{_said(normaliser)} should be two integers")
    used = {array.key for array in (*train, *(test or ()), *filter(None, (pairs, normaliser)))}
    return NpzLandmarksLayout(
        train=train, test=test, flip_pairs=pairs, normaliser=normaliser, unused=sorted(set(arrays) - used)
    )


def _pair(arrays: dict[str, ArrayHeader], split: str) -> Pair | None:
    images = [arrays[key] for key in _IMAGES[split] if key in arrays]
    landmarks = [arrays[key] for key in _LANDMARKS[split] if key in arrays]
    if not images and not landmarks:
        return None
    if len(images) != 1 or len(landmarks) != 1:
        found = ", ".join(array.key for array in (*images, *landmarks))
        _refuse(f"{_IMAGES[split][0]} and {_LANDMARKS[split][0]} must come once each; found {found}")
    return images[0], landmarks[0]


def _check_landmarks(array: ArrayHeader, *, len_of: ArrayHeader) -> None:
    if array.kind not in "iuf":
        _refuse(f"{_said(array)} should hold numbers")
    if len(array.shape) != 3 or array.shape[2] != 2 or not 2 <= array.shape[1] <= MAX_POINTS:
        _refuse(f"{_said(array)} should be (N, L, 2) with L from 2 to {MAX_POINTS}")
    if array.shape[0] != len_of.shape[0]:
        _refuse(f"{array.shape[0]:,} faces in {array.key} for {len_of.shape[0]:,} images in {len_of.key}")


def _said(array: ArrayHeader) -> str:
    return f"{shown(array.key)} {array.shape} {array.dtype}"


def _refuse(message: str) -> NoReturn:
    raise InputError("dataset_unreadable", message, hint=_HINT)
