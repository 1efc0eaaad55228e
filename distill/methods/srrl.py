"""Softmax regression representation learning: Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch
from distill.losses import Reduction, RegressionLoss, feature_matching, softmax_regression
from distill.taps import Features


class Connector(nn.Module):
    """1x1 convolution without bias, batch norm, ReLU, in this order, on the map before pooling.

    Present even when the widths are equal; initialised N(0, sqrt(2 / C_t)) as in the authors' code.

    Args:
        student_width: channels of the student's last map.
        teacher_width: channels of the teacher's, C_t.
        relu: whether it ends in a ReLU; right only for teachers whose features are never negative.
    """

    def __init__(self, student_width: int, teacher_width: int, *, relu: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(student_width, teacher_width, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(teacher_width)
        self.relu = relu
        nn.init.normal_(self.conv.weight, std=math.sqrt(2.0 / teacher_width))

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The student's map (B, C_s, H, W) in the teacher's channels, (B, C_t, H, W)."""
        connected = self.bn(self.conv(map_BCHW))
        return F.relu(connected) if self.relu else connected


class SRRL(nn.Module):
    """``label_weight * L_CE + feature_weight * L_FM + regression_weight * L_SR``.

    The classifier is the teacher's and frozen; the gradient of L_SR passes through it to connector and
    student. Since the bias cancels in logit differences, the teacher is described by its pooled feature
    alone: its logits are ``W h_T + b``.

    Args:
        classifier: the teacher's linear layer; frozen here.
        head: what the finished student classifies with, its own layer or connector and classifier.
    """

    needs_teacher = True
    parts = ("ce", "fm", "sr")

    def __init__(
        self,
        classifier: nn.Linear,
        *,
        student_width: int,
        relu: bool,
        feature_weight: float = 1.0,
        regression_weight: float = 1.0,
        label_weight: float = 1.0,
        regression_loss: RegressionLoss = "l2",
        reduction: Reduction = "mean",
        head: Literal["own", "teacher"] = "own",
    ) -> None:
        super().__init__()
        self.connector = Connector(student_width, classifier.in_features, relu=relu)
        self.classifier = classifier.requires_grad_(False)
        self.weights = {"ce": label_weight, "fm": feature_weight, "sr": regression_weight}
        self.regression_loss: RegressionLoss = regression_loss
        self.reduction: Reduction = reduction
        self.head = head

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher_BC is not None
        connected_BC = self._pooled(batch.student)
        parts = {
            "ce": F.cross_entropy(batch.student.logits_BK.float(), batch.labels_B),
            "fm": feature_matching(connected_BC, batch.teacher_BC, reduction=self.reduction),
            "sr": softmax_regression(
                self._classify(connected_BC),
                self._classify(batch.teacher_BC),
                kind=self.regression_loss,
                reduction=self.reduction,
            ),
        }
        loss = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return {"loss": loss, **parts}

    def logits(self, student: Features) -> Tensor:
        return student.logits_BK if self.head == "own" else self._classify(self._pooled(student))

    def _pooled(self, student: Features) -> Tensor:
        connected: Tensor = self.connector(student.map_BCHW)
        return connected.float().mean(dim=(2, 3))

    def _classify(self, pooled_BC: Tensor) -> Tensor:
        # Outside autocast: the difference of two logits is small beside them, too small for bf16.
        with torch.autocast(pooled_BC.device.type, enabled=False):
            return F.linear(pooled_BC.float(), self.classifier.weight, self.classifier.bias)
