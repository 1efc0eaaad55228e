"""Which networks of the zoo fit a budget, best first. Free of torch.

The rule, and why it is this one, stands in docs/decisions/0016-budget.md.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from distill import architectures, tensorfile
from distill.architectures import ONNX, Blueprint
from distill.spec import Budget, NetworkOptions

NUM_PROPOSED = 3
LARGE_SIDE = 85
"""From this side on, in pixels, images are nearer to the 224 of timm's networks than to the 32 of the others."""
WELL_USED = 0.5
"""The share of a budget that a network as its name says must use, so that none of another width is looked for."""
WIDTHS = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
_SMALL_IMAGES = ("wrn", "resnet", "shufflenetv2", "shufflenetv1", "resnet4stage", "vgg", "mobilenetv2")
_STILL_CHEAP = ("mobilenetv2", "shufflenetv2", "shufflenetv1")
"""Of these, the families whose work on large images is small; for budgets below the networks of timm."""
_PASSED_OVER = frozenset({"wrn_10_1", "wrn_10_10"})
"""Deeper ones of their family are published with more accuracy at a third of the parameters."""
_LARGE_IMAGES: dict[str, tuple[str, ...]] = {
    "efficientnet": ("efficientnet_b0", "efficientnet_b1", "efficientnet_b2", "efficientnet_b3"),
    "mobilenetv3": ("mobilenetv3_small_050", "mobilenetv3_small_075", "mobilenetv3_small_100", "mobilenetv3_large_100"),
    "regnety": ("regnety_002", "regnety_004", "regnety_006", "regnety_008", "regnety_016", "regnety_032"),
    "mobilenetv2": ("mobilenetv2_035", "mobilenetv2_050", "mobilenetv2_075", "mobilenetv2_100", "mobilenetv2_140"),
    "resnet": ("resnet10t", "resnet14t", "resnet18", "resnet26", "resnet34", "resnet50"),
}
_FAMILY_IN_NAME = re.compile(r"timm/([a-z]+(?:v\d)?)")
_METADATA_BYTES = 1000  # of a student's file beside the names of its classes; shorter in truth
# Of networks whose tensors are not listed here: running statistics, and a header with every name.
_UNLISTED_SHARE, _UNLISTED_BYTES = 1.05, 2**16


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a student is to stand: behind which teacher, for which classes and images."""

    teacher: str
    teacher_options: NetworkOptions
    teacher_parameters: int | None = None
    """Of an ONNX file, which no name tells."""
    num_classes: int
    in_channels: int
    image_size: tuple[int, int]
    """(height, width) in pixels."""
    classes: Sequence[str]
    """Their names go into the student's file."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A network with its figures.

    Attributes:
        macs: multiply-adds of one image of the data's size; None where they are not known.
        file_bytes: what its file has at most, with its own classifier.
        stages: output channels of each.
        used: share of each figure of the budget.
    """

    name: str
    options: NetworkOptions
    parameters: int
    macs: int | None
    file_bytes: int
    stages: tuple[int, ...]
    used: Mapping[str, float]


Suits = Callable[[str, NetworkOptions], bool]


def measure(name: str, options: NetworkOptions, place: Place, *, budget: Budget | None = None) -> Candidate:
    """A network's figures, and what of a budget it uses."""
    parameters, macs, file_bytes, stages = _figures(
        name, options.width, options.stem_stride, place.num_classes, place.in_channels, place.image_size
    )
    found = {"parameters": parameters, "macs": macs, "file_bytes": file_bytes + _class_bytes(place.classes)}
    limits = {} if budget is None else budget.limits
    return Candidate(
        name=name,
        options=options,
        parameters=parameters,
        macs=macs,
        file_bytes=file_bytes + _class_bytes(place.classes),
        stages=stages,
        used={key: math.inf if (value := found[key]) is None else value / limit for key, limit in limits.items()},
    )


def propose(budget: Budget, place: Place, *, suits: Suits) -> list[Candidate]:
    """The best network of each family that has one within the budget, the best family first; at most three.

    Args:
        suits: whether a network can be used at all: by the method that is asked for, say.
    """
    found: list[Candidate] = []
    for names in _families(place):
        best = _best(names, budget, place, suits=suits)
        if best is not None:
            found.append(best)
        if len(found) == NUM_PROPOSED:
            break
    return found


def smallest(budget: Budget, place: Place, *, suits: Suits) -> Candidate | None:
    """The network that a budget is nearest to being enough for; None when none suits."""
    every = [
        candidate
        for names in _families(place)
        for candidate in _candidates(names, (1.0, *WIDTHS), budget, place, suits=suits)
    ]
    return min(every, key=lambda candidate: max(candidate.used.values()), default=None)


def _best(names: Sequence[str], budget: Budget, place: Place, *, suits: Suits) -> Candidate | None:
    """The one that uses most of the budget, as its name says if that is at least half, else of any width."""
    most_parameters, most_macs = _most(place)

    def fits(candidate: Candidate) -> bool:
        is_smaller = candidate.parameters < most_parameters and (candidate.macs or 0) <= most_macs
        return is_smaller and max(candidate.used.values()) <= 1.0

    def use(candidate: Candidate) -> float:
        return sum(candidate.used.values()) / len(candidate.used)

    named = [c for c in _candidates(names, (1.0,), budget, place, suits=suits) if fits(c)]
    best = max(named, key=use, default=None)
    if best is not None and use(best) >= WELL_USED:
        return best
    scaled = [c for c in _candidates(names, WIDTHS, budget, place, suits=suits) if fits(c)]
    return max([*named, *scaled], key=use, default=None)


def _most(place: Place) -> tuple[float, float]:
    """Parameters, which a student must be below, and multiply-adds, which it must not be above."""
    if place.teacher == ONNX:
        return (math.inf if place.teacher_parameters is None else place.teacher_parameters), math.inf
    teacher = measure(place.teacher, place.teacher_options, place)
    # A binary teacher's work is of signs, beside which any real student's would seem large.
    is_binary = _family_of(place.teacher, place.teacher_options) == "binary"
    return teacher.parameters, math.inf if is_binary or teacher.macs is None else teacher.macs


def _candidates(
    names: Sequence[str], widths: Sequence[float], budget: Budget, place: Place, *, suits: Suits
) -> Iterator[Candidate]:
    for name in names:
        taken = architectures.options_of(name)
        stride = place.teacher_options.stem_stride if "stem_stride" in taken else 1
        for width in widths if "width" in taken else [w for w in widths if w == 1.0]:
            options = NetworkOptions(width=width, stem_stride=stride)
            if _takes(name, place.in_channels) and suits(name, options):
                yield measure(name, options, place, budget=budget)


def _families(place: Place) -> list[tuple[str, ...]]:
    """The names of each family that students come from, the best family for this place first."""
    small = {name: _listed(name) for name in _SMALL_IMAGES}
    large = {f"timm/{name}": tuple(f"timm/{each}" for each in names) for name, names in _LARGE_IMAGES.items()}
    is_large = math.sqrt(math.prod(place.image_size)) >= LARGE_SIDE
    ordered = {**large, **{name: small[name] for name in _STILL_CHEAP}} if is_large else small
    own = _family_of(place.teacher, place.teacher_options)
    first = {**small, **large}.get(own)
    rest = [names for name, names in ordered.items() if name != own]
    return rest if first is None else [first, *rest]


def _family_of(name: str, options: NetworkOptions) -> str:
    if name == ONNX:
        return ONNX
    match = _FAMILY_IN_NAME.match(name)
    return f"timm/{match[1]}" if match else architectures.blueprint(name, options=options).family


@cache
def _listed(family: str) -> tuple[str, ...]:
    plans = {name: architectures.blueprint(name, options=NetworkOptions()) for name in architectures.names()}
    return tuple(name for name, plan in plans.items() if plan.family == family and name not in _PASSED_OVER)


@cache
def _takes(name: str, in_channels: int) -> bool:
    plan = architectures.blueprint(name, options=NetworkOptions())
    return plan.has_linear_head and plan.takes_channels(in_channels)


@lru_cache(maxsize=10_000)
def _figures(
    name: str, width: float, stem_stride: int, num_classes: int, in_channels: int, image_size: tuple[int, int]
) -> tuple[int, int | None, int, tuple[int, ...]]:
    """Parameters, multiply-adds, bytes of the file without the names of its classes, and stages."""
    options = NetworkOptions(width=width, stem_stride=1 if stem_stride == 1 else 2)
    plan = architectures.blueprint(name, options=options)
    sizes = {"num_classes": num_classes, "in_channels": in_channels}
    macs = plan.macs(**sizes, image_size=image_size)
    return plan.parameters(**sizes), macs, _file_bytes(plan, **sizes), plan.widths


def _file_bytes(plan: Blueprint, *, num_classes: int, in_channels: int) -> int:
    if not plan.is_complete:
        parameters = plan.parameters(num_classes=num_classes, in_channels=in_channels)
        return math.ceil(4 * parameters * _UNLISTED_SHARE) + _UNLISTED_BYTES
    shapes = plan.state_shapes(num_classes=num_classes, in_channels=in_channels)
    return _METADATA_BYTES + tensorfile.size_of({name: (_dtype(name), shape) for name, shape in shapes.items()})


def _dtype(name: str) -> str:
    return "I64" if name.endswith("num_batches_tracked") else "F32"


def _class_bytes(classes: Sequence[str]) -> int:
    # Twice JSON: the list is a string of the header.
    return len(json.dumps(json.dumps(list(classes))))
