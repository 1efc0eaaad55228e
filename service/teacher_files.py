"""What an uploaded file of weights is, by its outline alone: names, shapes, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import architectures
from distill.architectures import Unwrap, Weights
from distill.errors import InputError
from distill.pickled import SAVE_WEIGHTS
from distill.tensorfile import read_header
from distill.torchfile import TorchFile, kind_of
from service.settings import settings

_PICKLED = "pytorch"


@dataclass(frozen=True)
class Found:
    """The weights in a file.

    Attributes:
        weights: by name.
        format: ``safetensors`` or ``pytorch``.
    """

    weights: Weights
    format: str

    def report(self) -> dict[str, Any]:
        """For the teacher's report: which dictionary was taken, and what was not."""
        return {"format": self.format, **self.weights.report()}


def look(path: Path, *, unwrap: Unwrap = architectures.unwrap) -> Found:
    """Find the weights in an upload, whatever its name.

    Args:
        unwrap: finds them among dictionaries and names.

    Raises:
        InputError: ``unsupported_format``, it is a pickle and LIMBECK_ALLOW_PICKLE is not set, or of the old format;
            ``upload_corrupt`` or ``unsafe_file``.
    """
    kind = kind_of(path)
    if kind == "other":
        return Found(unwrap(read_header(path).shapes), "safetensors")
    check_allowed()
    if kind == "pickle":
        raise InputError(
            "unsupported_format",
            "This is a pickle without a zip around it, as PyTorch wrote before version 1.6.",
            hint="Load it with a current PyTorch and save it again. " + SAVE_WEIGHTS,
        )
    with TorchFile(path) as file:
        return Found(unwrap(file.tree), _PICKLED)


def is_pickled(report: Mapping[str, Any]) -> bool:
    """Whether an upload has to be converted, by the report of a teacher or what a job keeps of its start."""
    return bool(report.get("file", {}).get("format") == _PICKLED)


def check_request(request: Mapping[str, Any]) -> None:
    """Whether this machine's operator, too, lets an input be prepared: workers have settings of their own.

    Raises:
        InputError: ``unsupported_format``.
    """
    if request.get("pickled"):
        check_allowed()


def check_allowed() -> None:
    """Whether the operator lets pickles in.

    Raises:
        InputError: ``unsupported_format``.
    """
    if not settings().allow_pickle:
        raise InputError(
            "unsupported_format",
            "Not a usable safetensors file: this is a pickle or a zip of pickles, which can carry code.",
            hint=(
                "Save it with safetensors.torch.save_file(network.state_dict(), path), or have the operator set "
                "LIMBECK_ALLOW_PICKLE=1."
            ),
        )
