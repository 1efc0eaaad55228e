"""What the images are labelled with: the loss of those labels, and what is measured by them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from distill import evaluation, similarity, teachers
from distill.errors import InputError, RunError
from distill.evaluation import Answers
from distill.landmarks import (
    LandmarkLoss,
    as_points,
    face_lengths,
    landmark_figures,
    landmark_loss,
    normalised_errors,
    to_pixels,
)
from distill.losses import label_cross_entropy
from distill.markup import Normaliser


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
    def output_scale(self) -> float:
        """Brings differences of outputs to about the size of those of logits."""
        ...

    @property
    def headline(self) -> str:
        """Name of the one figure that a student is followed by, of :data:`distill.headlines.HEADLINES`."""
        ...

    def score(self, given: Answers) -> float:
        """The headline of these answers."""
        ...

    def part(self, indices_N: Tensor, teacher: Answers) -> Self:
        """The same task on some of the images, with what the teacher answers to these."""
        ...

    def check(self) -> str:
        """Whether the teacher knows anything about the task, in a sentence.

        Raises:
            RunError: ``teacher_below_chance``.
            InputError: ``invalid_value``, what was asked for cannot be measured on these images.
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
    output_scale: ClassVar[float] = 1.0

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

    def part(self, indices_N: Tensor, teacher: Answers) -> Self:
        return replace(self, labels_N=self.labels_N[indices_N], teacher=teacher)

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


_UNITS = 8.0
"""A side has so many units of the points' loss: in pixels the first steps at the usual rates would be far too long."""
_NUM_CLUSTERS = 10
_LISTED = 20
_LEAST_LENGTH = 1e-3  # pixels


@dataclass(frozen=True, kw_only=True)
class Landmarks:
    """Images with points: a network answers x and y of each, in 0..1 of width and height.

    Attributes:
        points_NLD: of the evaluation split.
        image_size: (height, width) in pixels.
        normaliser: the length that errors are divided by.
        loss: of the points, by name.
        mean_shape_LD: the mean of the training points, the guess of who has seen no image.
        teacher: its answers to the evaluation split.
    """

    points_NLD: Tensor
    image_size: tuple[int, int]
    normaliser: Normaliser
    loss: LandmarkLoss
    mean_shape_LD: Tensor
    teacher: Answers
    label_part: ClassVar[str] = "points"
    output_scale: ClassVar[float] = _UNITS
    headline: ClassVar[str] = "nme"

    @property
    def label_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        scale = _UNITS / (self.image_size[0] * self.image_size[1]) ** 0.5
        if self.loss == "l2":  # in pixels²
            scale = scale**2

        def loss(outputs_BK: Tensor, targets_BLD: Tensor) -> Tensor:
            found, truth = (to_pixels(p, image_size=self.image_size) for p in (as_points(outputs_BK), targets_BLD))
            scaled: Tensor = scale * landmark_loss(found, truth, kind=self.loss)
            return scaled

        return loss

    def score(self, given: Answers) -> float:
        return float(self._errors(as_points(given.logits_NK)).mean())

    def part(self, indices_N: Tensor, teacher: Answers) -> Self:
        return replace(self, points_NLD=self.points_NLD[indices_N], teacher=teacher)

    def check(self) -> str:
        self._check_lengths()
        error = self.score(self.teacher)
        blind = float(self._errors(self.mean_shape_LD.expand_as(self.points_NLD)).mean())
        if not error < blind:
            raise RunError(
                "teacher_below_chance",
                f"The teacher's normalised mean error is {error:.1%}; the mean face alone has {blind:.1%}.",
                hint="Its outputs must be x, y of each point in turn, in 0..1 of width and height; check the order "
                "of the points and the normalisation.",
                param="/teacher",
            )
        return f"The teacher's normalised mean error is {error:.2%} on {len(self.points_NLD)} images."

    def figures(self, given: Answers) -> dict[str, Any]:
        found, truth = (to_pixels(p, image_size=self.image_size) for p in (as_points(given.logits_NK), self.points_NLD))
        return landmark_figures(found, truth, normaliser=self.normaliser)

    def likeness(self, student: Answers) -> dict[str, Any]:
        """``nme_to_teacher``: the distance from the teacher's points, by the same lengths; and the features'."""
        return {
            "nme_to_teacher": float(self._distances(student).mean()),
            **similarity.feature_likeness(student, self.teacher, num_clusters=_NUM_CLUSTERS),
        }

    def disagreements(self, student: Answers) -> list[dict[str, Any]]:
        distances_N = self._distances(student)
        ours_N, theirs_N = (self._errors(as_points(a.logits_NK)) for a in (student, self.teacher))
        return [
            {
                "index": i,
                "distance": float(distances_N[i]),
                "teacher": {"nme": float(theirs_N[i])},
                "student": {"nme": float(ours_N[i])},
            }
            for i in distances_N.argsort(descending=True)[:_LISTED].tolist()
        ]

    def _check_lengths(self) -> None:
        """Readers leave out faces without the data set's own length; a request may ask for another."""
        lengths_N = face_lengths(to_pixels(self.points_NLD, image_size=self.image_size), normaliser=self.normaliser)
        if num_empty := int((lengths_N < _LEAST_LENGTH).sum()):
            what = "the size of the box" if self.normaliser == "box" else "the distance of points {} and {}"
            raise InputError(
                "invalid_value",
                f"In {num_empty} of {len(lengths_N)} test images {what.format(*self.normaliser)} is zero: errors "
                "cannot be divided by it.",
                hint='Name two points that never meet, such as the outer corners of the eyes, or take "auto".',
                param="/landmarks/normaliser",
            )

    def _errors(self, points_NLD: Tensor) -> Tensor:
        found, truth = (to_pixels(p, image_size=self.image_size) for p in (points_NLD, self.points_NLD))
        return normalised_errors(found, truth, normaliser=self.normaliser)

    def _distances(self, student: Answers) -> Tensor:
        """Mean distance of each image's points from the teacher's, by the true face's length, (N,)."""
        ours, theirs = (to_pixels(as_points(a.logits_NK), image_size=self.image_size) for a in (student, self.teacher))
        truth = to_pixels(self.points_NLD, image_size=self.image_size)
        # Moved to the truth: a distance between two answers is an error from there.
        return normalised_errors(truth + (ours - theirs), truth, normaliser=self.normaliser)
