"""Reading a network's last map and penultimate feature by hooks, and the proof that they are the right ones.

The map that counts is **the input of global pooling**. "The tensor one before last" is another one in
WRN (before the last batch norm and ReLU), MobileNetV2 and ShuffleNetV2, and a student matched to it
learns the wrong thing without any error to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import InputError


@dataclass(frozen=True)
class Features:
    """What one forward pass of a network shows.

    Attributes:
        map_BCHW: the input of global pooling.
        pooled_BC: the input of the classifier.
        logits_BK: the output.
    """

    map_BCHW: Tensor
    pooled_BC: Tensor
    logits_BK: Tensor


class Tap:
    """Calls a network and returns its :class:`Features`.

    Args:
        network: has the two modules named below; left as it is.
        pooling: the module whose input is the last map.
        classifier: the last linear module.
    """

    def __init__(self, network: nn.Module, *, pooling: str = "avgpool", classifier: str = "fc") -> None:
        self.network = network
        self._seen: dict[str, Tensor] = {}
        self._handles = [
            network.get_submodule(name).register_forward_pre_hook(self._keep(key))
            for key, name in (("map", pooling), ("pooled", classifier))
        ]

    def _keep(self, key: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._seen[key] = inputs[0]

        return hook

    def __call__(self, images_BCHW: Tensor) -> Features:
        logits = self.network(images_BCHW)
        # Taken out, so that no graph outlives its step.
        return Features(self._seen.pop("map"), self._seen.pop("pooled"), logits)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def prove(tap: Tap, classifier: nn.Linear, *, images_BCHW: Tensor, tolerance: float = 1e-3) -> None:
    """Show on real images that the tap sees what the classifier classifies.

    Both sides must hold: the map's spatial mean is the classifier's input, and ``W p + b`` are the logits.

    Args:
        tap: of a network in eval mode.
        classifier: the linear layer whose weights L_SR will use.
        images_BCHW: a few normalised images.
        tolerance: largest difference, relative to the largest value compared.

    Raises:
        InputError: ``teacher_head_unsupported``, saying which side failed and by how much.
    """
    seen = tap(images_BCHW)
    pooled = seen.map_BCHW.float().mean(dim=(2, 3)) if seen.map_BCHW.dim() == 4 else seen.map_BCHW.float()
    logits = nn.functional.linear(seen.pooled_BC.float(), classifier.weight.float(), classifier.bias)
    for left, right, claim in (
        (pooled, seen.pooled_BC, "the mean of the last map is the classifier's input"),
        (logits, seen.logits_BK, "W p + b are the logits"),
    ):
        fits = left.shape == right.shape
        gap = float((left - right.float()).abs().max()) if fits else float("nan")
        scale = max(1.0, float(right.float().abs().max()))
        if not fits or not gap <= tolerance * scale:
            raise InputError(
                "teacher_head_unsupported",
                f"On {len(images_BCHW)} probe images it does not hold that {claim}: "
                + (f"they differ by {gap:.3g}." if fits else f"shapes {list(left.shape)}, {list(right.shape)}."),
                hint="SRRL needs one linear classifier behind global average pooling.",
                param="/teacher",
            )
