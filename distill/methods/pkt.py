"""Probabilistic knowledge transfer: Passalis and Tefas, ECCV 2018."""

from __future__ import annotations

from torch import Tensor, nn

from distill.batch import POOLED, Batch
from distill.losses import affinity_divergence
from distill.method_specs import PKTSettings
from distill.pairs import Pair


class PKT(nn.Module):
    """``weight`` times the divergence of the affinities between the images of a batch."""

    teacher_needs = frozenset({POOLED})
    student_maps: frozenset[str] = frozenset()
    parts = ("pkt",)
    trains_logits = False

    def __init__(self, settings: PKTSettings, *, pair: Pair) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        part = affinity_divergence(batch.student.pooled_BC, batch.teacher.pooled_BC.detach())
        return {"loss": self.settings.weight * part, "pkt": part}

    def result_head(self) -> None:
        return None
