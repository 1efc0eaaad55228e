"""DIST, distillation from a stronger teacher: Huang, You, Wang, Qian, Xu, NeurIPS 2022."""

from __future__ import annotations

from torch import Tensor, nn

from distill.batch import POOLED, Batch
from distill.losses import probability_correlation
from distill.method_specs import DISTSettings
from distill.pairs import Pair


class DIST(nn.Module):
    """``weight * (inter_weight * L_inter + intra_weight * L_intra)``, how far probabilities are from correlated.

    L_inter looks along the classes of an image, L_intra along the images of a batch.

    Raises:
        InputError: ``invalid_value``, the images are labelled with points.
    """

    teacher_needs = frozenset({POOLED})
    student_maps: frozenset[str] = frozenset()
    parts = ("dist_inter", "dist_intra")
    trains_logits = True

    def __init__(self, settings: DISTSettings, *, pair: Pair) -> None:
        super().__init__()
        pair.require_classes("dist")
        self.settings = settings

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        settings = self.settings
        logits = batch.student.logits_BK, batch.teacher.logits_BK.detach()
        inter = probability_correlation(*logits, temperature=settings.temperature, dim=1)
        intra = probability_correlation(*logits, temperature=settings.temperature, dim=0)
        loss = settings.weight * (settings.inter_weight * inter + settings.intra_weight * intra)
        return {"loss": loss, "dist_inter": inter, "dist_intra": intra}

    def result_head(self) -> None:
        return None
