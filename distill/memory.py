"""When a step does not fit into memory: how that is told, and how what it left is undone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from distill import randomness
from distill.errors import RunError

# torch has a class for the memory of CUDA devices alone; of others and of the main memory it says it in words.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED", "bad_alloc")


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory was not enough."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def out_of_memory(error: Exception) -> RunError:
    """What a job fails with after such an error."""
    said = str(error).partition("\n")[0][:200] or type(error).__name__
    return RunError(
        "out_of_memory",
        f"The device is out of memory: {said}",
        hint="Use a smaller batch_size or a smaller student.",
        param="/training/batch_size",
    )


class Undo:
    """Takes back what a step changes before its optimizer's turn: random numbers, and batch norms' statistics.

    Args:
        modules: those of the step, on their device. What else they count up in a forward pass stays.
    """

    def __init__(self, *modules: nn.Module) -> None:
        norms = [each for module in modules for each in module.modules() if isinstance(each, _NormBase)]
        self._live = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self._kept = [buffer.clone() for buffer in self._live]
        self._random: dict[str, Any] = {}

    def remember(self) -> None:
        """Before a step."""
        if self._live:
            torch._foreach_copy_(self._kept, self._live)
        self._random = randomness.state()

    def __call__(self) -> None:
        """After one that failed."""
        for live, kept in zip(self._live, self._kept, strict=True):
            live.copy_(kept)
        randomness.restore(self._random)
