"""The learning rate of every step, as a pure function of the step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence


def learning_rate(
    step: int, *, total: int, peak: float, schedule: str, milestones: Sequence[int] = (), gamma: float = 0.1
) -> float:
    """The rate of an optimizer step, 0 <= step < total.

    ``step``: the peak, multiplied by ``gamma`` at each milestone, given as the first steps of a lower rate, rising.
    ``one_cycle``: a cosine from a 25th of the peak up to it over the first 30 %, then a cosine down to a
    10,000th of the start (Smith and Topin 2017, in PyTorch's form, without its momentum cycle).
    """
    if schedule == "constant":
        return peak
    if schedule == "step":
        return peak * gamma ** bisect_right(milestones, step)
    if schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * step / total))
    low, final = peak / 25.0, peak / 25.0e4
    turn = max(0.3 * total - 1.0, 1e-9)
    if step <= turn:
        return peak + (low - peak) * 0.5 * (1.0 + math.cos(math.pi * step / turn))
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * (step - turn) / max(1.0, total - 1 - turn)))
