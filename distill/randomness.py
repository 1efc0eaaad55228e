"""Whatever random numbers training may read: Python's, NumPy's, PyTorch's, and those of every GPU."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed(number: int) -> None:
    """Begin all of them anew."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def state() -> dict[str, Any]:
    """Where all of them stand, in numbers and tensors alone, as a checkpoint takes them."""
    numpy = np.random.get_state(legacy=False)
    key = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    found = {
        "python": random.getstate(),
        "numpy": {**numpy, "state": {**numpy["state"], "key": key}},
        "torch": torch.get_rng_state(),
    }
    return found | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {})


def restore(state: dict[str, Any]) -> None:
    """Go on from there; GPUs that there were not then stay as they are."""
    random.setstate(state["python"])
    numpy = state["numpy"]
    key = numpy["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy, "state": {**numpy["state"], "key": key}})
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
