"""Whether what is said of a teacher beside its weights fits them, and the data. Free of torch."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from distill.class_names import strangers
from distill.errors import InputError
from distill.spec import TeacherTraits

_LISTED = 5


def check_traits(traits: TeacherTraits, *, num_classes: int, in_channels: int, at: str = "") -> None:
    """Hold classes and preprocessing against the network's outputs and channels.

    Args:
        at: JSON pointer of the teacher in the request.

    Raises:
        InputError: ``teacher_head_mismatch`` or ``invalid_value``.
    """
    if traits.classes is not None and len(traits.classes) != num_classes:
        raise InputError(
            "teacher_head_mismatch",
            f"{len(traits.classes)} classes are named, and the teacher has {num_classes} outputs.",
            hint="Name each output once, in their order, or leave classes out.",
            param=f"{at}/classes",
        )
    mean = traits.preprocessing.mean
    if mean is not None and len(mean) != in_channels:
        raise InputError(
            "invalid_value",
            f"mean and std are of {len(mean)} channels, and the teacher takes {in_channels}.",
            hint="Give one number per channel.",
            param=f"{at}/preprocessing/mean",
        )
    if traits.preprocessing.channels == "bgr" and in_channels != 3:
        raise InputError(
            "invalid_value",
            f"bgr is an order of three channels, and the teacher takes {in_channels}.",
            hint='Leave "channels" out.',
            param=f"{at}/preprocessing/channels",
        )


def check_class_names(teacher: Sequence[str] | None, data: Sequence[str]) -> None:
    """Refuse two lists of names that agree in some and differ in others: one of them is of something else.

    Lists without a common name may be two languages, or numbers and words: then both orders are taken as they are.

    Raises:
        InputError: ``teacher_head_mismatch``.
    """
    if teacher is None or not data:
        return
    theirs, ours = strangers(teacher, data)
    if not theirs or len(theirs) == len(teacher):
        return
    raise InputError(
        "teacher_head_mismatch",
        f"Teacher and data set share {len(teacher) - len(theirs)} class names; only the teacher has "
        f"{_some(theirs)}, only the data set has {_some(ours)}.",
        hint="Give the teacher's classes the names of the data set's folders, in the order of its outputs.",
        param="/teacher/classes",
        details={"only_teacher": theirs[:10], "only_dataset": ours[:10]},
        did_you_mean=difflib.get_close_matches(theirs[0], ours, n=3),
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(repr(name[:40]) for name in names[:_LISTED]) + more
