"""What every method is given and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from distill.taps import Features


@dataclass(frozen=True)
class Batch:
    """One step's material.

    Attributes:
        student: of the student's forward pass, with gradient.
        teacher_BC: the teacher's penultimate features of the same views; None when the method asks for none.
        labels_B: class indices.
    """

    student: Features
    teacher_BC: Tensor | None
    labels_B: Tensor


class Method(Protocol):
    """One way to distil: a module whose parameters train with the student's."""

    @property
    def needs_teacher(self) -> bool:
        """Whether it reads ``Batch.teacher_BC``."""
        ...

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the losses beside ``loss``, in the order of the answer."""
        ...

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` to descend on, and its named parts, unweighted."""
        ...

    def logits(self, student: Features) -> Tensor:
        """What the finished student answers, (B, K)."""
        ...
