"""Variational information distillation: Ahn, Hu, Damianou, Lawrence, Dai, CVPR 2019."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch, ResultHead
from distill.map_losses import fit, gaussian_information
from distill.method_specs import VIDSettings
from distill.pairs import Pair

_FIRST_VARIANCE = 5.0
_LEAST_VARIANCE = 1e-5


class Gaussian(nn.Module):
    """What one stage of the student says of the teacher's: a mean at every place, one variance a channel.

    The mean is three 1x1 convolutions without bias, of the teacher's width, with ReLU between them. The variance is
    softplus(rho) + 1e-5, 5 at the start; the same for all images.

    Args:
        student_width: channels of the student's map.
        teacher_width: channels of the teacher's.
    """

    def __init__(self, student_width: int, teacher_width: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student_width, teacher_width, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_width, teacher_width, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(teacher_width, teacher_width, 1, bias=False),
        )
        start = math.log(math.expm1(_FIRST_VARIANCE - _LEAST_VARIANCE))
        self.rho = nn.Parameter(torch.full((teacher_width,), start))

    def forward(self, student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
        """How unlikely the teacher's map is, a scalar; maps of unequal size are compared at the smaller."""
        student, teacher = fit(student_BCHW, teacher_BCHW)
        return gaussian_information(self.mean(student), teacher, variance_C=self.variance())

    def variance(self) -> Tensor:
        """Of each of the teacher's channels, (C_t,)."""
        return F.softplus(self.rho) + _LEAST_VARIANCE


class VID(nn.Module):
    """``weight`` times the information that the student's stages lack of the teacher's, summed over the stages.

    It may be negative: it is a log-likelihood of real numbers.

    Args:
        settings: the weight.
        pair: teacher and student.

    Raises:
        InputError: ``invalid_value`` when a network has no stages.
    """

    trains_logits = False
    parts = ("vid",)

    def __init__(self, settings: VIDSettings, *, pair: Pair) -> None:
        super().__init__()
        self.weight = settings.weight
        self.stages = pair.matched_stages()
        self.student_maps = frozenset(student for student, _ in self.stages)
        self.teacher_needs = frozenset(teacher for _, teacher in self.stages)
        widths = [(pair.student.maps[student][0], pair.teacher.maps[teacher][0]) for student, teacher in self.stages]
        self.gaussians = nn.ModuleList(Gaussian(*both) for both in widths)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        mine, theirs = batch.student.maps, batch.teacher.maps
        pairs = zip(self.stages, self.gaussians, strict=True)
        losses = [gaussian(mine[student], theirs[teacher]) for (student, teacher), gaussian in pairs]
        loss = torch.stack(losses).sum()
        return {"loss": self.weight * loss, "vid": loss}

    def result_head(self) -> ResultHead | None:
        return None
