"""What a data set's report says: from the start how it is to be read, and once it is ready of sizes and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from distill.compatibility import TaskName
from distill.data.reading import MAX_BROKEN_SHARE
from distill.markup import Markup, Normaliser
from models import Dataset
from service.settings import settings


def first_report(max_broken_share: float | None) -> dict[str, Any]:
    """What the report says before anything was read: the share of broken images that was asked for, or ours."""
    share = settings().max_broken_share if max_broken_share is None else max_broken_share
    return {"max_broken_share": share}


def max_broken_share(dataset: Dataset) -> float:
    """Up to which share its images may be broken; rows of older versions do not say."""
    return float(dataset.report.get("max_broken_share", MAX_BROKEN_SHARE))


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """Of a ready data set; images that carry points count as labelled."""

    task: TaskName
    num_labelled: int
    num_unlabeled: int
    num_test: int
    classes: list[str]
    num_points: int
    image: dict[str, int]
    can_flip: bool
    """Whether a mirrored image still has known labels."""
    normaliser: Normaliser | None
    """Of points: the length that errors are divided by."""

    @classmethod
    def of(cls, dataset: Dataset) -> DataFacts:
        report = dataset.report
        splits = report["splits"]
        task = cast(TaskName, report.get("task", "classification"))
        return cls(
            task=task,
            num_labelled=splits["train"]["images"],
            num_unlabeled=splits.get("train_unlabeled", {}).get("images", 0),
            num_test=splits["test"]["images"],
            classes=report["classes"],
            num_points=report.get("num_points", 0),
            image=report["image"],
            can_flip=task == "classification" or report.get("flip_pairs") is not None,
            normaliser=Markup.from_json(report).normaliser if task == "landmarks" else None,
        )

    @property
    def num_classes(self) -> int:
        """0 of landmarks, and where nothing is labelled."""
        return len(self.classes)

    @property
    def num_images(self) -> int:
        """All that are trained on."""
        return self.num_labelled + self.num_unlabeled

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image["height"], self.image["width"]

    @property
    def image_bytes(self) -> int:
        """All images of all splits, a byte a value."""
        count = self.num_images + self.num_test
        return count * self.image["channels"] * self.image["height"] * self.image["width"]

    @property
    def facts(self) -> dict[str, Any]:
        """For the job's own facts."""
        found = {
            "task": self.task,
            "train": self.num_images,
            "train_unlabeled": self.num_unlabeled,
            "test": self.num_test,
            "classes": self.num_classes,
            "image": self.image,
        }
        return found | ({"points": self.num_points} if self.num_points else {})
