"""A data set as arrays: what every reader ends in, with the checks on labels that all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from distill.data.archive import shown
from distill.errors import InputError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

HELD_OUT = 0.1
_MAX_CLASS_NAME = 200


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images uint8 (N, C, H, W) and their labels int64 (N,)."""

    images: Images
    labels: Labels


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """Images uint8 (N, C, H, W), labels int64 (N,) in 0 .. len(classes) - 1; every class has a train image."""

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: list[str]
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Files left out, with ``path`` and ``reason``."""
    ignored: int = 0
    """Files that systems leave behind, such as .DS_Store."""
    notes: list[str] = field(default_factory=list)
    """What was decided on the user's behalf, one sentence each: how the split was made, what was resized."""


def assemble(
    train: Split,
    *,
    test: Split | None,
    classes: list[str] | None,
    seed: int,
    skipped: list[dict[str, str]] | None = None,
    ignored: int = 0,
    notes: list[str] | None = None,
) -> RawDataset:
    """Check the labels, hold out a test split where there is none, and name the classes.

    Raises:
        InputError: ``dataset_empty``, ``dataset_unreadable`` for labels out of range,
            ``dataset_class_mismatch`` for gaps, or for classes that only the test split has.
    """
    _check_labels(train.labels, classes)
    num_classes = int(train.labels.max()) + 1
    said = list(notes or [])
    if test is None:
        train, test = hold_out(train, seed=seed)
        said.append(
            f"No test split was given: {len(test.labels):,} of {len(train.labels) + len(test.labels):,} images "
            f"were held out of train, {HELD_OUT:.0%} of each class, with seed {seed}."
        )
    _check_test_labels(test.labels, num_classes)
    return RawDataset(
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images,
        test_labels=test.labels,
        classes=classes or [str(index) for index in range(num_classes)],
        skipped=skipped or [],
        ignored=ignored,
        notes=said,
    )


def hold_out(split: Split, *, seed: int) -> tuple[Split, Split]:
    """Take a tenth of each class, at least one image where it has two: the rest, and what was taken.

    Raises:
        InputError: ``dataset_empty`` when no class has two images.
    """
    random = np.random.default_rng(seed)
    taken = np.zeros(len(split.labels), dtype=bool)
    for label in np.unique(split.labels):
        members = np.flatnonzero(split.labels == label)
        if len(members) > 1:
            count = max(1, round(HELD_OUT * len(members)))
            taken[random.permutation(members)[:count]] = True
    if not taken.any():
        raise InputError(
            "dataset_empty",
            f"{len(taken)} images of as many classes leave none to test with",
            hint="Give at least two images of a class, or a test split.",
        )
    return (
        Split(images=split.images[~taken], labels=split.labels[~taken]),
        Split(images=split.images[taken], labels=split.labels[taken]),
    )


def _check_labels(labels: Labels, classes: list[str] | None) -> None:
    if len(labels) == 0:
        raise InputError("dataset_empty", "there are no train images")
    present = np.unique(labels)
    if present[0] < 0:
        raise InputError("dataset_unreadable", f"there is a train label {present[0]}; labels start at 0")
    if classes is not None:
        _check_names(classes)
        if present[-1] >= len(classes):
            raise InputError(
                "dataset_unreadable", f"there is a train label {present[-1]}, and only {len(classes)} classes"
            )
    _check_gaps(present, classes)
    if len(present) < 2:
        raise InputError("dataset_empty", "there is only one class in train", hint="Give two or more classes.")


def _check_gaps(present: Labels, classes: list[str] | None) -> None:
    num_classes = len(classes) if classes is not None else len(present)
    missing = np.setdiff1d(np.arange(num_classes), present)
    if len(missing) == 0:
        return
    first = ", ".join(shown(classes[i]) if classes else str(i) for i in missing[:5])
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    raise InputError(
        "dataset_class_mismatch",
        f"{len(present)} classes have train images, labels {present[0]} to {present[-1]}; "
        f"there are none for {first}{more}",
        hint="Number the classes 0, 1, 2, ... without gaps, each with train images: "
        "np.unique(y, return_inverse=True)[1] does.",
    )


def _check_names(classes: list[str]) -> None:
    if len(set(classes)) != len(classes):
        _refuse_names("two classes have the same name")
    bad = [name for name in classes if not name.strip() or len(name) > _MAX_CLASS_NAME]
    if bad:
        _refuse_names(f"a class name is empty or longer than {_MAX_CLASS_NAME} characters: {shown(bad[0])!r}")


def _check_test_labels(labels: Labels, num_classes: int) -> None:
    if len(labels) == 0:
        raise InputError("dataset_empty", "there are no test images")
    present = np.unique(labels)
    if present[0] < 0:
        raise InputError("dataset_unreadable", f"there is a test label {present[0]}; labels start at 0")
    if present[-1] >= num_classes:
        raise InputError(
            "dataset_class_mismatch",
            f"test has the label {present[-1]}, train only 0 to {num_classes - 1}",
            hint="Every class of the test split needs images in train.",
        )


def _refuse_names(message: str) -> NoReturn:
    raise InputError("dataset_class_mismatch", message, hint="Give each class its own short name.")
