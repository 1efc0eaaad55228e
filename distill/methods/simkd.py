"""SimKD: Chen, Mei, Zhang, Wang, Feng, Chen, Knowledge Distillation with the Reused Teacher Classifier, CVPR 2022."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from distill.anatomy import LAST
from distill.batch import Batch, ResultHead
from distill.map_losses import map_distance, pool
from distill.method_specs import SimKDSettings
from distill.pairs import Pair


class Projector(nn.Module):
    """The student's last map to the teacher's channels: 1x1, 3x3 and 1x1 convolution, each with batch norm and ReLU.

    Args:
        student_width: channels of the student's map.
        teacher_width: channels of the teacher's.
        factor: the inner width is the teacher's divided by it, at least 1.
        size: (H, W) to which the map is pooled first, where the teacher's maps are smaller. A part of the network
            that is shipped: without it the 3x3 convolution would see another grid than it was trained on.
    """

    kind = "projector"

    def __init__(
        self, student_width: int, teacher_width: int, *, factor: int, size: tuple[int, int] | None = None
    ) -> None:
        super().__init__()
        self.student_width, self.teacher_width, self.factor = student_width, teacher_width, factor
        self.size = None if size is None else (size[0], size[1])
        inner = max(1, teacher_width // factor)
        self.layers = nn.Sequential(
            *_layer(student_width, inner, kernel=1), *_layer(inner, inner, kernel=3), *_layer(inner, teacher_width)
        )

    def forward(self, map_BCHW: Tensor) -> Tensor:
        """The map (B, C_s, H, W) in the teacher's channels, (B, C_t, H', W')."""
        if self.size is not None:
            map_BCHW = pool(map_BCHW, size=self.size)
        projected: Tensor = self.layers(map_BCHW)
        return projected

    def facts(self) -> dict[str, Any]:
        """What it is made from, ready for JSON."""
        widths = [self.student_width, self.teacher_width]
        size = None if self.size is None else list(self.size)
        return {"kind": self.kind, "widths": widths, "factor": self.factor, "size": size}


class SimKD(nn.Module):
    """``weight`` times the mean squared difference of the projected last map from the teacher's.

    Maps of unequal size are compared at the smaller one. The finished student answers through projector and
    teacher's classifier.

    Args:
        settings: the weight, and the projector's factor.
        pair: teacher and student.

    Raises:
        InputError: ``invalid_value`` when a network pools no map for its classifier.
    """

    trains_logits = False
    parts = ("simkd",)
    student_maps = frozenset({LAST})
    teacher_needs = frozenset({LAST})

    def __init__(self, settings: SimKDSettings, *, pair: Pair) -> None:
        super().__init__()
        self.weight = settings.weight
        student, teacher = pair.shapes(LAST, param="/method/type")
        size = (min(student[1], teacher[1]), min(student[2], teacher[2]))
        self.projector = Projector(
            student[0], teacher[0], factor=settings.factor, size=None if student[1:] == size else size
        )
        self.classifier = pair.classifier.requires_grad_(False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        loss = map_distance(self.projector(batch.student.maps[LAST]), batch.teacher.maps[LAST])
        return {"loss": self.weight * loss, "simkd": loss}

    def result_head(self) -> ResultHead | None:
        return ResultHead(connector=self.projector, classifier=self.classifier, facts=self.projector.facts())


def _layer(width_in: int, width_out: int, *, kernel: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(width_in, width_out, kernel, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width_out), nn.ReLU()]
