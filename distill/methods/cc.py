"""Correlation congruence: Peng et al., ICCV 2019, in the form of the CRD benchmark."""

from __future__ import annotations

from torch import Tensor, nn

from distill.batch import POOLED, Batch
from distill.losses import correlation_congruence, outside_autocast, promoted
from distill.method_specs import CCSettings
from distill.pairs import Pair


class CC(nn.Module):
    """``weight`` times the product of the gaps of consecutive images, between two linear embeddings.

    Both embeddings are trained, the teacher's too, as in the benchmark.
    """

    teacher_needs = frozenset({POOLED})
    student_maps: frozenset[str] = frozenset()
    parts = ("cc",)
    trains_logits = False

    def __init__(self, settings: CCSettings, *, pair: Pair) -> None:
        super().__init__()
        self.settings = settings
        self.student_embedding = nn.Linear(pair.student.pooled, settings.width)
        self.teacher_embedding = nn.Linear(pair.teacher.pooled, settings.width)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        with outside_autocast(batch.student.pooled_BC):
            student_BE = self.student_embedding(promoted(batch.student.pooled_BC))
            teacher_BE = self.teacher_embedding(promoted(batch.teacher.pooled_BC.detach()))
        part = correlation_congruence(student_BE, teacher_BE)
        return {"loss": self.settings.weight * part, "cc": part}

    def result_head(self) -> None:
        return None
