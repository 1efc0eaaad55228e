"""Hints from a middle stage: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, FitNets, ICLR 2015."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch, ResultHead
from distill.map_losses import map_distance, pool
from distill.method_specs import FitNetSettings
from distill.pairs import MapShape, Pair

_LARGEST_KERNEL = 8


class Regressor(nn.Module):
    """A convolution with bias that makes the teacher's shape of the student's, batch norm, ReLU.

    The convolution is that of the CRD benchmark, where one of its kinds fits height and width exactly: 1x1 for equal
    sizes, 3x3 of stride 2 for half of it (of 7 this is 4), a transposed 4x4 of stride 2 for twice of it (and 3x3 for
    one less), else one without padding of the kernel 1 + difference, of at most 8. Where the sizes are further
    apart, or a side of the teacher's map is larger and not by this, 1x1 on what is pooled to the smaller size; the
    teacher's map is then pooled by the loss.

    Args:
        student: (C, H, W) of the student's map.
        teacher: (C, H, W) of the teacher's map.
    """

    def __init__(self, student: MapShape, teacher: MapShape) -> None:
        super().__init__()
        self.conv, self.pooled_to = _convolution(student, teacher)
        self.bn = nn.BatchNorm2d(teacher[0])

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The student's map (B, C_s, H, W) in the teacher's channels, (B, C_t, H', W')."""
        if self.pooled_to is not None:
            map_BCHW = pool(map_BCHW, size=self.pooled_to)
        return F.relu(self.bn(self.conv(map_BCHW)))


class FitNet(nn.Module):
    """``weight`` times the mean squared difference of the regressed map from the teacher's, at one stage.

    Args:
        settings: which stage; ``auto`` is the middle one of those that the networks have in common.
        pair: teacher and student.

    Raises:
        InputError: ``invalid_value`` when a network has no such stage, or none at all.
    """

    trains_logits = False
    parts = ("fitnet",)

    def __init__(self, settings: FitNetSettings, *, pair: Pair) -> None:
        super().__init__()
        self.weight = settings.weight
        if settings.stage == "auto":
            matched = pair.matched_stages()
            self.student_stage, self.teacher_stage = matched[len(matched) // 2]
        else:
            pair.shapes(settings.stage, param="/method/fitnet/stage")
            self.student_stage = self.teacher_stage = settings.stage
        self.student_maps = frozenset({self.student_stage})
        self.teacher_needs = frozenset({self.teacher_stage})
        self.regressor = Regressor(pair.student.maps[self.student_stage], pair.teacher.maps[self.teacher_stage])

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        regressed_BCHW = self.regressor(batch.student.maps[self.student_stage])
        loss = map_distance(regressed_BCHW, batch.teacher.maps[self.teacher_stage])
        return {"loss": self.weight * loss, "fitnet": loss}

    def result_head(self) -> ResultHead | None:
        return None


def _convolution(student: MapShape, teacher: MapShape) -> tuple[nn.Module, tuple[int, int] | None]:
    """The convolution, and the size to which the student's map is pooled before it, if it is."""
    (width_in, *source), (width_out, *target) = student, teacher
    sides = list(zip(source, target, strict=True))
    if source != target and all(t == (s + 1) // 2 for s, t in sides):
        return nn.Conv2d(width_in, width_out, 3, stride=2, padding=1), None
    if source != target and all(t in (2 * s - 1, 2 * s) for s, t in sides):
        height, width = (4 + t - 2 * s for s, t in sides)
        return nn.ConvTranspose2d(width_in, width_out, (height, width), stride=2, padding=1), None
    if all(0 <= s - t < _LARGEST_KERNEL for s, t in sides):
        height, width = (1 + s - t for s, t in sides)
        return nn.Conv2d(width_in, width_out, (height, width)), None
    height, width = (min(side) for side in sides)
    return nn.Conv2d(width_in, width_out, 1), (height, width)
