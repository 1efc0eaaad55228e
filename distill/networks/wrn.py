"""Wide ResNets (Zagoruyko and Komodakis 2016) without dropout; state-dict names are the CRD benchmark's."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import Options, blueprint
from distill.architectures.residual import Block
from distill.architectures.wrn import WideResNetBlueprint
from distill.networks.initialisation import init_convolutions


class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each 3x3 convolution: x (B, C, H, W) to (B, C', H/s, W/s), of any sign."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        width = block.out_channels
        self.bn1 = nn.BatchNorm2d(block.in_channels)
        self.conv1 = nn.Conv2d(block.in_channels, width, 3, stride=block.stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.convShortcut: nn.Conv2d | None = None
        if block.has_shortcut:
            self.convShortcut = nn.Conv2d(block.in_channels, width, 1, stride=block.stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x), inplace=True)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated)), inplace=True))
        # A convolved shortcut starts behind the activation, the identity before it.
        return out + (x if self.convShortcut is None else self.convShortcut(activated))


class Stage(nn.Module):
    """Blocks in a row, under the name ``layer`` that the benchmark's files have."""

    def __init__(self, blocks: list[Block]) -> None:
        super().__init__()
        self.layer = nn.Sequential(*map(PreActivationBlock, blocks))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """Stem, stages, batch norm and ReLU, pooling, classifier: images (B, C, H, W) of any size to logits (B, K)."""

    anatomy: ClassVar[Anatomy] = Anatomy(stages=("block1", "block2", "block3"), pooling="avgpool", classifiers=("fc",))

    def __init__(self, plan: WideResNetBlueprint, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, plan.stem, 3, stride=plan.stem_stride, padding=1, bias=False)
        self.block1 = Stage(plan.stage(1))
        self.block2 = Stage(plan.stage(2))
        self.block3 = Stage(plan.stage(3))
        self.bn1 = nn.BatchNorm2d(plan.feature_width)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(plan.feature_width, num_classes)
        init_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(images))))
        x = F.relu(self.bn1(x), inplace=True)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def build(name: str, *, options: Options, num_classes: int, in_channels: int) -> WideResNet:
    """A fresh network; raises InputError ``architecture_unknown``, ValueError for another family."""
    plan = blueprint(name, options=options)
    if not isinstance(plan, WideResNetBlueprint):
        raise ValueError(f"{name} is not a wide ResNet")
    return WideResNet(plan, num_classes=num_classes, in_channels=in_channels)
