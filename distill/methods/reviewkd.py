"""Knowledge review: Chen, Liu, Zhao, Jia, Distilling Knowledge via Knowledge Review, CVPR 2021."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import POOLED, Batch, ResultHead
from distill.map_losses import hierarchical_context
from distill.method_specs import ReviewKDSettings, warmup
from distill.pairs import MapShape, Pair


class Fusion(nn.Module):
    """The paper's ABF: a stage of the student, joined with what came from the deeper ones.

    1x1 convolution to the common width, batch norm; the deeper map at this size (nearest); both weighed at every
    place by a 1x1 convolution and a sigmoid, and added; the teacher's size (nearest); 3x3 convolution to the
    teacher's channels, batch norm.

    Args:
        student_width: channels of the student's map.
        teacher: (C, H, W) of the teacher's map.
        width: channels that all fusions have in common.
        is_deepest: nothing deeper is joined.
    """

    def __init__(self, student_width: int, teacher: MapShape, *, width: int, is_deepest: bool) -> None:
        super().__init__()
        teacher_width, *size = teacher
        self.size = tuple(size)
        first = nn.Conv2d(student_width, width, 1, bias=False)
        last = nn.Conv2d(width, teacher_width, 3, padding=1, bias=False)
        for layer in (first, last):
            nn.init.kaiming_uniform_(layer.weight, a=1)
        self.enter = nn.Sequential(first, nn.BatchNorm2d(width))
        self.weigh = None if is_deepest else nn.Sequential(nn.Conv2d(2 * width, 2, 1), nn.Sigmoid())
        self.leave = nn.Sequential(last, nn.BatchNorm2d(teacher_width))

    def forward(self, student_BCHW: Tensor, deeper_BCHW: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is compared with the teacher's map, in its shape, and what goes on to the next shallower stage."""
        fused = self.enter(student_BCHW)
        if self.weigh is not None:
            assert deeper_BCHW is not None
            deeper = _resize(deeper_BCHW, fused.shape[2:])
            weights_B2HW = self.weigh(torch.cat([fused, deeper], dim=1))
            fused = fused * weights_B2HW[:, :1] + deeper * weights_B2HW[:, 1:]
        fused = _resize(fused, self.size)
        return self.leave(fused), fused


class ReviewKD(nn.Module):
    """``weight`` times the hierarchical distance of the fused student from the teacher, summed over the stages.

    From the penultimate feature, as a map of one place, back to the first matched stage. The reference compares with
    the teacher's maps before their last ReLU; here both sides' maps are what the stages put out.

    Args:
        settings: the weight grows linearly over ``warmup_epochs``: epoch / warmup, from the first epoch on.
        pair: teacher and student.

    Raises:
        InputError: ``invalid_value`` when a network has no stages.
    """

    trains_logits = False
    parts = ("reviewkd",)

    def __init__(self, settings: ReviewKDSettings, *, pair: Pair) -> None:
        super().__init__()
        self.weight = settings.weight
        self.warmup_epochs = warmup(settings.warmup_epochs, epochs=pair.epochs)
        self.stages = pair.matched_stages()[::-1]
        self.student_maps = frozenset(student for student, _ in self.stages)
        self.teacher_needs = frozenset({POOLED, *(teacher for _, teacher in self.stages)})
        width = min(settings.max_width, pair.student.pooled)
        deepest = Fusion(pair.student.pooled, (pair.teacher.pooled, 1, 1), width=width, is_deepest=True)
        others = [
            Fusion(pair.student.maps[student][0], pair.teacher.maps[teacher], width=width, is_deepest=False)
            for student, teacher in self.stages
        ]
        self.fusions = nn.ModuleList([deepest, *others])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        mine = [batch.student.pooled_BC[:, :, None, None]]
        mine += [batch.student.maps[student] for student, _ in self.stages]
        theirs = [batch.teacher.pooled_BC[:, :, None, None]]
        theirs += [batch.teacher.maps[teacher] for _, teacher in self.stages]
        losses, fused = [], None
        for fusion, student, teacher in zip(self.fusions, mine, theirs, strict=True):
            compared, fused = fusion(student, fused)
            losses.append(hierarchical_context(compared, teacher))
        loss = torch.stack(losses).sum()
        return {"loss": self.weight * self.share(batch.epoch) * loss, "reviewkd": loss}

    def share(self, epoch: int) -> float:
        """Of the weight, in an epoch; the first is 1."""
        return min(epoch / self.warmup_epochs, 1.0) if self.warmup_epochs else 1.0

    def result_head(self) -> ResultHead | None:
        return None


def _resize(map_BCHW: Tensor, size: tuple[int, ...]) -> Tensor:
    return map_BCHW if map_BCHW.shape[2:] == size else F.interpolate(map_BCHW, size=size, mode="nearest")
