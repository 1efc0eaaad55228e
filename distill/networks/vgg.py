"""VGG with batch norms for small images; state-dict names are the CRD benchmark's."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import Options, blueprint
from distill.architectures.vgg import VGGBlueprint, num_poolings
from distill.networks.initialisation import init_classifier, init_convolutions


class Halving(nn.Module):
    """2x2 max pooling of a map (B, C, H, W), unless it is a single place high or wide."""

    def forward(self, x: Tensor) -> Tensor:
        return x if min(x.shape[-2:]) < 2 else F.max_pool2d(x, 2)


class VGG(nn.Module):
    """Five blocks, pooling, classifier: images (B, C, H, W) of any size to logits (B, K)."""

    anatomy: ClassVar[Anatomy] = Anatomy(
        stages=("block1", "block2", "block3", "block4"), pooling="avgpool", classifiers=("classifier",)
    )

    def __init__(self, plan: VGGBlueprint, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.block0 = block(plan.blocks[0], num_in=in_channels, stride=plan.stem_stride)
        self.block1 = block(plan.blocks[1], num_in=plan.blocks[0][-1])
        self.block2 = block(plan.blocks[2], num_in=plan.blocks[1][-1])
        self.block3 = block(plan.blocks[3], num_in=plan.blocks[2][-1])
        self.block4 = block(plan.blocks[4], num_in=plan.blocks[3][-1])
        self.halving = Halving()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(plan.feature_width, num_classes)
        init_convolutions(self)
        init_classifier(self.classifier)

    def forward(self, images: Tensor) -> Tensor:
        x = self.block0(images)
        num_pooled = num_poolings((x.shape[-2], x.shape[-1]))
        x = self.block1(self.halving(x))
        x = self.block2(self.halving(x))
        x = self.block3(self.halving(x))
        x = self.block4(self.halving(x) if num_pooled == 4 else x)
        logits: Tensor = self.classifier(self.avgpool(x).flatten(1))
        return logits


def block(channels: tuple[int, ...], *, num_in: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolutions, each with its batch norm and ReLU; the first has the stride.

    The benchmark has the last ReLU outside of its blocks. Here it ends the block, which changes no name, so that
    a block puts out what the benchmark calls the stage's feature.
    """
    layers: list[nn.Module] = []
    for width in channels:
        layers += [
            nn.Conv2d(num_in, width, 3, stride=stride, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        num_in, stride = width, 1
    return nn.Sequential(*layers)


def build(name: str, *, options: Options, num_classes: int, in_channels: int) -> VGG:
    """A fresh network; raises InputError ``architecture_unknown``, ValueError for another family."""
    plan = blueprint(name, options=options)
    if not isinstance(plan, VGGBlueprint):
        raise ValueError(f"{name} is not a VGG")
    return VGG(plan, num_classes=num_classes, in_channels=in_channels)
