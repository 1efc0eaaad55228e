"""Which column of a table holds what, by the names that people give them. Standard library only."""

from __future__ import annotations

import re
from collections.abc import Collection

from distill.data.archive import shown
from distill.data.folder_layout import SPLITS
from distill.errors import InputError

LABELS = ("label", "labels", "fine_label", "class", "class_name", "target")
_SPLIT_WORDS = SPLITS | {"training": "train", "dev": "val", "eval": "val", "testing": "test"}


def choose(columns: Collection[str], among: Collection[str], *, what: str, place: str) -> str | None:
    """The one column of a kind; None when there is none.

    Args:
        columns: those of the table.
        among: the names that the kind goes by.
        what: what the column holds, in words.
        place: the file, for the message.

    Raises:
        InputError: ``dataset_unreadable`` when several have such a name.
    """
    found = [name for name in columns if name.strip().lower() in among]
    if len(found) > 1:
        raise InputError(
            "dataset_unreadable",
            f"{shown(place)} has several columns of {what}: {', '.join(shown(name) for name in found[:5])}",
            hint="Leave out all but the one that is meant, or give the others names that say what they are.",
        )
    return found[0] if found else None


def split_word(word: str) -> str | None:
    """``train``, ``test`` or ``val`` for the usual words for them; else None."""
    return _SPLIT_WORDS.get(word.strip().lower())


def split_of(name: str) -> str | None:
    """The split that a file is of: by a word of its name, as in ``cifar10-train-00000.parquet``, or by a folder."""
    for part in reversed(name.split("/")):
        words = re.findall("[a-z]+", part.lower()) if "." in part else [part]
        for word in words:
            if (split := split_word(word)) is not None:
                return split
    return None
