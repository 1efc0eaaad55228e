"""The zoo by name, as lists of layers: every shape, count and cost of a network without PyTorch.

Names and shapes of the state dicts are those of the CRD benchmark (github.com/HobbitLong/RepDistiller,
``models/resnet.py`` and ``models/wrn.py``), so that its published teachers load as they are.
``distill.networks`` builds the same blocks.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from distill.errors import InputError

Family = Literal["resnet", "wrn"]
Size = tuple[int, int]
Shape = tuple[int, ...]

NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
# Name -> (depth 6n + 2, channels of the stem and of the three stages).
RESNETS: dict[str, tuple[int, tuple[int, ...]]] = {
    **{f"resnet{depth}": (depth, NARROW) for depth in (8, 14, 20, 26, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": (depth, WIDE) for depth in (8, 32)},
}
LISTED_WRN = ((10, 1), (16, 1), (16, 2), (16, 4), (40, 1), (40, 2), (40, 4), (10, 10), (16, 10))
# Three digits bound the work of describing a network: the depth comes from a request.
WRN_NAME = re.compile(r"wrn_([1-9][0-9]{1,2})_([1-9][0-9]?)")
MAX_WIDEN_FACTOR = 16


class Options(Protocol):
    """What may be varied; ``distill.spec.NetworkOptions`` is one."""

    @property
    def width(self) -> float: ...
    @property
    def stem_stride(self) -> int: ...


@dataclass(frozen=True)
class PlainOptions:
    """The options of a network as its name says."""

    width: float = 1.0
    stem_stride: int = 1


PLAIN = PlainOptions()


@dataclass(frozen=True)
class Block:
    """One residual block of two 3x3 convolutions; the first one has the stride."""

    in_channels: int
    out_channels: int
    stride: int

    @property
    def has_shortcut(self) -> bool:
        """Whether a 1x1 convolution replaces the identity, which must keep both channels and size."""
        return self.stride != 1 or self.in_channels != self.out_channels


@dataclass(frozen=True)
class Blueprint:
    """A name and its options, read: the one source of depth and channels for descriptions and networks."""

    family: Family
    num_blocks: int
    """Per stage."""
    stem: int
    widths: tuple[int, ...]
    """Output channels of each stage; the last is the width of the penultimate layer."""
    stem_stride: int

    def stage(self, number: int) -> list[Block]:
        """The blocks of stage 1, 2 or 3; stages after the first halve the map."""
        before = self.stem if number == 1 else self.widths[number - 2]
        width = self.widths[number - 1]
        first = Block(before, width, stride=1 if number == 1 else 2)
        return [first] + [Block(width, width, stride=1)] * (self.num_blocks - 1)


@dataclass(frozen=True)
class Layer:
    """A layer with weights: its name in the state dict, its weight's shape, the size of the map it puts out."""

    name: str
    kind: Literal["conv", "norm", "linear"]
    weight: Shape
    out_size: Size = (1, 1)

    @property
    def positions(self) -> int:
        """How many places of one image the layer computes."""
        return math.prod(self.out_size)

    @property
    def tensors(self) -> dict[str, Shape]:
        """Name -> shape of everything it keeps in the state dict, in PyTorch's order."""
        channels = self.weight[:1]
        own: dict[str, Shape] = {"weight": self.weight}
        if self.kind != "conv":
            own["bias"] = channels
        if self.kind == "norm":
            own |= {"running_mean": channels, "running_var": channels, "num_batches_tracked": ()}
        return {f"{self.name}.{key}": shape for key, shape in own.items()}

    @property
    def parameters(self) -> int:
        """Trained numbers: weight and, but for convolutions, bias."""
        return math.prod(self.weight) + (0 if self.kind == "conv" else self.weight[0])

    @property
    def macs(self) -> int:
        """Multiply-adds of one image; a norm counts as none, since it folds into its convolution."""
        return 0 if self.kind == "norm" else math.prod(self.weight) * self.positions


def names() -> list[str]:
    """The networks that are listed; beside them any ``wrn_<d>_<w>`` is accepted, d = 6n + 4 < 1000, w <= 16."""
    return [*RESNETS, *(f"wrn_{depth}_{factor}" for depth, factor in LISTED_WRN)]


def check(name: str, *, param: str = "/student/architecture") -> None:
    """Raises InputError ``architecture_unknown`` with the nearest names, unless the zoo has ``name``."""
    if read_name(name) is None:
        raise _unknown(name, param)


def _unknown(name: str, param: str | None) -> InputError:
    plain = name[:64].lower().replace("-", "_")
    return InputError(
        "architecture_unknown",
        f"There is no network called {name[:64]!r}.",
        hint="GET /networks lists them",
        param=param,
        did_you_mean=difflib.get_close_matches(plain, names(), n=3),
    )


def blueprint(name: str, *, options: Options) -> Blueprint:
    """Depth and channels of a network; raises InputError ``architecture_unknown``."""
    read = read_name(name)
    if read is None:
        raise _unknown(name, param=None)
    family, num_blocks, channels = read
    stem, *widths = (max(1, math.floor(count * options.width + 0.5)) for count in channels)
    return Blueprint(family, num_blocks, stem, tuple(widths), options.stem_stride)


def layers(name: str, *, options: Options, num_classes: int, in_channels: int, image_size: Size) -> list[Layer]:
    """The layers with weights in the order of the state dict; ``image_size`` is (height, width)."""
    plan = blueprint(name, options=options)
    walk = _resnet_layers if plan.family == "resnet" else _wrn_layers
    classifier = Layer("fc", "linear", (num_classes, plan.widths[-1]))
    return [*walk(plan, in_channels, image_size), classifier]


def state_shapes(name: str, *, options: Options, num_classes: int, in_channels: int) -> dict[str, Shape]:
    """Name -> shape of the whole state dict, in its order, running statistics included."""
    parts = layers(name, options=options, num_classes=num_classes, in_channels=in_channels, image_size=(1, 1))
    return {key: shape for layer in parts for key, shape in layer.tensors.items()}


def parameters(name: str, *, options: Options, num_classes: int, in_channels: int) -> int:
    """How many numbers are trained (running statistics are not)."""
    parts = layers(name, options=options, num_classes=num_classes, in_channels=in_channels, image_size=(1, 1))
    return sum(layer.parameters for layer in parts)


def macs(name: str, *, options: Options, num_classes: int, in_channels: int, image_size: Size) -> int:
    """Multiply-adds of one image (height, width) in convolutions and the classifier."""
    parts = layers(name, options=options, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    return sum(layer.macs for layer in parts)


def feature_width(name: str, *, options: Options) -> int:
    """Channels of the map that is pooled, which is what the classifier reads."""
    return blueprint(name, options=options).widths[-1]


def catalog(q: str = "") -> list[dict[str, Any]]:
    """The listed networks whose name contains ``q``, ready for JSON, at 3x32x32 images and 100 classes.

    A wide ResNet that is not listed appears when ``q`` is its full name.
    """
    wanted = q.strip().lower()
    found = [name for name in names() if wanted in name]
    if not found and read_name(wanted) is not None:
        found = [wanted]
    return [_catalog_entry(name) for name in found]


def _catalog_entry(name: str) -> dict[str, Any]:
    plan = blueprint(name, options=PLAIN)
    parts = layers(name, options=PLAIN, num_classes=100, in_channels=3, image_size=(32, 32))
    return {
        "name": name,
        "family": plan.family,
        "stages": list(plan.widths),
        "feature_width": plan.widths[-1],
        "parameters": sum(layer.parameters for layer in parts),
        "macs": sum(layer.macs for layer in parts),
        "roles": ["teacher", "student"],
    }


def read_name(name: str) -> tuple[Family, int, tuple[int, ...]] | None:
    """Family, blocks per stage, channels of stem and stages; None for a name that the zoo lacks."""
    if name in RESNETS:
        depth, channels = RESNETS[name]
        return "resnet", (depth - 2) // 6, channels
    match = WRN_NAME.fullmatch(name)
    if match is None:
        return None
    depth, factor = int(match[1]), int(match[2])
    if depth % 6 != 4 or factor > MAX_WIDEN_FACTOR:
        return None
    return "wrn", (depth - 4) // 6, (16, 16 * factor, 32 * factor, 64 * factor)


def _strided(size: Size, stride: int) -> Size:
    """The map after a 3x3 convolution padded by 1, or an unpadded 1x1: both keep every stride-th place."""
    return (size[0] - 1) // stride + 1, (size[1] - 1) // stride + 1


def _conv(name: str, num_in: int, num_out: int, size: Size, *, kernel: int = 3) -> Layer:
    return Layer(name, "conv", (num_out, num_in, kernel, kernel), size)


def _norm(name: str, channels: int, size: Size) -> Layer:
    return Layer(name, "norm", (channels,), size)


def _resnet_layers(plan: Blueprint, in_channels: int, image_size: Size) -> Iterator[Layer]:
    size = _strided(image_size, plan.stem_stride)
    yield _conv("conv1", in_channels, plan.stem, size)
    yield _norm("bn1", plan.stem, size)
    for stage in (1, 2, 3):
        for i, block in enumerate(plan.stage(stage)):
            path, width = f"layer{stage}.{i}", block.out_channels
            size = _strided(size, block.stride)
            yield _conv(f"{path}.conv1", block.in_channels, width, size)
            yield _norm(f"{path}.bn1", width, size)
            yield _conv(f"{path}.conv2", width, width, size)
            yield _norm(f"{path}.bn2", width, size)
            if block.has_shortcut:
                yield _conv(f"{path}.downsample.0", block.in_channels, width, size, kernel=1)
                yield _norm(f"{path}.downsample.1", width, size)


def _wrn_layers(plan: Blueprint, in_channels: int, image_size: Size) -> Iterator[Layer]:
    size = _strided(image_size, plan.stem_stride)
    yield _conv("conv1", in_channels, plan.stem, size)
    for stage in (1, 2, 3):
        for i, block in enumerate(plan.stage(stage)):
            path, width = f"block{stage}.layer.{i}", block.out_channels
            yield _norm(f"{path}.bn1", block.in_channels, size)
            size = _strided(size, block.stride)
            yield _conv(f"{path}.conv1", block.in_channels, width, size)
            yield _norm(f"{path}.bn2", width, size)
            yield _conv(f"{path}.conv2", width, width, size)
            if block.has_shortcut:
                yield _conv(f"{path}.convShortcut", block.in_channels, width, size, kernel=1)
    yield _norm("bn1", plan.widths[-1], size)
