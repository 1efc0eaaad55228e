"""The losses as pure functions of tensors, in float32.

Shapes: B batch, C channels of the teacher's penultimate feature, K classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Reduction = Literal["mean", "sum"]
RegressionLoss = Literal["l2", "ce", "kl"]


def feature_matching(connected_BC: Tensor, teacher_BC: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """L_FM: squared distance of the student's connected, pooled feature from the teacher's.

    ``mean`` averages over channels as the authors' code does, ``sum`` adds them as the paper writes;
    the batch is averaged in both. Yang et al., ICLR 2021, Eq. 3.
    """
    return _squared(connected_BC, teacher_BC, reduction)


def softmax_regression(
    student_BK: Tensor,
    teacher_BK: Tensor,
    *,
    kind: RegressionLoss = "l2",
    reduction: Reduction = "mean",
) -> Tensor:
    """L_SR: how far the teacher's classifier tells the student's feature from the teacher's own.

    Both arguments are logits of the teacher's frozen classifier: of the student's connected feature, and
    of the teacher's feature. ``l2`` compares the logits themselves, without softmax or temperature (Eq. 7,
    the paper's choice); ``ce`` and ``kl`` compare the probabilities, summed over classes by definition
    (Eq. 4), so that ``reduction`` concerns ``l2`` alone.
    """
    if kind == "l2":
        return _squared(student_BK, teacher_BK, reduction)
    log_q = F.log_softmax(student_BK.float(), dim=1)
    p = F.softmax(teacher_BK.float(), dim=1)
    if kind == "ce":
        return -(p * log_q).sum(dim=1).mean()
    return F.kl_div(log_q, p, reduction="batchmean")


def label_cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Mean cross-entropy over the images that have a label, those with one of 0 or more; 0 when none has."""
    labelled_B = labels_B >= 0
    losses_B = F.cross_entropy(logits_BK.float(), labels_B, ignore_index=-1, reduction="none")
    return losses_B.sum() / labelled_B.sum().clamp(min=1)


def _squared(a: Tensor, b: Tensor, reduction: Reduction) -> Tensor:
    squares = torch.square(a.float() - b.float())
    return squares.mean() if reduction == "mean" else squares.sum(dim=1).mean()
