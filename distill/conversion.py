"""From a file of ``torch.save`` to safetensors, without a reader of pickles: tensors are made of the records' bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from distill import architectures, students
from distill.architectures import Unwrap
from distill.errors import InputError
from distill.pickled import TensorOutline
from distill.torchfile import TorchFile

_MAX_GROWTH = 2  # two names may share one storage; a thousand names do not
_DTYPES = {name: dtype for dtype, name in students.DTYPES.items()}


def convert(source: Path, target: Path, *, unwrap: Unwrap = architectures.unwrap) -> None:
    """Write the network's weights of a checkpoint as safetensors, under clean names; nothing else of it is kept.

    Args:
        source: the upload.
        target: is written; a copy of the numbers stands beside it meanwhile.
        unwrap: finds the weights in the checkpoint.

    Raises:
        InputError: ``unsafe_file``, ``upload_corrupt`` or ``unsupported_format``.
    """
    copy = target.with_suffix(".numbers")
    try:
        with TorchFile(source) as file:
            weights = unwrap(file.tree)
            found = {name: file.tensor(weights.path, name) for name in weights.shapes}
            places = file.copy_to(copy, (tensor.storage for tensor in found.values()))
        _check_growth(found)
        clean = architectures.clean_names(weights.shapes)
        numbers = _mapped(copy)
        tensors = {clean[name]: _tensor(tensor, numbers, places) for name, tensor in found.items()}
        students.save(tensors, target, metadata={})
    finally:
        copy.unlink(missing_ok=True)


def _check_growth(tensors: dict[str, TensorOutline]) -> None:
    held = sum({tensor.storage.key: tensor.storage.num_bytes for tensor in tensors.values()}.values())
    if sum(tensor.num_bytes for tensor in tensors.values()) > _MAX_GROWTH * held:
        message = "The tensors share their storages so that written out they would take many times the file's size."
        raise InputError("unsafe_file", message, hint="Save contiguous tensors: tensor.contiguous().clone().")


def _mapped(path: Path) -> Tensor:
    size = path.stat().st_size
    return (
        torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
        if size
        else torch.empty(0, dtype=torch.uint8)
    )


def _tensor(outline: TensorOutline, numbers: Tensor, places: dict[str, int]) -> Tensor:
    """A view of the mapped bytes; the outline has been held to its storage, and the storage to its record."""
    storage = outline.storage
    start = places[storage.key]
    items = numbers[start : start + storage.num_bytes].view(_DTYPES[storage.dtype])
    return items.as_strided(outline.shape, outline.stride, items.storage_offset() + outline.offset)
