"""The headline over epochs as points of a small SVG; the template draws it, the script moves it."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

from distill.headlines import HEADLINES, Headline

WIDTH, HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 96, 14, 30
_LABEL_GAP = 16.0
_MAX_VALUE = 1e4
"""Beyond it nothing is told apart: a chart of anything at all must come to something."""
_MAX_HEADROOM = 4.0
"""A falling curve may begin so many times above its end; higher points leave the picture, or the end were flat."""

Series = dict[str, list[dict[str, Any]]]
_Curve = list[tuple[int, float]]


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: its points as SVG wants them, and where its label stands."""

    name: str
    points: str
    label_y: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Everything the template draws."""

    title: str
    lines: list[Line]
    y_ticks: list[Tick]
    x_ticks: list[Tick]
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


def draw(series: Series, *, headline: Headline = HEADLINES["top1"], teacher: float | None, epochs: int) -> Chart | None:
    """The curves of student and baseline and the teacher's level; None before the first evaluation.

    Args:
        series: points by metric name, with ``epoch`` and ``value``.
        headline: which of the metrics is drawn.
        teacher: its value, a share of 1.
        epochs: the right end of the axis.
    """
    curves = {
        "student": _curve(series.get(headline.metric("student"), [])),
        "baseline": _curve(series.get(headline.metric("baseline"), [])),
    }
    if not any(curves.values()):
        return None
    if teacher is not None:
        curves["teacher"] = _curve([{"epoch": 0, "value": teacher}, {"epoch": epochs, "value": teacher}])
    curves = {name: curve for name, curve in curves.items() if curve}
    low, high, step = _scale(*_range(list(curves.values()), falls=headline.falls))

    def x(epoch: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * epoch / max(1, epochs), 1)

    def y(value: float) -> float:
        height = HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low)
        return round(max(height, -float(HEIGHT)), 1)

    labels = _spread({name: y(curve[-1][1]) for name, curve in curves.items()})
    lines = [
        Line(
            name=name,
            points=" ".join(f"{x(epoch)},{y(value)}" for epoch, value in curve),
            label_y=labels[name],
            label=f"{100 * curve[-1][1]:.{headline.decimals}f} %",
        )
        for name, curve in curves.items()
    ]
    ticks = [low + i * step for i in range(round((high - low) / step) + 1)]
    return Chart(
        title=headline.title,
        lines=lines,
        y_ticks=[Tick(at=y(tick), text=f"{100 * tick:.0f} %") for tick in ticks],
        x_ticks=[Tick(at=x(epoch), text=str(epoch)) for epoch in _epoch_ticks(epochs)],
    )


def _curve(points: list[dict[str, Any]]) -> _Curve:
    return [
        (point["epoch"], max(-_MAX_VALUE, min(point["value"], _MAX_VALUE)))
        for point in points
        if math.isfinite(point["value"])
    ]


def _range(curves: list[_Curve], *, falls: bool) -> tuple[float, float]:
    """Lowest and highest value that must be seen."""
    values = [value for curve in curves for _, value in curve]
    low, high = min(values), max(values)
    if falls:
        highest_end = max(curve[-1][1] for curve in curves)
        high = min(high, max(highest_end, _MAX_HEADROOM * highest_end))
    return low, high


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Round ends and a round step that make one to seven intervals."""
    span = max(high - low, 0.02)
    steps = (digit * 10.0**power for power in itertools.count(-2) for digit in (1, 2, 5))
    step = next(s for s in steps if span / s <= 5)
    bottom = math.floor(low / step + 1e-9) * step
    top = math.ceil(high / step - 1e-9) * step
    return bottom, max(top, bottom + step), step


def _epoch_ticks(epochs: int) -> list[int]:
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100, 200) if epochs / s <= 8), 500)
    return list(range(0, epochs + 1, step))


def _spread(wanted: dict[str, float]) -> dict[str, float]:
    """Label heights, moved apart where they would cover each other, and up where they would leave the picture."""
    placed: dict[str, float] = {}
    lowest = -math.inf
    for name, height in sorted(wanted.items(), key=lambda pair: pair[1]):
        lowest = placed[name] = max(height + 4, lowest + _LABEL_GAP)
    limit = HEIGHT - 6.0
    for name in reversed(placed):
        placed[name] = round(min(placed[name], limit), 1)
        limit = placed[name] - _LABEL_GAP
    return placed
