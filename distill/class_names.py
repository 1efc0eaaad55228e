"""Names of classes, and how a teacher's order of them is brought to the data's."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_CLASS_NAME = 200


def order_by_name(teacher: Sequence[str], data: Sequence[str]) -> list[int] | None:
    """Which output of the teacher each of the data's classes is; None where the names are not the same.

    Case, and whether words are parted by spaces, hyphens or underscores, make no difference.
    """
    theirs, ours = _plain(teacher), _plain(data)
    if len(theirs) != len(ours) or set(theirs) != set(ours):
        return None
    place = {name: index for index, name in enumerate(theirs)}
    return [place[name] for name in ours]


def strangers(teacher: Sequence[str], data: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names that only the teacher has, and those that only the data have; both as they were given."""
    theirs, ours = _plain(teacher), _plain(data)
    known_to_us, known_to_them = set(ours), set(theirs)
    return (
        [name for name, plain in zip(teacher, theirs, strict=True) if plain not in known_to_us],
        [name for name, plain in zip(data, ours, strict=True) if plain not in known_to_them],
    )


def _plain(names: Sequence[str]) -> list[str]:
    plain = [re.sub(r"[\s_-]+", " ", name).strip().casefold() for name in names]
    return plain if len(set(plain)) == len(names) else list(names)
