"""Whether a trainer still gets on: told by the time since it last said anything."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Sequence

from distill import events

_TIMES_THE_MEDIAN = 10
_MEMORY = 100
_LOOK = 2.0
"""Seconds between two looks that count at most: while the worker itself was held up, it heard nobody."""


class Watchdog:
    """Measures silence against the pace of the trainer's own steps.

    Args:
        least: seconds of silence that are always allowed; ten times that before the first step.
        now: on the monotonic clock, in seconds.
    """

    def __init__(self, *, least: float, now: float) -> None:
        self._least = least
        self._looked = now
        self._silence = 0.0
        self._step, self._since_step = 0, 0.0
        self._paces: deque[float] = deque(maxlen=_MEMORY)

    def look(self, heard: Sequence[events.Event], *, now: float) -> None:
        """Take note of what came since the last look, nothing included."""
        passed = min(now - self._looked, _LOOK)
        self._looked = now
        self._silence = 0.0 if heard else self._silence + passed
        self._since_step += passed
        step = max((each.step for each in heard if isinstance(each, (events.Progress, events.Metric))), default=0)
        if step > self._step:
            self._paces.append(self._since_step)
            self._step, self._since_step = step, 0.0

    @property
    def limit(self) -> float:
        """Seconds of silence that are allowed now."""
        if not self._paces:
            return self._least * _TIMES_THE_MEDIAN
        return max(self._least, _TIMES_THE_MEDIAN * statistics.median(self._paces))

    @property
    def is_over(self) -> bool:
        """Whether the silence has been too long."""
        return self._silence > self.limit
