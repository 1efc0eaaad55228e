"""Which images a data set holds, by split and class, however it says so. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from distill.class_names import MAX_CLASS_NAME
from distill.data import UNLABELED
from distill.data.archive import shown
from distill.errors import InputError

_NUMBERS = "Number the classes 0, 1, 2, ... without gaps, each with train images, or give names instead of numbers."


@dataclass(frozen=True, kw_only=True)
class ImageLayout:
    """Members by split and class. ``test`` is None when a part of ``train`` must be held out."""

    classes: list[str]
    """In the order of the indices; empty when no image has a label."""
    train: list[tuple[str, int]]
    """(member, class index) of every labelled image."""
    unlabeled: list[tuple[str, int]]
    """(member, -1) of every image for training that has none."""
    test: list[tuple[str, int]] | None
    """As ``train``, or all with -1 when no image has a label."""
    unused: int
    """Images of a split that nothing is made of, such as a validation split beside a test split."""
    missing: list[dict[str, str]] = field(default_factory=list)
    """Images that should be there and are not, with ``path`` and ``reason``; as bad as broken ones."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Files that are no images of the data set, likewise."""
    ignored: dict[str, int] = field(default_factory=dict)
    """Files that systems leave behind: how many, by kind, such as .DS_Store."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image of a data set that lists them; the label is a class's number or name, or None."""

    member: str
    label: int | str | None
    split: str
    """``train``, ``test`` or ``val``."""


def listed_layout(
    images: Iterable[Labelled],
    *,
    classes: list[str] | None = None,
    missing: list[dict[str, str]],
    skipped: list[dict[str, str]],
    ignored: dict[str, int] | None = None,
) -> ImageLayout:
    """The layout of a list of images.

    Labels that are all numbers are the classes' numbers. Names are sorted by code point, as those of folders.

    Args:
        images: what is listed; train images without a label are for training without one.
        classes: names of the numbers, where they are known; without them the number is the name.
        missing: as in ImageLayout; ``skipped`` and ``ignored`` too.

    Raises:
        InputError: ``dataset_empty``, ``dataset_unreadable`` for negative numbers, or numbers beside names,
            ``dataset_class_mismatch`` for gaps, or names that only the test split has.
    """
    splits: dict[str, list[Labelled]] = {"train": [], "test": [], "val": []}
    for image in images:
        splits[image.split].append(image)
    train = [image for image in splits["train"] if image.label is not None]
    rest = [(image.member, UNLABELED) for image in splits["train"] if image.label is None]
    if not train and not rest:
        raise InputError("dataset_empty", "there are no images for training", hint="Call one of the splits train.")
    names: list[str] = []
    numbers: dict[int | str | None, int] = {}
    if not train:
        held_out = splits["test"] or splits["val"]
        test = unlabeled(image.member for image in held_out)
    else:
        # Public data sets keep the labels of their test split secret; the other split is used then.
        with_labels = [[i for i in splits[name] if i.label is not None] for name in ("test", "val")]
        held_out = next(filter(None, with_labels), [])
        names, numbers = _numbered(train, held_out, classes)
        test = [(image.member, numbers[image.label]) for image in held_out]
    return ImageLayout(
        classes=names,
        train=[(image.member, numbers[image.label]) for image in train],
        unlabeled=rest,
        test=test or None,
        unused=len(splits["test"]) + len(splits["val"]) - len(held_out),
        missing=missing,
        skipped=skipped,
        ignored=ignored or {},
    )


def as_label(value: object) -> int | str | None:
    """What a list gives as a label; None where it gives none.

    Raises:
        ValueError: it is no number of a class and no name.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and len(value.strip()) <= MAX_CLASS_NAME:
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31:
        return value
    raise ValueError(f"the label {shown(repr(value)[:200])} is no number and no name of a class")


def unlabeled(members: Iterable[str]) -> list[tuple[str, int]]:
    """Members in order, none of which has a label."""
    return [(member, UNLABELED) for member in sorted(members)]


def skip(member: str, reason: str) -> dict[str, str]:
    """A line of the list of what was left out."""
    return {"path": shown(member), "reason": reason}


def _numbered(
    train: list[Labelled], test: list[Labelled], classes: list[str] | None
) -> tuple[list[str], dict[int | str | None, int]]:
    """Names by number, and numbers by label."""
    here, all_labels = {image.label for image in train}, {image.label for image in train + test}
    numbers = {label: number for label in all_labels if (number := _as_number(label)) is not None}
    if not numbers:
        names = sorted(str(label) for label in here)
        if unknown := sorted(str(label) for label in all_labels - here):
            message = f"test has the class {shown(unknown[0])}, train has no image of it"
            raise InputError(
                "dataset_class_mismatch", message, hint="Every class of the test split needs images in train."
            )
        return names, {name: number for number, name in enumerate(names)}
    if len(numbers) < len(all_labels):
        name = next(label for label in all_labels if label not in numbers)
        message = f"some labels are numbers, others are not, such as {shown(str(name))}"
        raise InputError("dataset_unreadable", message, hint="Give the names of all classes, or all their numbers.")
    if min(numbers.values()) < 0:
        message = f"there is a label {min(numbers.values())}; labels start at 0"
        raise InputError("dataset_unreadable", message, hint="Leave the label empty where there is none.")
    if classes is not None:
        _check_below(len(classes), numbers)
        return classes, numbers
    if set(numbers.values()) != set(range(len(set(numbers.values())))):
        message = f"{len(numbers):,} classes are numbered from {min(numbers.values())} to {max(numbers.values())}"
        raise InputError("dataset_class_mismatch", message, hint=_NUMBERS)
    return [str(number) for number in range(max(numbers.values()) + 1)], numbers


def _as_number(label: int | str | None) -> int | None:
    if isinstance(label, str):
        digits = label.removeprefix("-")
        return int(label) if digits.isascii() and digits.isdigit() and len(digits) < 10 else None
    return label


def _check_below(num_classes: int, numbers: dict[int | str | None, int]) -> None:
    if max(numbers.values()) >= num_classes:
        message = f"there is a label {max(numbers.values())}, and only {num_classes} classes have names"
        raise InputError("dataset_unreadable", message, hint="Name every class.")
