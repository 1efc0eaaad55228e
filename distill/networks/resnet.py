"""ResNets for small images (He et al. 2016, section 4.2), with the state-dict names of the CRD benchmark."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import Options, blueprint
from distill.architectures.residual import Block
from distill.architectures.resnet import ResNetBlueprint
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
        self.downsample: nn.Sequential | None = None
        if block.has_shortcut:
            self.downsample = nn.Sequential(
                nn.Conv2d(block.in_channels, width, 1, stride=block.stride, bias=False),
                nn.BatchNorm2d(width),
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x if self.downsample is None else self.downsample(x)
        return F.relu(out, inplace=True)


class ResNet(nn.Module):
    """Stem, three stages, pooling, classifier: images (B, C, H, W) of any size to logits (B, K)."""

    anatomy: ClassVar[Anatomy] = Anatomy(stages=("layer1", "layer2", "layer3"), pooling="avgpool", classifiers=("fc",))

    def __init__(self, plan: ResNetBlueprint, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, plan.stem, 3, stride=plan.stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(plan.stem)
        self.layer1 = nn.Sequential(*map(BasicBlock, plan.stage(1)))
        self.layer2 = nn.Sequential(*map(BasicBlock, plan.stage(2)))
        self.layer3 = nn.Sequential(*map(BasicBlock, plan.stage(3)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(plan.feature_width, num_classes)
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def build(name: str, *, options: Options, num_classes: int, in_channels: int) -> ResNet:
    """A fresh network; raises InputError ``architecture_unknown``, ValueError for another family."""
    plan = blueprint(name, options=options)
    if not isinstance(plan, ResNetBlueprint):
        raise ValueError(f"{name} is not a ResNet")
    return ResNet(plan, num_classes=num_classes, in_channels=in_channels)
