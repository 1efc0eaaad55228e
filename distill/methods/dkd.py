"""Decoupled knowledge distillation: Zhao, Cui, Song, Qiu, Liang, CVPR 2022."""

from __future__ import annotations

from torch import Tensor, nn

from distill.batch import POOLED, Batch
from distill.losses import decoupled_divergences
from distill.method_specs import DKDSettings, warmup
from distill.pairs import Pair


class DKD(nn.Module):
    """``target_weight * TCKD + nontarget_weight * NCKD``, growing linearly over the epochs of the warm-up.

    The parts are told without the warm-up. An image without a label has no target and adds nothing, so that
    without any labels it does not teach the classifier.

    Raises:
        InputError: ``invalid_value``, the images are labelled with points.
    """

    teacher_needs = frozenset({POOLED})
    student_maps: frozenset[str] = frozenset()
    parts = ("tckd", "nckd")

    def __init__(self, settings: DKDSettings, *, pair: Pair) -> None:
        super().__init__()
        pair.require_classes("dkd")
        self.settings = settings
        self.trains_logits = bool((pair.labels_N >= 0).any())
        self.warmup_epochs = warmup(settings.warmup_epochs, epochs=pair.epochs)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        settings = self.settings
        tckd, nckd = decoupled_divergences(
            batch.student.logits_BK, batch.teacher.logits_BK.detach(), batch.targets_B, temperature=settings.temperature
        )
        growth = min(batch.epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0
        loss = growth * (settings.target_weight * tckd + settings.nontarget_weight * nckd)
        return {"loss": loss, "tckd": tckd, "nckd": nckd}

    def result_head(self) -> None:
        return None
