"""What of a run is trained, and by what."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn

from distill.spec import TrainingSpec


def new_optimizer(*modules: nn.Module, training: TrainingSpec) -> torch.optim.SGD:
    """SGD over all parameters of these modules that carry gradient, on their device."""
    groups = parameter_groups(*modules)
    return torch.optim.SGD(
        groups,
        lr=cast(float, training.learning_rate),
        momentum=training.momentum,
        nesterov=training.nesterov is not False and training.momentum > 0,
        weight_decay=cast(float, training.weight_decay),
        fused=groups[0]["params"][0].device.type != "mps",
    )


def parameter_groups(*modules: nn.Module) -> list[dict[str, Any]]:
    """What is trained; apart, without weight decay, the parameters that modules name in ``undecayed``."""
    undecayed = {
        id(module.get_parameter(name))
        for root in modules
        for module in root.modules()
        for name in getattr(module, "undecayed", ())
    }
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    spared = [p for p in trained if id(p) in undecayed]
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in undecayed]}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared else groups
