"""Similarity-preserving distillation: Tung and Mori, ICCV 2019."""

from __future__ import annotations

from torch import Tensor, nn

from distill.anatomy import LAST
from distill.batch import POOLED, Batch, ResultHead
from distill.map_losses import similarity_preserving
from distill.method_specs import SPSettings
from distill.pairs import Pair
from distill.taps import Features


class SP(nn.Module):
    """``weight`` times the distance of the similarities between the images of a batch; without layers of its own.

    The feature is the last map, or the penultimate vector of a network that pools no map; shapes may differ.

    Args:
        settings: the weight.
        pair: teacher and student.
    """

    trains_logits = False
    parts = ("sp",)

    def __init__(self, settings: SPSettings, *, pair: Pair) -> None:
        super().__init__()
        self.weight = settings.weight
        self.student_maps = frozenset({LAST}) & frozenset(pair.student.maps)
        self.teacher_needs = frozenset({LAST if LAST in pair.teacher.maps else POOLED})

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        loss = similarity_preserving(_feature(batch.student), _feature(batch.teacher))
        return {"loss": self.weight * loss, "sp": loss}

    def result_head(self) -> ResultHead | None:
        return None


def _feature(features: Features) -> Tensor:
    return features.maps.get(LAST, features.pooled_BC)
