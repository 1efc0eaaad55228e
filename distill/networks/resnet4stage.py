"""ResNets of four stages with a stem for small images; state-dict names are the CRD benchmark's (its ``resnetv2``)."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import Options, blueprint
from distill.architectures.residual import Block
from distill.architectures.resnet4stage import EXPANSION, FourStageBlueprint
from distill.networks.initialisation import init_convolutions


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut: x (B, C, H, W) to (B, C', H/s, W/s), never negative."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        width = block.out_channels
        self.conv1 = nn.Conv2d(block.in_channels, width, 3, stride=block.stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = shortcut(block)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x), inplace=True)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two of 1x1, and the shortcut: x (B, C, H, W) to (B, C', H/s, W/s), never negative."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        width = block.out_channels // EXPANSION
        self.conv1 = nn.Conv2d(block.in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=block.stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, block.out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(block.out_channels)
        self.shortcut = shortcut(block)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        return F.relu(out + self.shortcut(x), inplace=True)


def shortcut(block: Block) -> nn.Sequential:
    """The identity as an empty row, or a 1x1 convolution with its batch norm."""
    if not block.has_shortcut:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(block.in_channels, block.out_channels, 1, stride=block.stride, bias=False),
        nn.BatchNorm2d(block.out_channels),
    )


class FourStageResNet(nn.Module):
    """Stem, four stages, pooling, classifier: images (B, C, H, W) of any size to logits (B, K)."""

    anatomy: ClassVar[Anatomy] = Anatomy(
        stages=("layer1", "layer2", "layer3", "layer4"), pooling="avgpool", classifiers=("linear",)
    )

    def __init__(self, plan: FourStageBlueprint, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        kind = Bottleneck if plan.bottleneck else BasicBlock
        self.conv1 = nn.Conv2d(in_channels, plan.stem, 3, stride=plan.stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(plan.stem)
        self.layer1 = nn.Sequential(*map(kind, plan.stage(1)))
        self.layer2 = nn.Sequential(*map(kind, plan.stage(2)))
        self.layer3 = nn.Sequential(*map(kind, plan.stage(3)))
        self.layer4 = nn.Sequential(*map(kind, plan.stage(4)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(plan.feature_width, num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(self.avgpool(x).flatten(1))
        return logits


def build(name: str, *, options: Options, num_classes: int, in_channels: int) -> FourStageResNet:
    """A fresh network; raises InputError ``architecture_unknown``, ValueError for another family."""
    plan = blueprint(name, options=options)
    if not isinstance(plan, FourStageBlueprint):
        raise ValueError(f"{name} is not a ResNet of four stages")
    return FourStageResNet(plan, num_classes=num_classes, in_channels=in_channels)
