"""Binary ResNets: 3x3 convolutions of signs, everything else real (Martinez et al., ICLR 2020, Real-to-Binary).

The order of a unit is batch norm, binary convolution, learned rescale, PReLU, and a shortcut around each
convolution, which is what keeps a real-valued signal alive through the network. The first convolution, the
shortcuts' 1x1 convolutions and the classifier stay real. The last map is real, so that nothing changes for
the methods. On disk a binary weight takes one bit, see :mod:`distill.networks.binarisation`.
"""

from __future__ import annotations

from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import Options, blueprint
from distill.architectures.binary import BinaryBlueprint
from distill.architectures.residual import Block
from distill.networks.binarisation import BinaryConv2d
from distill.networks.initialisation import init_convolutions


class BinaryUnit(nn.Module):
    """Batch norm, binary convolution with its rescale, PReLU; plus the input, pooled and widened where needed."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = BinaryConv2d(in_channels, out_channels, stride=stride)
        self.prelu = nn.PReLU(out_channels)
        self.shortcut: nn.Sequential | None = None
        if stride != 1 or in_channels != out_channels:
            # The mean of what a stride would drop; borders of odd maps count their own places alone.
            pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            widen = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.shortcut = nn.Sequential(pool, widen, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        around = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = self.prelu(self.conv(self.bn(x))) + around
        return out


class BinaryBlock(nn.Module):
    """Two units, as a residual block has two convolutions; each with its own shortcut."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.unit1 = BinaryUnit(block.in_channels, block.out_channels, stride=block.stride)
        self.unit2 = BinaryUnit(block.out_channels, block.out_channels, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.unit2(self.unit1(x))
        return out


class BinaryResNet(nn.Module):
    """Stem, stages of binary blocks, pooling, classifier: images (B, C, H, W) of any size to logits (B, K)."""

    def __init__(self, plan: BinaryBlueprint, *, num_classes: int, in_channels: int) -> None:
        super().__init__()
        kernel, stride = (7, 2) if plan.large_stem else (3, plan.stem_stride)
        self.conv1 = nn.Conv2d(in_channels, plan.stem, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(plan.stem)
        self.prelu1 = nn.PReLU(plan.stem)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1) if plan.large_stem else nn.Identity()
        stages = [f"layer{number}" for number in range(1, len(plan.widths) + 1)]
        for name, blocks in zip(stages, plan.stages(), strict=True):
            self.add_module(name, nn.Sequential(*map(BinaryBlock, blocks)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(plan.feature_width, num_classes)
        self.anatomy = Anatomy(stages=tuple(stages), pooling="avgpool", classifiers=("fc",))
        init_convolutions(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.maxpool(self.prelu1(self.bn1(self.conv1(images))))
        for name in self.anatomy.stages:
            x = self.get_submodule(name)(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def build(name: str, *, options: Options, num_classes: int, in_channels: int) -> BinaryResNet:
    """A fresh network; raises InputError ``architecture_unknown``, ValueError for another family."""
    plan = blueprint(name, options=options)
    if not isinstance(plan, BinaryBlueprint):
        raise ValueError(f"{name} is not a binary ResNet")
    return BinaryResNet(plan, num_classes=num_classes, in_channels=in_channels)
