"""From a file of ``torch.save`` to safetensors, in a confined process: the only place where PyTorch reads one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill import architectures, students
from distill.architectures import Shape, Unwrap, Weights
from distill.errors import InputError
from distill.pickled import SAVE_WEIGHTS
from distill.torchfile import TorchFile

_MAX_GROWTH = 2  # two names may share one storage; a thousand names do not


def convert(source: Path, target: Path, *, unwrap: Unwrap = architectures.unwrap) -> None:
    """Write the network's weights of a checkpoint as safetensors, under clean names; nothing else of it is kept.

    Args:
        source: the upload.
        target: is written; a copy of the upload stands beside it meanwhile.
        unwrap: finds the weights in the checkpoint.

    Raises:
        InputError: ``unsafe_file``, ``upload_corrupt`` or ``unsupported_format``.
    """
    copy = target.with_suffix(".pth")
    try:
        with TorchFile(source) as file:
            weights, num_bytes = unwrap(file.tree), file.num_bytes
            file.copy_to(copy)
        tensors = _tensors(_load(copy), weights)
        if sum(tensor.nbytes for tensor in tensors.values()) > _MAX_GROWTH * num_bytes:
            message = "The tensors share their storages so that written out they would take many times the file's size."
            raise InputError("unsafe_file", message, hint="Save contiguous tensors: tensor.contiguous().clone().")
        students.save(tensors, target, metadata={})
    finally:
        copy.unlink(missing_ok=True)


def _load(path: Path) -> Any:
    """The file's objects; tensors stay in the file until they are read. There is no second, laxer try."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever it says of a file that passed the outline, it does not want it
        reason = (str(error).splitlines() or [""])[0][:200]
        raise InputError("unsafe_file", f"PyTorch refuses the file: {reason}", hint=SAVE_WEIGHTS) from error


def _tensors(loaded: Any, weights: Weights) -> dict[str, Tensor]:
    clean = architectures.clean_names(weights.shapes)
    found = {}
    for name, shape in weights.shapes.items():
        tensor = _at(loaded, weights.path, name)
        _check(name, tensor, shape)
        found[clean[name]] = tensor.detach()
    return found


def _at(tree: Any, path: tuple[str, ...], name: str) -> Any:
    """What is at a place; where there is no dictionary of a key, the names themselves begin with it."""
    for number, key in enumerate(path):
        if not isinstance(tree.get(key), Mapping):
            return tree[".".join((*path[number:], name))]
        tree = tree[key]
    return tree[name]


def _check(name: str, tensor: Any, shape: Shape) -> None:
    """What PyTorch made is what the outline said, and plain: dense, on the CPU, no larger than its storage."""
    is_plain = (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.dtype in students.DTYPES
    )
    if not is_plain or tuple(tensor.shape) != shape or tensor.nbytes > tensor.untyped_storage().nbytes():
        message = f"{name[:80]!r} is not a plain tensor of shape {list(shape)}."
        raise InputError("unsafe_file", message, hint=SAVE_WEIGHTS)
