"""Labels alone: the control that every report shows."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.taps import Features


class CE(nn.Module):
    """Plain cross-entropy with the labels."""

    needs_teacher = False
    parts = ("ce",)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        ce = F.cross_entropy(batch.student.logits_BK.float(), batch.labels_B)
        return {"loss": ce, "ce": ce}

    def logits(self, student: Features) -> Tensor:
        return student.logits_BK
