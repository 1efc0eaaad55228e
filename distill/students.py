"""The finished student: what it is made of, and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill import tensorfile
from distill.anatomy import LAST
from distill.batch import ResultHead
from distill.objective import answer
from distill.taps import Tap

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class ReusedHead(nn.Module):
    """A student that classifies with the teacher's layer: network, connector, global pooling, classifier.

    ``forward`` maps normalised images (B, C, H, W) to logits (B, K). The network's own classifier stays
    in the file, so that either head can be used later.
    """

    def __init__(self, network: nn.Module, *, head: ResultHead) -> None:
        super().__init__()
        self.network = network
        self.connector = head.connector
        self.classifier = head.classifier
        self._head = head
        self._tap = Tap(network, maps=[LAST])

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return answer(self._head, self._tap(images_BCHW))


def state_with_head(network: nn.Module, *, head: ResultHead) -> dict[str, Tensor]:
    """The state of the :class:`ReusedHead` of these parts, without making one: its tap would stay on the network."""
    parts = {"network": network, "connector": head.connector, "classifier": head.classifier}
    return {f"{part}.{name}": value for part, m in parts.items() for name, value in m.state_dict().items()}


def save(state: dict[str, Tensor], path: Path, *, metadata: dict[str, Any]) -> None:
    """Write weights and buffers as safetensors, whole or not at all.

    Args:
        state: on any device, in any memory format.
        path: replaced.
        metadata: goes into the file's header; values become JSON unless they are strings already.
    """
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    # Counters of 8 bytes first, so that every tensor lies aligned.
    ordered = sorted(state.items(), key=lambda item: -item[1].element_size())
    tensorfile.write(path, {name: _plain(value) for name, value in ordered}, metadata={"format": "pt", **texts})


def _plain(value: Tensor) -> tensorfile.Tensor:
    items = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)  # numpy has no bfloat16
    return tensorfile.Tensor(DTYPES[value.dtype], tuple(value.shape), [items.numpy().data])
