"""Which faces a zip of images with landmarks holds, before any image is decoded. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from distill.data.archive import shown
from distill.data.source import Source
from distill.errors import InputError

MAX_LIST_BYTES = 64 * 2**20
_ASKED = 20

Rect = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face: where its image and its points are.

    Attributes:
        image: the member of the archive.
        marks: what the format's own parser reads its points from.
        place: where they are written, for messages.
    """

    image: str
    marks: str
    place: str


@dataclass(frozen=True, kw_only=True)
class FaceLayout:
    """The faces of both splits. ``test`` is None when a part of ``train`` must be held out."""

    num_points: int
    box: str
    """Which box of a face is cut out, in words."""
    train: list[Face]
    test: list[Face] | None
    missing: list[dict[str, str]] = field(default_factory=list)
    """Faces of a list whose image or points are not in the archive, with ``path`` and ``reason``; as bad as broken."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Files that belong to no split, likewise."""
    ignored: int = 0
    """Files that systems leave behind, such as .DS_Store."""
    unused: int = 0
    """Sound files that nothing is made of."""

    @property
    def summary(self) -> dict[str, Any]:
        """What :class:`distill.data.inspect.Inspection` says of it."""
        return {
            "task": "landmarks",
            "num_points": self.num_points,
            "splits": {"train": len(self.train), "test": None if self.test is None else len(self.test)},
            "image": None,
            "classes": None,
            "per_class": None,
            "skipped": len(self.missing) + len(self.skipped),
            "ignored": self.ignored,
            "unused": self.unused,
        }


def read_lines(source: Source, member: str) -> list[tuple[int, str]]:
    """The lines of a list that are not empty, with their numbers from 1.

    Raises:
        InputError: ``unsafe_file`` beyond 64 MiB, ``dataset_unreadable`` when it is no text.
    """
    if source.files[member].file_size > MAX_LIST_BYTES:
        size = source.files[member].file_size
        raise InputError("unsafe_file", f"{shown(member)} takes {size:,} bytes; the limit is {MAX_LIST_BYTES:,}")
    try:
        text = source.read(member).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("dataset_unreadable", f"{shown(member)} is no text in UTF-8: {error.reason}") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]


def plain(path: str) -> str:
    """A path of a list as the archive would write it."""
    return path.replace("\\", "/").removeprefix("./")


def locate(paths: Sequence[str], *, among: Collection[str]) -> dict[str, str]:
    """The member that each path of a list means; paths without one are left out.

    Lists name images from some folder on, and archives wrap folders around. All paths are taken from the one
    folder in which most of the first paths are found.

    Args:
        paths: as :func:`plain` gives them.
        among: the archive's images.
    """
    asked = [(path, f"/{path}") for path in islice(dict.fromkeys(paths), _ASKED)]
    folders = Counter(
        member[: len(member) - len(path)]
        for member in among
        for path, end in asked
        if member == path or member.endswith(end)
    )
    folder = max(folders, key=lambda name: (folders[name], -len(name)), default="")
    known = set(among)
    return {path: folder + path for path in paths if folder + path in known}
