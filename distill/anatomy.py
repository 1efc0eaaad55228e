"""Where a network's parts are, in names of modules: what the taps hook and the methods read. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Layout = Literal["nchw", "nhwc", "tokens"]
"""How a map lies in a tensor: (B, C, H, W), (B, H, W, C), or (B, N, C) row by row behind some prefix tokens."""

LAST = "last"
"""The name of the last map, the input of global pooling."""


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """A network's own declaration of its stages, its pooling and its head.

    Attributes:
        stages: modules in a row whose outputs are the stages' maps, the first stage first; stage 1 is the
            paper's conv2. Empty where a network has no such row.
        pooling: the module whose input is the last map, averaged over its places for the classifier;
            None where the classifier reads something else (a class token, say).
        classifiers: the last linear layers; where there are several, the mean of their logits is the answer.
            Empty where the answer is not that.
        layout: of the stages' outputs; one of three dimensions is always ``tokens``.
        pooling_layout: of the last map.
        pooled_output: whether the last map is the output of ``pooling`` instead of its input: so where a
            function does the averaging, not a module.
        num_prefix_tokens: class and register tokens before the places, where a map has them.
    """

    stages: tuple[str, ...]
    pooling: str | None
    classifiers: tuple[str, ...]
    layout: Layout = "nchw"
    pooling_layout: Layout = "nchw"
    pooled_output: bool = False
    num_prefix_tokens: int = 0

    @property
    def maps(self) -> dict[str, str]:
        """Name of a map -> module: ``stage1``, ``stage2``, ... and, where it is pooled, ``last``."""
        found = dict(zip(stage_names(len(self.stages)), self.stages, strict=True))
        return found | ({LAST: self.pooling} if self.pooling is not None else {})


def stage_names(num_stages: int) -> tuple[str, ...]:
    """``stage1`` to ``stageN``."""
    return tuple(f"stage{number}" for number in range(1, num_stages + 1))
