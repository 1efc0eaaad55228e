"""Softmax regression representation learning: Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.anatomy import LAST
from distill.batch import POOLED, Batch, ResultHead
from distill.losses import feature_matching, softmax_regression
from distill.method_specs import SRRLSettings
from distill.pairs import Pair
from distill.taps import Features


class Connector(nn.Module):
    """1x1 convolution without bias, batch norm, ReLU, in this order, on the map before pooling.

    Present even when the widths are equal; initialised N(0, sqrt(2 / C_t)) as in the authors' code.

    Args:
        student_width: channels of the student's map.
        teacher_width: channels of the teacher's, C_t.
        relu: whether it ends in a ReLU; right only for teachers whose features are never negative.
    """

    kind = "map"

    def __init__(self, student_width: int, teacher_width: int, *, relu: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(student_width, teacher_width, kernel_size=1, bias=False)
        self.bn = nn.BatchNorm2d(teacher_width)
        self.student_width, self.teacher_width, self.relu = student_width, teacher_width, relu
        nn.init.normal_(self.conv.weight, std=math.sqrt(2.0 / teacher_width))

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The student's map (B, C_s, H, W) in the teacher's channels, (B, C_t, H, W)."""
        connected = self.bn(self.conv(map_BCHW))
        return F.relu(connected) if self.relu else connected


class VectorConnector(nn.Module):
    """The same for a student whose penultimate feature is no mean of a map: linear, batch norm, ReLU.

    Args: as of :class:`Connector`.
    """

    kind = "vector"

    def __init__(self, student_width: int, teacher_width: int, *, relu: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(student_width, teacher_width, bias=False)
        self.bn = nn.BatchNorm1d(teacher_width)
        self.student_width, self.teacher_width, self.relu = student_width, teacher_width, relu
        nn.init.normal_(self.linear.weight, std=math.sqrt(2.0 / teacher_width))

    def forward(self, pooled_BC: Tensor) -> Tensor:
        """The student's feature (B, C_s) in the teacher's channels, (B, C_t)."""
        connected = self.bn(self.linear(pooled_BC))
        return F.relu(connected) if self.relu else connected


class SRRL(nn.Module):
    """``feature_weight * L_FM + regression_weight * L_SR``, summed over the stages that are asked for.

    The classifier is the teacher's and frozen; the gradient of L_SR passes through it to connector and
    student. Since the bias cancels in logit differences, the teacher is described by its pooled feature
    alone: its logits are ``W h_T + b``. From an earlier stage the connected map passes through the rest of the
    frozen teacher (the paper's ablation), and the teacher's own logits are the target.

    Args:
        settings: an ``activation`` left to ``auto`` is decided for each stage by itself.
        pair: teacher and student.

    Raises:
        InputError: ``invalid_value`` when a network has no such stage.
    """

    trains_logits = False

    def __init__(self, settings: SRRLSettings, *, pair: Pair) -> None:
        super().__init__()
        self.settings = settings
        self.classifier = pair.classifier.requires_grad_(False)
        self._pair = pair
        self._matched = _asked(settings.feature_stages or settings.stages, weight=settings.feature_weight)
        self._regressed = _asked(settings.regression_stages or settings.stages, weight=settings.regression_weight)
        names = sorted({*self._matched, *self._regressed, *([LAST] if settings.head == "teacher" else [])})
        self.connectors = nn.ModuleDict({name: self._connector(name) for name in names})

    def _connector(self, name: str) -> nn.Module:
        pair, activation = self._pair, self.settings.activation
        relu = activation == "relu" or (activation == "auto" and _feature(name) in pair.nonnegative)
        if name == LAST and LAST not in pair.student.maps:
            return VectorConnector(pair.student.pooled, pair.teacher.pooled, relu=relu)
        if name == LAST:
            return Connector(pair.student.maps[LAST][0], pair.teacher.pooled, relu=relu)
        student, teacher = pair.shapes(name, param="/method/srrl/stages")
        return Connector(student[0], teacher[0], relu=relu)

    @property
    def teacher_needs(self) -> frozenset[str]:
        return frozenset({POOLED, *(name for name in self._matched if name != LAST)})

    @property
    def student_maps(self) -> frozenset[str]:
        return frozenset(self.connectors) & frozenset(self._pair.student.maps)

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(name for name, stages in (("fm", self._matched), ("sr", self._regressed)) if stages)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        connected = {name: self.connect(name, batch.student) for name in self.connectors}
        weights = {"fm": self.settings.feature_weight, "sr": self.settings.regression_weight}
        parts: dict[str, Tensor] = {}
        if self._matched:
            parts["fm"] = _sum(self._feature_loss(name, connected[name], batch.teacher) for name in self._matched)
        if self._regressed:
            target_BK = self._classify(batch.teacher.pooled_BC)
            parts["sr"] = _sum(self._regression_loss(name, connected[name], target_BK) for name in self._regressed)
        nothing = batch.student.logits_BK.new_zeros(())
        return {"loss": _sum([nothing, *(weights[name] * part for name, part in parts.items())]), **parts}

    def connect(self, name: str, student: Features) -> Tensor:
        """The student's features at a stage, in the teacher's channels: a map, or a vector where it has no map."""
        given = student.maps.get(name, student.pooled_BC)
        connected: Tensor = self.connectors[name](given)
        return connected

    def _feature_loss(self, name: str, connected: Tensor, teacher: Features) -> Tensor:
        target_BC = teacher.pooled_BC if name == LAST else _pool(teacher.maps[name])
        return feature_matching(_pool(connected), target_BC, reduction=self.settings.reduction)

    def _regression_loss(self, name: str, connected: Tensor, target_BK: Tensor) -> Tensor:
        if name == LAST:
            logits_BK = self._classify(_pool(connected))
        else:
            size = self._pair.teacher.maps[name][1:]
            if connected.shape[2:] != size:
                connected = F.interpolate(connected, size=size, mode="bilinear", align_corners=False)
            logits_BK = self._pair.resume(name, connected)
        kind, reduction, scale = self.settings.regression_loss, self.settings.reduction, self._pair.output_scale
        return softmax_regression(scale * logits_BK, scale * target_BK, kind=kind, reduction=reduction)

    def _classify(self, pooled_BC: Tensor) -> Tensor:
        # Outside autocast: the difference of two logits is small beside them, too small for bf16.
        with torch.autocast(pooled_BC.device.type, enabled=False):
            return F.linear(pooled_BC.float(), self.classifier.weight, self.classifier.bias)

    def facts(self) -> dict[str, Any]:
        """What its connectors are, by stage, ready for JSON."""
        return {name: _facts(connector) for name, connector in self.connectors.items()}

    def result_head(self) -> ResultHead | None:
        if self.settings.head == "own":
            return None
        connector = self.connectors[LAST]
        return ResultHead(connector=connector, classifier=self.classifier, facts=_facts(connector))


def _facts(connector: nn.Module) -> dict[str, Any]:
    assert isinstance(connector, Connector | VectorConnector)
    widths = [connector.student_width, connector.teacher_width]
    return {"kind": connector.kind, "widths": widths, "relu": connector.relu}


def _asked(stages: Sequence[str], *, weight: float) -> list[str]:
    return list(dict.fromkeys(stages)) if weight else []


def _feature(name: str) -> str:
    return POOLED if name == LAST else name


def _pool(feature: Tensor) -> Tensor:
    return feature.float().mean(dim=(2, 3)) if feature.dim() == 4 else feature.float()


def _sum(values: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(values)).sum()
