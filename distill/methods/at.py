"""Attention transfer: Zagoruyko and Komodakis, ICLR 2017."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.batch import Batch, ResultHead
from distill.map_losses import attention_transfer
from distill.method_specs import ATSettings
from distill.pairs import Pair


class AT(nn.Module):
    """``weight`` times the distance of the spatial attentions, summed over the stages; without layers of its own.

    Args:
        settings: the weight.
        pair: teacher and student.

    Raises:
        InputError: ``invalid_value`` when a network has no stages.
    """

    trains_logits = False
    parts = ("at",)

    def __init__(self, settings: ATSettings, *, pair: Pair) -> None:
        super().__init__()
        self.weight = settings.weight
        self.stages = pair.matched_stages()
        self.student_maps = frozenset(student for student, _ in self.stages)
        self.teacher_needs = frozenset(teacher for _, teacher in self.stages)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        mine, theirs = batch.student.maps, batch.teacher.maps
        losses = [attention_transfer(mine[student], theirs[teacher]) for student, teacher in self.stages]
        loss = torch.stack(losses).sum()
        return {"loss": self.weight * loss, "at": loss}

    def result_head(self) -> ResultHead | None:
        return None
