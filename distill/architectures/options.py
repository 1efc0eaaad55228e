"""What may be varied about a network of the zoo."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Options(Protocol):
    """What may be varied; ``distill.spec.NetworkOptions`` is one."""

    @property
    def width(self) -> float: ...
    @property
    def stem_stride(self) -> int: ...


@dataclass(frozen=True)
class PlainOptions:
    """The options of a network as its name says."""

    width: float = 1.0
    stem_stride: int = 1


PLAIN = PlainOptions()


def scaled(channels: int, width: float, *, multiple: int = 1) -> int:
    """Channels times width, rounded (halves up) to a multiple that is at least ``multiple`` itself."""
    return multiple * max(1, math.floor(channels * width / multiple + 0.5))
