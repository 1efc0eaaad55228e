"""Published accuracies (top-1, per cent), row by row as their sources print them.

``ce`` is the student trained on labels alone. Methods that are not offered here, such as ``ofd``, are quoted beside.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A row: one teacher, one student, and what each method made of them."""

    teacher: str
    """A name of the zoo."""
    teacher_top1: float | None
    student: str
    top1: dict[str, float]
    """By method."""
    notes: tuple[str, ...] = field(default=())


_TWO_TEACHERS = "The paper gives this ResNet-34 two accuracies, 77.26 and 78.44, in different rows."
_SHARED = "The paper prints 68.42 for this student alone and for another one, a ResNet-10 of 0.34 M parameters."

CIFAR_100 = (
    Pair(
        teacher="wrn_40_4",
        teacher_top1=79.50,
        student="wrn_16_2",
        top1={"ce": 72.70, "kd": 74.52, "at": 74.33, "ofd": 75.57, "rkd": 74.23, "crd": 75.27, "srrl": 75.96},
    ),
    Pair(
        teacher="wrn_40_4",
        teacher_top1=79.50,
        student="wrn_16_4",
        top1={"ce": 76.97, "kd": 78.35, "at": 78.06, "ofd": 79.29, "rkd": 78.38, "crd": 78.83, "srrl": 79.58},
    ),
    Pair(
        teacher="wrn_16_10",
        teacher_top1=79.77,
        student="wrn_10_10",
        top1={"ce": 76.27, "kd": 78.20, "at": 76.44, "ofd": 78.72, "rkd": 77.84, "crd": 78.35, "srrl": 79.17},
    ),
    Pair(
        teacher="resnet34",
        teacher_top1=77.26,
        student="resnet10",
        top1={"ce": 75.01, "kd": 77.35, "at": 76.87, "ofd": 77.35, "rkd": 77.46, "crd": 77.37, "srrl": 77.90},
        notes=(_TWO_TEACHERS,),
    ),
    Pair(
        teacher="resnet34",
        teacher_top1=78.44,
        student="wrn_16_2",
        top1={"ce": 72.70, "kd": 73.95, "at": 72.32, "ofd": 74.78, "rkd": 73.91, "crd": 74.88, "srrl": 75.38},
        notes=(_TWO_TEACHERS,),
    ),
    Pair(
        teacher="resnet34",
        teacher_top1=78.44,
        student="mobilenetv2",
        top1={"ce": 68.42, "kd": 69.36, "at": 68.60, "ofd": 69.45, "rkd": 68.75, "crd": 71.36, "srrl": 71.58},
        notes=(_TWO_TEACHERS, _SHARED),
    ),
    Pair(
        teacher="wrn_40_4",
        teacher_top1=79.50,
        student="mobilenetv2",
        top1={"ce": 68.42, "kd": 69.15, "at": 68.95, "ofd": 70.08, "rkd": 68.19, "crd": 71.46, "srrl": 71.82},
        notes=(_SHARED,),
    ),
)

CIFAR_10 = (
    Pair(
        teacher="wrn_16_2",
        teacher_top1=93.98,
        student="wrn_16_1",
        top1={"ce": 91.04, "kd": 92.57, "at": 92.15, "ofd": 92.28, "rkd": 92.51, "srrl": 92.95},
    ),
    Pair(
        teacher="wrn_40_2",
        teacher_top1=95.07,
        student="wrn_16_2",
        top1={"ce": 93.98, "kd": 94.46, "at": 94.39, "ofd": 94.30, "rkd": 94.41, "srrl": 94.66},
    ),
    Pair(
        teacher="resnet26",
        teacher_top1=93.58,
        student="resnet8",
        top1={"ce": 87.78, "kd": 88.75, "at": 88.15, "ofd": 87.49, "rkd": 88.50, "srrl": 89.02},
    ),
    Pair(
        teacher="resnet26",
        teacher_top1=93.58,
        student="resnet14",
        top1={"ce": 91.59, "kd": 92.57, "at": 92.11, "ofd": 92.51, "rkd": 92.36, "srrl": 92.70},
    ),
    Pair(
        teacher="resnet26",
        teacher_top1=93.58,
        student="wrn_16_1",
        top1={"ce": 91.04, "kd": 92.42, "at": 91.32, "ofd": 92.47, "rkd": 92.08, "srrl": 92.94},
    ),
)

IMAGENET = (
    Pair(
        teacher="timm/resnet34",
        teacher_top1=73.31,
        student="timm/resnet18",
        top1={"ce": 69.76, "kd": 70.66, "crd": 71.17, "srrl": 71.73, "reviewkd": 71.61, "dkd": 71.70, "dist": 72.07},
        notes=("Other sources print 71.03, 71.21 and 71.37 for KD on this pair.",),
    ),
    Pair(
        teacher="timm/resnet50",
        teacher_top1=76.16,
        student="timm/mobilenetv1_100",
        top1={"ce": 68.87, "kd": 70.50, "crd": 71.37, "srrl": 72.49, "reviewkd": 72.56, "dkd": 72.05, "dist": 73.24},
        notes=("DIST's authors print 70.13 for this student alone, and notes on the SRRL paper 71.40 for CRD.",),
    ),
)

BINARY = Pair(teacher="timm/resnet18", teacher_top1=None, student="binary_resnet18", top1={"srrl": 59.57})


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A row of the paper's ablation: SRRL's losses, placed otherwise."""

    name: str
    title: str
    settings: dict[str, object]
    """Of the method, where they are not its defaults. The paper's conv2, conv3, conv4 are stage1, stage2, last."""
    top1: float


def _both(*stages: str) -> dict[str, object]:
    return {"feature_stages": list(stages), "regression_stages": list(stages)}


ABLATION_PAIR = CIFAR_100[1]
"""Both losses at conv4, its row of ``srrl``, is the method's default."""
ABLATION = (
    Variant(name="fm-conv4", title="L_FM alone, at conv4", settings={"regression_weight": 0.0}, top1=78.05),
    Variant(name="sr-conv4", title="L_SR alone, at conv4", settings={"feature_weight": 0.0}, top1=79.10),
    Variant(name="both-conv2", title="both losses at conv2", settings=_both("stage1"), top1=77.03),
    Variant(name="both-conv3", title="both losses at conv3", settings=_both("stage2"), top1=77.34),
    Variant(
        name="both-conv2-3-4",
        title="both losses at conv2, conv3 and conv4",
        settings=_both("stage1", "stage2", "last"),
        top1=79.43,
    ),
)

FASHION = Pair(
    teacher="resnet14",
    teacher_top1=93.44,
    student="resnet8",
    top1={"ce": 86.56, "srrl": 89.33, "srrl/teacher-head": 89.39},
)
"""Measured here, means over seeds 0, 1 and 2: docs/decisions/0005-defaults.md."""
