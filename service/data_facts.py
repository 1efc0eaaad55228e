"""What a ready data set's report says of its sizes and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from distill.compatibility import TaskName
from distill.markup import Markup, Normaliser
from models import Dataset


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """See the module; images that carry points count as labelled."""

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
