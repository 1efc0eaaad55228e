"""Images with landmarks as they were read: what every reader of them ends in, and which faces are sound."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from distill.data.images import Images
from distill.data.raw import HELD_OUT
from distill.errors import InputError
from distill.markup import Markup

Points = NDArray[np.float32]

REACH = 1.0
"""How far outside of its picture a point may lie, in sides of the picture: the cheek of a face that is cut off."""


@dataclass(frozen=True, kw_only=True)
class PointSplit:
    """Images uint8 (N, C, H, W) with their points float32 (N, L, 2), x and y in 0..1 of width and height."""

    images: Images
    points: Points
    groups: NDArray[np.int64]
    """(N,): faces with the same number are cut from one photograph and belong to the same split."""


@dataclass(frozen=True, kw_only=True)
class RawLandmarks:
    """Images uint8 (N, C, H, W) and points float32 (N, L, 2); 0 is the left or upper edge, 1 the right or lower one.

    No point is farther outside of its image than one side of it, and no face has the length zero by which errors
    are divided.
    """

    train_images: Images
    train_points: Points
    test_images: Images
    test_points: Points
    markup: Markup
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Faces and files left out, with ``path`` and ``reason``."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Files that systems leave behind: how many, by kind, such as .DS_Store."""
    notes: list[str] = field(default_factory=list)
    """What was decided on the user's behalf, one sentence each."""


def assemble_landmarks(
    train: PointSplit,
    *,
    test: PointSplit | None,
    markup: Markup,
    seed: int,
    skipped: list[dict[str, str]] | None = None,
    ignored: dict[str, int] | None = None,
    notes: list[str] | None = None,
) -> RawLandmarks:
    """Hold out a test split where there is none, and say so.

    Raises:
        InputError: ``dataset_empty`` when a split has no face.
    """
    said = list(notes or [])
    if test is None:
        count = len(train.images)
        train, test = hold_out_groups(train, seed=seed)
        said.append(
            f"No test split was given: {len(test.images):,} of {count:,} faces were held out of train, "
            f"whole photographs, with seed {seed}."
        )
    for split, name in ((train, "train"), (test, "test")):
        if len(split.images) == 0:
            message = f"there is no sound face in {name}"
            hint = "Send photographs whose points lie on a face; `skipped` of a data set tells why faces are left out."
            raise InputError("dataset_empty", message, hint=hint)
    if markup.flip_pairs is None:
        said.append("Which points change places in a mirror is not known, so that images cannot be flipped.")
    return RawLandmarks(
        train_images=train.images,
        train_points=train.points,
        test_images=test.images,
        test_points=test.points,
        markup=markup,
        skipped=skipped or [],
        ignored=ignored or {},
        notes=said,
    )


def hold_out_groups(split: PointSplit, *, seed: int) -> tuple[PointSplit, PointSplit]:
    """Take a tenth of the photographs, at least one: the rest, and what was taken.

    Raises:
        InputError: ``dataset_empty`` when there is only one.
    """
    groups = np.unique(split.groups)
    if len(groups) < 2:
        raise InputError(
            "dataset_empty",
            f"{len(groups)} photographs leave none to test with",
            hint="Give more photographs, or a test split.",
        )
    order = np.random.default_rng(seed).permutation(groups)
    taken = np.isin(split.groups, order[: max(1, round(HELD_OUT * len(groups)))])
    return _chosen(split, ~taken), _chosen(split, taken)


def fault(points_LD: NDArray[np.float64], markup: Markup, *, image_size: tuple[int, int]) -> str | None:
    """What is wrong with a face's points, in 0..1 of its picture; None when they are sound.

    The rule for points outside: a face is kept as long as each of its points is at most one side of the picture
    away from it, since faces reach beyond photographs; farther off, the numbers are taken to be wrong.
    """
    if not np.isfinite(points_LD).all():
        return "a coordinate is not a finite number"
    outside = np.abs(points_LD - 0.5) > 0.5 + REACH
    if outside.any():
        point = int(np.argmax(outside.any(axis=1)))
        x, y = points_LD[point]
        return f"point {point} lies {x:.3g} widths and {y:.3g} heights from the corner of its picture"
    height, width = image_size
    pixels_LD = points_LD * (width, height)
    if markup.normaliser == "box":
        if np.ptp(pixels_LD, axis=0).min() < _LEAST_LENGTH:
            return "all points lie on one line along a side"
    else:
        first, second = markup.normaliser
        if np.linalg.norm(pixels_LD[first] - pixels_LD[second]) < _LEAST_LENGTH:
            return f"points {first} and {second}, whose distance errors are divided by, lie in one place"
    return None


_LEAST_LENGTH = 1e-3  # pixels: nothing that anybody marks


def _chosen(split: PointSplit, rows: NDArray[np.bool_]) -> PointSplit:
    return replace(split, images=split.images.chosen(rows), points=split.points[rows], groups=split.groups[rows])
