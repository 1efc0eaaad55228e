"""What a recipe is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill.recipes.bases import Base

Body = dict[str, Any]
"""A part of a request, as JSON."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data that a published figure is about."""

    name: str
    short: str
    """In the ids of recipes."""
    preset: str | None
    """By which a request names it; None where it has to be uploaded."""
    num_classes: int
    base: Base
    """The kind of data that it is, and its number of images and their side."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A row of a published table with the settings that lead to it; accuracies are shares of 1."""

    id: str
    """``<method>/<data>/<teacher>-<student>[/<variant>]``; stored jobs name it, so it stays once it was published."""
    title: str
    data: Data
    teacher: Body
    """``architecture`` and ``options``."""
    student: Body
    method: Body
    """The type, and settings that are not its defaults."""
    training: Body
    top1: float
    """As published."""
    teacher_top1: float | None
    baseline_top1: float | None
    """The same student on labels alone; None for that recipe itself, and where it was not published."""
    rivals: dict[str, float]
    """What other methods were published with for the same pair."""
    source: str
    """Of the figures."""
    settings_source: str
    notes: tuple[str, ...]
    """What was not published, or does not agree."""

    def as_json(self) -> Body:
        """As the API lists it."""
        return {
            "id": self.id,
            "title": self.title,
            "dataset": {
                "name": self.data.name,
                "preset": self.data.preset,
                "classes": self.data.num_classes,
                "train": self.data.base.num_images,
                "image_side": self.data.base.side,
            },
            "teacher": self.teacher,
            "student": self.student,
            "method": self.method,
            "training": self.training,
            "published": {
                "top1": self.top1,
                "teacher_top1": self.teacher_top1,
                "baseline_top1": self.baseline_top1,
                "rivals": self.rivals,
                "source": self.source,
            },
            "settings_source": self.settings_source,
            "notes": list(self.notes),
        }
