"""What the images are labelled with: the loss of those labels, and what is measured by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from distill import evaluation, similarity, teachers
from distill.evaluation import Answers
from distill.losses import label_cross_entropy


class Task(Protocol):
    """One kind of labels, with those of the evaluation split."""

    @property
    def label_part(self) -> str:
        """Name of the labels' loss, such as ``ce``."""
        ...

    @property
    def label_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Logits (B, K) and targets to a scalar."""
        ...

    @property
    def headline(self) -> str:
        """Name of the one figure that a student is followed by, of :data:`distill.headlines.HEADLINES`."""
        ...

    def score(self, given: Answers) -> float:
        """The headline of these answers."""
        ...

    def check(self) -> str:
        """Whether the teacher knows anything about the task, in a sentence.

        Raises:
            RunError: ``teacher_below_chance``.
        """
        ...

    def figures(self, given: Answers) -> dict[str, Any]:
        """What the labels tell of a network."""
        ...

    def likeness(self, student: Answers) -> dict[str, Any]:
        """How near a student is to the teacher."""
        ...

    def disagreements(self, student: Answers) -> list[dict[str, Any]]:
        """Images on which student and teacher differ most."""
        ...


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Images of classes; without any labels the teacher's own guesses are what counts.

    Attributes:
        labels_N: of the evaluation split, all -1 when it has none.
        teacher: its answers to the evaluation split.
    """

    labels_N: Tensor
    teacher: Answers
    label_part: ClassVar[str] = "ce"

    @property
    def label_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return label_cross_entropy

    @property
    def is_labelled(self) -> bool:
        """Whether accuracy can be measured."""
        return bool((self.labels_N >= 0).all())

    @property
    def headline(self) -> str:
        return "top1" if self.is_labelled else "agreement"

    def score(self, given: Answers) -> float:
        truth_N = self.labels_N if self.is_labelled else self.teacher.logits_NK.argmax(dim=1)
        return evaluation.top_k(given.logits_NK, truth_N)

    def check(self) -> str:
        if not self.is_labelled:
            return f"No image has a label; students are measured against the teacher on {len(self.labels_N)} images."
        accuracy = teachers.check_above_chance(self.teacher.logits_NK, self.labels_N)
        return f"The teacher is right on {accuracy:.2%} of {len(self.labels_N)} images."

    def figures(self, given: Answers) -> dict[str, Any]:
        if not self.is_labelled:
            return {}
        classes = given.logits_NK.shape[1]
        return {
            **evaluation.accuracy_figures(given, self.labels_N, num_classes=classes),
            **similarity.cluster_figures(given, self.labels_N, num_clusters=classes),
        }

    def likeness(self, student: Answers) -> dict[str, Any]:
        return similarity.likeness_figures(student, self.teacher)

    def disagreements(self, student: Answers) -> list[dict[str, Any]]:
        return evaluation.worst_disagreements(student, self.teacher, self.labels_N)
