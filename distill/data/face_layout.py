"""Which faces a zip of images with landmarks holds, before any image is decoded. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    ignored: dict[str, int] = field(default_factory=dict)
    """Files that systems leave behind: how many, by kind, such as .DS_Store."""
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
            "ignored": sum(self.ignored.values()),
            "unused": self.unused,
        }
