"""A data set as it was read: what every reader ends in, with the checks on labels that all of them share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from distill.class_names import MAX_CLASS_NAME
from distill.data import UNLABELED
from distill.data.archive import shown
from distill.data.images import Images
from distill.data.known import Normalisation
from distill.errors import InputError

Labels = NDArray[np.int64]

HELD_OUT = 0.1
_NO_TRAIN = "Give images for training, of two classes or more."
_NO_TEST = "Give images for testing, or leave the test split out: a tenth of train is held out then."
_NUMBER_THEM = (
    "Number the classes 0, 1, 2, ... without gaps, each with train images: np.unique(y, return_inverse=True)[1] does."
)


@dataclass(frozen=True, kw_only=True)
class Split:
    """Images uint8 (N, C, H, W) and their labels int64 (N,)."""

    images: Images
    labels: Labels


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """Images uint8 (N, C, H, W), labels int64 (N,) in 0 .. len(classes) - 1, or -1 for images without one.

    Every class has a train image, and a test split is labelled as a whole or not at all. Without any label
    ``classes`` is empty and all labels are -1.
    """

    train_images: Images
    train_labels: Labels
    test_images: Images
    test_labels: Labels
    classes: list[str]
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Files left out, with ``path`` and ``reason``."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Files that systems leave behind: how many, by kind, such as .DS_Store."""
    notes: list[str] = field(default_factory=list)
    """What was decided on the user's behalf, one sentence each: how the split was made, what was resized."""
    mean: list[float] | None = None
    """Per channel, of values in 0..1, where they are known; else computed from train."""
    std: list[float] | None = None
    originals: dict[str, Any] = field(default_factory=dict)
    """Of images that were files: what :attr:`distill.data.decoding.ImageReader.originals` says of them."""


def assemble(
    train: Split | None,
    *,
    test: Split | None,
    classes: list[str] | None,
    seed: int,
    unlabeled: Images | None = None,
    skipped: list[dict[str, str]] | None = None,
    ignored: dict[str, int] | None = None,
    notes: list[str] | None = None,
    originals: dict[str, Any] | None = None,
) -> RawDataset:
    """Check the labels, hold out a test split where there is none, name the classes, append what has no label.

    Args:
        train: the labelled images; None when the data set has no labels at all.
        test: held-out images; their labels are not looked at when ``train`` is None.
        classes: names in the order of the labels; None: the numbers.
        seed: of the held-out split.
        unlabeled: images for training without a label, of the others' size.
        skipped: as in RawDataset; ``ignored``, ``notes`` and ``originals`` too.

    Raises:
        InputError: ``dataset_empty``, ``dataset_unreadable`` for labels out of range,
            ``dataset_class_mismatch`` for gaps, or for classes that only the test split has.
    """
    said = list(notes or [])
    if train is None:
        train, test, names = _without_labels(unlabeled, test, seed, said)
    else:
        train, test, names = _with_labels(train, test, classes, seed, said)
        if unlabeled is not None and len(unlabeled):
            train = _appended(train, unlabeled, said)
    return RawDataset(
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images,
        test_labels=test.labels,
        classes=names,
        skipped=skipped or [],
        ignored=ignored or {},
        notes=said,
        originals=originals or {},
    )


def normalised_as(raw: RawDataset, normalisation: Normalisation) -> RawDataset:
    """The data set with the mean and deviation that papers use for it; unchanged where its channels do not fit."""
    if raw.train_images.shape[1] != len(normalisation.mean):
        return raw
    note = f"Mean and std are those that papers use for {normalisation.of}, not computed from the images."
    return replace(raw, mean=list(normalisation.mean), std=list(normalisation.std), notes=[*raw.notes, note])


def _with_labels(
    train: Split, test: Split | None, classes: list[str] | None, seed: int, said: list[str]
) -> tuple[Split, Split, list[str]]:
    _check_labels(train.labels, classes)
    num_classes = int(train.labels.max()) + 1
    if test is None:
        train, test = hold_out(train, seed=seed)
        said.append(
            f"No test split was given: {len(test.labels):,} of {len(train.labels) + len(test.labels):,} images "
            f"were held out of train, {HELD_OUT:.0%} of each class, with seed {seed}."
        )
    _check_test_labels(test.labels, num_classes)
    return train, test, classes or [str(index) for index in range(num_classes)]


def _without_labels(
    images: Images | None, test: Split | None, seed: int, said: list[str]
) -> tuple[Split, Split, list[str]]:
    if images is None or len(images) == 0:
        raise InputError("dataset_empty", "there are no train images", hint=_NO_TRAIN)
    if test is None and len(images) == 1:
        raise InputError("dataset_empty", "a single image leaves none to test with", hint="Give two or more images.")
    train = Split(images=images, labels=_no_labels(len(images)))
    said.append("No image has a label: the teacher alone tells the student what they show.")
    if test is None:
        train, test = hold_out(train, seed=seed)
        said.append(
            f"No test split was given: {len(test.labels):,} of {len(images):,} images were held out of train, "
            f"with seed {seed}."
        )
    if len(test.labels) == 0:
        raise InputError("dataset_empty", "there are no test images", hint=_NO_TEST)
    return train, replace(test, labels=_no_labels(len(test.labels))), []


def _appended(train: Split, unlabeled: Images, said: list[str]) -> Split:
    said.append(f"{len(unlabeled):,} images without a label follow the {len(train.labels):,} labelled ones in train.")
    return Split(
        images=train.images.followed_by(unlabeled),
        labels=np.concatenate([train.labels, _no_labels(len(unlabeled))]),
    )


def _no_labels(count: int) -> Labels:
    return np.full(count, UNLABELED, dtype=np.int64)


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
        Split(images=split.images.chosen(~taken), labels=split.labels[~taken]),
        Split(images=split.images.chosen(taken), labels=split.labels[taken]),
    )


def _check_labels(labels: Labels, classes: list[str] | None) -> None:
    if len(labels) == 0:
        raise InputError("dataset_empty", "there are no train images", hint=_NO_TRAIN)
    present = np.unique(labels)
    if present[0] < 0:
        message = f"there is a train label {present[0]}; labels start at 0"
        raise InputError("dataset_unreadable", message, hint=_NUMBER_THEM)
    if classes is not None:
        _check_names(classes)
        if present[-1] >= len(classes):
            message = f"there is a train label {present[-1]}, and only {len(classes)} classes"
            raise InputError("dataset_unreadable", message, hint="Name every class, in the order of the labels.")
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
        hint=_NUMBER_THEM,
    )


def _check_names(classes: list[str]) -> None:
    if len(set(classes)) != len(classes):
        _refuse_names("two classes have the same name")
    bad = [name for name in classes if not name.strip() or len(name) > MAX_CLASS_NAME]
    if bad:
        _refuse_names(f"a class name is empty or longer than {MAX_CLASS_NAME} characters: {shown(bad[0])!r}")


def _check_test_labels(labels: Labels, num_classes: int) -> None:
    if len(labels) == 0:
        raise InputError("dataset_empty", "there are no test images", hint=_NO_TEST)
    present = np.unique(labels)
    if present[0] < 0:
        message = f"there is a test label {present[0]}; labels start at 0"
        raise InputError("dataset_unreadable", message, hint=_NUMBER_THEM)
    if present[-1] >= num_classes:
        raise InputError(
            "dataset_class_mismatch",
            f"test has the label {present[-1]}, train only 0 to {num_classes - 1}",
            hint="Every class of the test split needs images in train.",
        )


def _refuse_names(message: str) -> NoReturn:
    raise InputError("dataset_class_mismatch", message, hint="Give each class its own short name.")
