"""Knowledge distillation: Hinton, Vinyals, Dean, 2015."""

from __future__ import annotations

from torch import Tensor, nn

from distill.batch import POOLED, Batch
from distill.losses import softened_divergence
from distill.method_specs import KDSettings
from distill.pairs import Pair


class KD(nn.Module):
    """``weight * T² KL(teacher || student)`` of softened probabilities.

    Raises:
        InputError: ``invalid_value``, the images are labelled with points.
    """

    teacher_needs = frozenset({POOLED})
    student_maps: frozenset[str] = frozenset()
    parts = ("kd",)
    trains_logits = True

    def __init__(self, settings: KDSettings, *, pair: Pair) -> None:
        super().__init__()
        pair.require_classes("kd")
        self.settings = settings

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        student_BK, teacher_BK = batch.student.logits_BK, batch.teacher.logits_BK.detach()
        part = softened_divergence(student_BK, teacher_BK, temperature=self.settings.temperature)
        return {"loss": self.settings.weight * part, "kd": part}

    def result_head(self) -> None:
        return None
