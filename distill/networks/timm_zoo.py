"""Every image-classification network of timm, by the name ``timm/<name>`` and with fresh weights.

timm is an extra and is imported when a network of it is first asked for. Nothing here touches the network:
timm is never asked for pretrained weights, and only names of our table reach it, no address of a hub.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import nn

from distill.anatomy import Anatomy
from distill.architectures import timm_names
from distill.errors import InputError
from distill.networks.dissection import Announced, Findings, dissect
from distill.networks.torchvision_shim import import_torchvision

_PROBE_SIZE = 96  # pixels; small, and still a map of several places after 32-fold pooling
_PARAM = "/student/architecture"


def build(name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """A freshly initialised network: normalised images (B, C, H, W) to logits (B, K), in train mode too.

    Args:
        name: begins with ``timm/``.

    Raises:
        InputError: ``architecture_unknown`` where there is no such network or no timm to build it with,
            ``invalid_value`` where it does not take that many channels.
    """
    facts = timm_names.facts(name)
    if facts is None:
        raise InputError(
            "architecture_unknown",
            f"There is no network called {name[:64]!r}.",
            hint="GET /networks lists them; timm's names are written without the tag of weights behind a dot",
            param=_PARAM,
            did_you_mean=timm_names.nearest(name),
        )
    if not facts.takes_channels(in_channels):
        raise InputError(
            "invalid_value",
            f"{name} takes images of 3 channels only, and these have {in_channels}.",
            hint="Choose another network, or send the images in colour.",
            param=_PARAM,
        )
    return create(name.removeprefix(timm_names.PREFIX), num_classes=num_classes, in_channels=in_channels)


def create(plain_name: str, *, num_classes: int, in_channels: int) -> nn.Module:
    """The network that timm lists under a name, whether our table has it or not; errors are those of ``build``."""
    timm = import_timm()
    if not timm.is_model(plain_name):
        raise InputError(
            "architecture_unknown",
            f"The installed timm {timm.__version__} has no network called {plain_name!r}.",
            hint=f"Install timm {timm_names.version()}, which has it.",
            param=_PARAM,
        )
    network: nn.Module = timm.create_model(plain_name, pretrained=False, num_classes=num_classes, in_chans=in_channels)
    # Two heads that answer apart while training belong to a recipe of timm's own.
    set_distilled_training: Any = getattr(network, "set_distilled_training", None)
    if set_distilled_training is not None:
        set_distilled_training(False)
    network.built_for = (num_classes, in_channels)  # type: ignore[assignment]
    return network


def anatomy_of(network: nn.Module) -> Anatomy:
    """Stages, pooling and head of a network that :func:`build` made, each shown to hold on random images.

    It costs one forward pass of three images, and leaves weights, statistics and mode as they were.
    """
    return findings_of(network).anatomy


def findings_of(network: nn.Module) -> Findings:
    """The anatomy and the widths of its parts; on the meta device what can be told without numbers."""
    own_size = published(network)["input_size"][1:]
    if published(network).get("fixed_input_size"):
        return _findings(network, own_size)
    try:
        return _findings(network, (_PROBE_SIZE, _PROBE_SIZE))
    except (RuntimeError, AssertionError, ValueError):  # some take sizes that their windows divide, and no other
        return _findings(network, own_size)


def pooling_of(name: str) -> str | None:
    """How a network makes its feature, in timm's words, such as ``avg`` or ``token``; None where it does not say.

    Args:
        name: begins with ``timm/``.
    """
    with torch.device("meta"):
        network = build(name, num_classes=2, in_channels=timm_names.NUM_CHANNELS)
    for holder in (network, getattr(network, "head", None)):
        found: Any = getattr(holder, "global_pool", None)
        found = getattr(found, "pool_type", found)
        if isinstance(found, str):
            return found
    return None


def published(network: nn.Module) -> dict[str, Any]:
    """timm's record of a network: ``input_size`` (C, H, W), ``fixed_input_size``, ``mean``, ``std`` and so on."""
    record: Any = network.pretrained_cfg
    return dict(record)


def import_timm() -> ModuleType:
    """timm, imported at the first call.

    Raises:
        InputError: ``architecture_unknown`` where timm or torchvision is not installed.
    """
    try:
        import_torchvision()
        return importlib.import_module("timm")
    except ModuleNotFoundError as error:
        raise InputError(
            "architecture_unknown",
            f"Networks called timm/... need the packages of the extra zoo: {error.msg}.",
            hint="pip install limbeck[zoo]",
            param=_PARAM,
        ) from error


def _findings(network: nn.Module, image_size: tuple[int, int]) -> Findings:
    num_classes, in_channels = _shape(network)
    return dissect(
        network,
        image_shape=(in_channels, *image_size),
        announced=_announced_of(network),
        heads=_heads_of(network),
        num_classes=num_classes,
        num_prefix_tokens=int(getattr(network, "num_prefix_tokens", 0) or 0),
    )


def _shape(network: nn.Module) -> tuple[int, int]:
    num_classes, in_channels = network.built_for  # type: ignore[misc]
    return int(num_classes), int(in_channels)


def _announced_of(network: nn.Module) -> list[Announced]:
    """The maps that timm says a network has, in their order."""
    entries: Any = getattr(network, "feature_info", None) or []
    entries = getattr(entries, "info", entries)
    return [Announced(entry["module"], entry["num_chs"], entry.get("reduction")) for entry in entries]


def _heads_of(network: nn.Module) -> list[nn.Module]:
    """What holds the last linear layers: one module, or several in a tuple."""
    head: Any = network.get_classifier()  # type: ignore[operator]
    heads = head if isinstance(head, tuple | list) else [head]
    return [module for module in heads if isinstance(module, nn.Module)]
