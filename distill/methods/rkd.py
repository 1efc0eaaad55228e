"""Relational knowledge distillation: Park, Kim, Lu, Cho, CVPR 2019."""

from __future__ import annotations

from torch import Tensor, nn

from distill.batch import POOLED, Batch
from distill.losses import relative_distances, triplet_angles
from distill.method_specs import RKDSettings
from distill.pairs import Pair

_LOSSES = {"rkd_distance": relative_distances, "rkd_angle": triplet_angles}


class RKD(nn.Module):
    """``weight * (distance_weight * RKD-D + angle_weight * RKD-A)`` of penultimate features.

    A part whose weight is 0 is left out: the angles of all triplets are dear.
    """

    teacher_needs = frozenset({POOLED})
    student_maps: frozenset[str] = frozenset()
    trains_logits = False

    def __init__(self, settings: RKDSettings, *, pair: Pair) -> None:
        super().__init__()
        self.settings = settings
        weights = {"rkd_distance": settings.distance_weight, "rkd_angle": settings.angle_weight}
        self.weights = {name: weight for name, weight in weights.items() if weight}

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.weights)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        student_BC, teacher_BC = batch.student.pooled_BC, batch.teacher.pooled_BC.detach()
        found = {name: _LOSSES[name](student_BC, teacher_BC) for name in self.weights}
        terms = (weight * found[name] for name, weight in self.weights.items())
        return {"loss": self.settings.weight * sum(terms, start=student_BC.new_zeros(())), **found}

    def result_head(self) -> None:
        return None
