"""The zoo by name: which networks there are, and every shape, count and cost of them without PyTorch.

``distill.registry`` has the other half of the table, which builds them.
"""

from __future__ import annotations

import difflib
from dataclasses import asdict
from typing import Any

from distill.architectures import (
    binary,
    mobilenetv2,
    resnet,
    resnet4stage,
    shufflenetv1,
    shufflenetv2,
    timm,
    timm_names,
    vgg,
    wrn,
)
from distill.architectures.blueprint import Blueprint, Family
from distill.architectures.layers import Shape, Size
from distill.architectures.options import PLAIN, Options
from distill.errors import InputError

FAMILIES: tuple[Family, ...] = (
    resnet.FAMILY,
    wrn.FAMILY,
    resnet4stage.FAMILY,
    vgg.FAMILY,
    mobilenetv2.FAMILY,
    shufflenetv1.FAMILY,
    shufflenetv2.FAMILY,
    binary.FAMILY,
    timm.FAMILY,
)


def names() -> list[str]:
    """The networks that are listed; beside them any ``wrn_<d>_<w>`` is accepted, d = 6n + 4 < 1000, w <= 16."""
    return [name for family in FAMILIES for name in family.listed]


def family_of(name: str) -> Family | None:
    """The family that can read ``name``; None for a name that the zoo lacks."""
    return next((family for family in FAMILIES if family.read(name, PLAIN) is not None), None)


def options_of(name: str) -> frozenset[str]:
    """Names of the options that a network takes; none for a name that the zoo lacks."""
    family = family_of(name)
    return frozenset() if family is None else family.options


def check(name: str, *, options: Options = PLAIN, param: str = "/student/architecture") -> None:
    """Raises InputError ``architecture_unknown`` with the nearest names, unless the zoo has ``name``.

    Also ``invalid_value`` for an option that this network does not take; its pointer is that of the option,
    which stands in ``options`` beside ``param``.
    """
    _read(name, options, param)


def blueprint(name: str, *, options: Options) -> Blueprint:
    """Depth and channels of a network; raises InputError as :func:`check` does."""
    return _read(name, options, None)


def _read(name: str, options: Options, param: str | None) -> Blueprint:
    for family in FAMILIES:
        found = family.read(name, options)
        if found is not None:
            _check_options(name, family, options, param)
            return found
    raise InputError(
        "architecture_unknown",
        f"There is no network called {name[:64]!r}.",
        hint="GET /networks lists them",
        param=param,
        did_you_mean=_nearest(name),
    )


def _nearest(name: str) -> list[str]:
    if name.startswith(timm_names.PREFIX):
        return timm_names.nearest(name)
    return difflib.get_close_matches(name[:64].lower().replace("-", "_"), names(), n=3)


def _check_options(name: str, family: Family, options: Options, param: str | None) -> None:
    for option, plain in asdict(PLAIN).items():
        asked = getattr(options, option)
        if option not in family.options and asked != plain:
            raise InputError(
                "invalid_value",
                f'{name} does not take the option "{option}" ({asked:g} was given).',
                hint=f'Leave "{option}" at {plain:g}, or choose a network of another family',
                param=None if param is None else f"{param.rpartition('/')[0]}/options/{option}",
            )


def state_shapes(name: str, *, options: Options, num_classes: int, in_channels: int) -> dict[str, Shape]:
    """Name -> shape of the whole state dict, in its order, running statistics included."""
    return blueprint(name, options=options).state_shapes(num_classes=num_classes, in_channels=in_channels)


def parameters(name: str, *, options: Options, num_classes: int, in_channels: int) -> int:
    """How many numbers are trained (running statistics are not)."""
    return blueprint(name, options=options).parameters(num_classes=num_classes, in_channels=in_channels)


def macs(name: str, *, options: Options, num_classes: int, in_channels: int, image_size: Size) -> int | None:
    """Multiply-adds of one image (height, width) in convolutions and linear layers; None where not known."""
    plan = blueprint(name, options=options)
    return plan.macs(num_classes=num_classes, in_channels=in_channels, image_size=image_size)


def feature_width(name: str, *, options: Options) -> int:
    """Channels of the map that is pooled, which is what the classifier reads."""
    return blueprint(name, options=options).feature_width


def catalog(q: str = "") -> list[dict[str, Any]]:
    """The listed networks whose name contains ``q``, ready for JSON, at 100 classes and images as they are made for.

    A wide ResNet that is not listed appears when ``q`` is its full name; those of timm when ``q`` says anything.
    """
    wanted = q.strip().lower()
    found = [name for name in [*names(), *(timm_names.names() if wanted else [])] if wanted in name]
    if not found and family_of(wanted) is not None:
        found = [wanted]
    return [_catalog_entry(name) for name in found]


def _catalog_entry(name: str) -> dict[str, Any]:
    plan = blueprint(name, options=PLAIN)
    image_size = (plan.input.height, plan.input.width)
    return {
        "name": name,
        "family": plan.family,
        "stages": list(plan.widths),
        "feature_width": plan.feature_width,
        "parameters": plan.parameters(num_classes=100, in_channels=plan.input.channels),
        "macs": plan.macs(num_classes=100, in_channels=plan.input.channels, image_size=image_size),
        "binary_macs": plan.binary_macs(image_size=image_size),
        "input": asdict(plan.input),
        "preprocessing": asdict(plan.preprocessing),
        "pools": plan.pools,
        "roles": ["teacher", "student"] if plan.has_linear_head else [],
    }
