"""ShuffleNetV2 for small images; state-dict names are the CRD benchmark's."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import Options, blueprint
from distill.architectures.shufflenetv2 import NUM_UNITS, ShuffleNetV2Blueprint
from distill.networks.shuffling import shuffle_channels


def depthwise(channels: int, *, stride: int = 1) -> nn.Conv2d:
    """One 3x3 filter a channel."""
    return nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)


class KeepingUnit(nn.Module):
    """One half of the channels passes, the other is convolved: (B, C, H, W) to the same shape."""

    def __init__(self, half: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = depthwise(half)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        passed, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        out = self.bn2(self.conv2(out))
        out = F.relu(self.bn3(self.conv3(out)), inplace=True)
        return shuffle_channels(torch.cat([passed, out], dim=1), groups=2)


class HalvingUnit(nn.Module):
    """Two branches over all channels, each with a stride of 2: (B, C, H, W) to (B, 2 half, H/2, W/2)."""

    def __init__(self, num_in: int, half: int) -> None:
        super().__init__()
        self.conv1 = depthwise(num_in, stride=2)
        self.bn1 = nn.BatchNorm2d(num_in)
        self.conv2 = nn.Conv2d(num_in, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(num_in, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = depthwise(half, stride=2)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn1(self.conv1(x))
        left = F.relu(self.bn2(self.conv2(left)), inplace=True)
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = self.bn4(self.conv4(right))
        right = F.relu(self.bn5(self.conv5(right)), inplace=True)
        return shuffle_channels(torch.cat([left, right], dim=1), groups=2)


class ShuffleNetV2(nn.Module):
    """Stem, three stages, last convolution, pooling, classifier: images (B, C, H, W) of any size to logits (B, K).

    The last stage's map is not the one that is pooled: a convolution to more channels comes between.
    """

    anatomy: ClassVar[Anatomy] = Anatomy(
        stages=("layer1", "layer2", "layer3"), pooling="avgpool", classifiers=("linear",)
    )

    def __init__(self, plan: ShuffleNetV2Blueprint, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, plan.stem, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(plan.stem)
        self.layer1 = stage(plan.stem, plan.widths[0], num_units=NUM_UNITS[0])
        self.layer2 = stage(plan.widths[0], plan.widths[1], num_units=NUM_UNITS[1])
        self.layer3 = stage(plan.widths[1], plan.widths[2], num_units=NUM_UNITS[2])
        self.conv2 = nn.Conv2d(plan.widths[2], plan.last, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(plan.last)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(plan.last, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


def stage(num_in: int, width: int, *, num_units: int) -> nn.Sequential:
    """A unit that halves the map, then some that keep it."""
    half = width // 2
    return nn.Sequential(HalvingUnit(num_in, half), *(KeepingUnit(half) for _ in range(num_units)))


def build(name: str, *, options: Options, num_classes: int, in_channels: int) -> ShuffleNetV2:
    """A fresh network; raises InputError ``architecture_unknown``, ValueError for another family."""
    plan = blueprint(name, options=options)
    if not isinstance(plan, ShuffleNetV2Blueprint):
        raise ValueError(f"{name} is not a ShuffleNetV2")
    return ShuffleNetV2(plan, num_classes=num_classes, in_channels=in_channels)
