"""ShuffleNet for small images; state-dict names are the CRD benchmark's."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import Options, blueprint
from distill.architectures.shufflenetv1 import GROUPS, ShuffleBlock, ShuffleNetV1Blueprint
from distill.networks.shuffling import shuffle_channels


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1: x (B, C, H, W) to (B, C', H/s, W/s), never negative."""

    def __init__(self, block: ShuffleBlock) -> None:
        super().__init__()
        middle, new = block.middle, block.new_channels
        self.groups = block.first_groups
        self.conv1 = nn.Conv2d(block.in_channels, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=block.stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, new, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(new)
        self.appends = block.appends

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = shuffle_channels(out, self.groups)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out = torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1) if self.appends else out + x
        return F.relu(out, inplace=True)


class ShuffleNetV1(nn.Module):
    """Stem, three stages, pooling, classifier: images (B, C, H, W) of any size to logits (B, K)."""

    anatomy: ClassVar[Anatomy] = Anatomy(
        stages=("layer1", "layer2", "layer3"), pooling="avgpool", classifiers=("linear",)
    )

    def __init__(self, plan: ShuffleNetV1Blueprint, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        stages = plan.stages()
        self.conv1 = nn.Conv2d(in_channels, plan.stem, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(plan.stem)
        self.layer1 = nn.Sequential(*map(ShuffleUnit, stages[0]))
        self.layer2 = nn.Sequential(*map(ShuffleUnit, stages[1]))
        self.layer3 = nn.Sequential(*map(ShuffleUnit, stages[2]))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(plan.feature_width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


def build(name: str, *, options: Options, num_classes: int, in_channels: int) -> ShuffleNetV1:
    """A fresh network; raises InputError ``architecture_unknown``, ValueError for another family."""
    plan = blueprint(name, options=options)
    if not isinstance(plan, ShuffleNetV1Blueprint):
        raise ValueError(f"{name} is not a ShuffleNet")
    return ShuffleNetV1(plan, num_classes=num_classes, in_channels=in_channels)
