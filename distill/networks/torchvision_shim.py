"""Importing torchvision beside a PyTorch without CUDA.

PyPI's torchvision is built for CUDA. Beside a CPU-only PyTorch its compiled part does not load, and the import
ends in "operator torchvision::nms does not exist", since two operators get implementations without having
schemas. With the schemas defined all that timm wants of torchvision works; non-maximum suppression itself,
and reading and writing images, do not. A torchvision that imports by itself is left alone.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

import torch

_LOST_OPERATORS = ("nms", "qnms")
_libraries: list[torch.library.Library] = []  # a definition lives as long as the object that made it


def import_torchvision() -> ModuleType:
    """torchvision, with the schemas of its lost operators where it does not import without them.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
        RuntimeError: it fails for another reason.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    _drop_half_imported()
    _define_lost_operators()
    return importlib.import_module("torchvision")


def _drop_half_imported() -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]


def _define_lost_operators() -> None:
    library = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for operator in _LOST_OPERATORS:
        schema = f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)
