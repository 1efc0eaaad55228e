"""What a hostile file is: its bytes, how it is sent, and how it must be refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True)
class Hostile:
    """One file, made anew at each call.

    Attributes:
        code: the published code that it is refused with; None: it is odd but harmless, and becomes ready.
        build: its bytes.
        filename: as it is uploaded.
        by_worker: its outline is sound, so that only the worker can find it out.
        purpose: what it is uploaded as.
        asked: the rest of the body of ``POST /teachers`` or ``POST /datasets``.
    """

    code: str | None
    build: Callable[[], bytes]
    filename: str = "teacher.pth"
    by_worker: bool = False
    purpose: Literal["teacher", "dataset"] = "teacher"
    asked: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({"architecture": "resnet8"}))


def dataset(
    code: str | None, build: Callable[[], bytes], filename: str, *, by_worker: bool = False, format: str = "auto"
) -> Hostile:
    """A file that is sent as a data set."""
    return Hostile(code, build, filename, by_worker or code is None, "dataset", {"format": format})
