"""MobileNetV2 for small images; state-dict names are the CRD benchmark's."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import Options, blueprint
from distill.architectures.mobilenetv2 import STEM_STRIDE, InvertedBlock, MobileNetV2Blueprint
from distill.networks.initialisation import init_classifier, init_convolutions


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project: x (B, C, H, W) to (B, C', H/s, W/s), of any sign."""

    def __init__(self, block: InvertedBlock) -> None:
        super().__init__()
        hidden = block.hidden
        self.conv = nn.Sequential(
            *convolution(block.in_channels, hidden, kernel=1),
            *convolution(hidden, hidden, kernel=3, stride=block.stride, groups=hidden),
            nn.Conv2d(hidden, block.out_channels, 1, bias=False),
            nn.BatchNorm2d(block.out_channels),
        )
        self.has_shortcut = block.has_shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.has_shortcut else out


def convolution(num_in: int, num_out: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A padded convolution, its batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(num_out),
        nn.ReLU(inplace=True),
    )


class MobileNetV2(nn.Module):
    """Stem, blocks, last convolution, pooling, classifier: images (B, C, H, W) of any size to logits (B, K).

    The last stage's map is not the one that is pooled: a convolution to more channels comes between.
    """

    anatomy: ClassVar[Anatomy] = Anatomy(
        stages=("blocks.1", "blocks.2", "blocks.4", "blocks.6"), pooling="avgpool", classifiers=("classifier.0",)
    )

    def __init__(self, plan: MobileNetV2Blueprint, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        classifier = nn.Linear(plan.feature_width, num_classes)
        self.conv1 = convolution(in_channels, plan.stem, kernel=3, stride=STEM_STRIDE)
        self.blocks = nn.Sequential(*(nn.Sequential(*map(InvertedResidual, group)) for group in plan.groups))
        self.conv2 = convolution(plan.widths[-1], plan.last, kernel=1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(classifier)
        init_convolutions(self)
        init_classifier(classifier)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv2(self.blocks(self.conv1(images)))
        logits: Tensor = self.classifier(self.avgpool(x).flatten(1))
        return logits


def build(name: str, *, options: Options, num_classes: int, in_channels: int) -> MobileNetV2:
    """A fresh network; raises InputError ``architecture_unknown``, ValueError for another family."""
    plan = blueprint(name, options=options)
    if not isinstance(plan, MobileNetV2Blueprint):
        raise ValueError(f"{name} is not a MobileNetV2")
    return MobileNetV2(plan, num_classes=num_classes, in_channels=in_channels)
