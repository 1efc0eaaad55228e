"""Watching a network at work: one forward pass in which every module's input and output is seen."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from distill.layouts import first_tensor

SEED = 20
NUM_REMEMBERED = 96  # tensors before the logits: pooling is near the end, and all of them would not fit memory
Side = Literal["input", "output"]


class Sight(NamedTuple):
    """A tensor on its way, and the version it had: in-place operations count it up."""

    module: str
    side: Side
    tensor: Tensor
    version: int

    @property
    def unchanged(self) -> bool:
        return self.tensor._version == self.version


@dataclass
class Record:
    """What one forward pass showed."""

    logits: Tensor | None = None
    last: deque[Sight] = field(default_factory=lambda: deque(maxlen=NUM_REMEMBERED))
    kept: dict[tuple[str, str], list[Sight]] = field(default_factory=dict)

    def only(self, module: str, side: Side) -> Sight | None:
        """What was seen there, if the module was called exactly once."""
        sights = self.kept.get((module, side), [])
        return sights[0] if len(sights) == 1 else None


def quarters(size: Sequence[int]) -> list[tuple[slice, slice]]:
    """Rows and columns of the upper right and the lower left quarter; middle lines of odd sizes are in neither."""
    height, width = size
    first_rows, last_rows = slice(0, height // 2), slice(height - height // 2, None)
    first_columns, last_columns = slice(0, width // 2), slice(width - width // 2, None)
    return [(first_rows, last_columns), (last_rows, first_columns)]


def probe_images(network: nn.Module, image_shape: tuple[int, int, int]) -> Tensor:
    """Three images of noise: one, it with another upper right quarter, and it with another lower left one."""
    generator = torch.Generator().manual_seed(SEED)
    images = torch.randn(1, *image_shape, generator=generator).repeat(3, 1, 1, 1)
    for number, (rows, columns) in enumerate(quarters(image_shape[1:]), start=1):
        quarter = images[number, :, rows, columns]
        quarter.copy_(torch.randn(quarter.shape, generator=generator))
    weight = next(network.parameters())
    return images.to(weight.device, weight.dtype)


def moved_vectors(network: nn.Module) -> dict[str, Tensor]:
    """Every vector among the weights, and the running statistics, moved a little.

    Fresh norms and scales do nothing: a norm between pooling and classifier would not be seen.
    """
    generator = torch.Generator().manual_seed(SEED)
    tensors: dict[str, Tensor] = dict(network.named_parameters())
    tensors |= {name: value for name, value in network.named_buffers() if name.endswith(("_mean", "_var"))}
    moved = {}
    for name, value in tensors.items():
        if value.is_floating_point() and value.numel() == max(value.shape, default=1):
            factor, shift = torch.rand(2, *value.shape, generator=generator).to(value.device, value.dtype)
            moved[name] = value.detach() * (0.5 + factor) + 0.1 * shift  # never negative where it was not
    return moved


def watch(network: nn.Module, images: Tensor, values: dict[str, Tensor], *, keep: Sequence[str]) -> Record:
    """Show images to a network in eval mode, with some of its tensors replaced; it is left as it was.

    Args:
        values: name of a parameter or buffer -> what stands in for it.
        keep: modules that are remembered wherever they come; of the others only the last are.
    """
    record = Record()
    with _hooks(network, record, set(keep)), _evaluating(network), torch.no_grad():
        logits = torch.func.functional_call(network, values, (images,))
    record.logits = logits if isinstance(logits, Tensor) else None
    return record


@contextlib.contextmanager
def _hooks(network: nn.Module, record: Record, keep: set[str]) -> Iterator[None]:
    def see(module: str, side: Side, value: object) -> None:
        tensor = first_tensor(value)
        if tensor is not None:
            sight = Sight(module, side, tensor, tensor._version)
            record.last.append(sight)
            if module in keep:
                record.kept.setdefault((module, side), []).append(sight)

    def hook(name: str) -> tuple[Any, Any]:
        return (lambda _, inputs: see(name, "input", inputs)), (lambda _, __, out: see(name, "output", out))

    handles = []
    for name, module in network.named_modules():
        if name:
            before, after = hook(name)
            handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
