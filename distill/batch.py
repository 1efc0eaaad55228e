"""What every method is given and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from distill.taps import Features

POOLED = "pooled"
"""The penultimate feature, by the name under which a method asks for it."""


@dataclass(frozen=True)
class Batch:
    """One step's material.

    Attributes:
        student: of the student's forward pass, with gradient.
        teacher: of the teacher's pass over the same views, without; it has the maps that the method needs.
            None when the method asks for nothing.
        targets_B: class indices (B,), -1 where an image has no label; or points (B, L, 2) in 0..1.
        indices_B: which images of the training split they are.
        epoch: the one under way, the first is 1.
    """

    student: Features
    teacher: Features | None
    targets_B: Tensor
    indices_B: Tensor
    epoch: int = 1


@dataclass(frozen=True, kw_only=True)
class ResultHead:
    """What a finished student classifies with instead of its own layer: map or feature, connector, classifier.

    Attributes:
        connector: the student's last map (B, C, H, W), or its penultimate feature (B, C), to the teacher's channels.
        classifier: the teacher's.
        facts: what :func:`distill.registry.load_student` makes the connector from again, ready for JSON.
    """

    connector: nn.Module
    classifier: nn.Linear
    facts: dict[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """One way to distil: a module whose parameters train with the student's.

    It knows nothing of labels and their loss, which the :class:`distill.objective.Objective` adds.
    """

    @property
    def teacher_needs(self) -> frozenset[str]:
        """What it reads of ``Batch.teacher``: ``pooled`` (which gives the logits, too), and names of maps."""
        ...

    @property
    def student_maps(self) -> frozenset[str]:
        """Names of the maps that it reads of ``Batch.student``."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the losses beside ``loss``, in the order of the answer."""
        ...

    @property
    def trains_logits(self) -> bool:
        """Whether it teaches the student's own classifier; otherwise labels must."""
        ...

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """``loss``, weighted and summed, and its named parts, unweighted."""
        ...

    def result_head(self) -> ResultHead | None:
        """What the finished student classifies with; None for its own layer."""
        ...
