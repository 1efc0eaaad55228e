"""Accuracy over epochs as points of a small SVG; the template draws it, the script moves it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 96, 14, 30
_LABEL_GAP = 16.0
_NAMES = {"student": "val/top1", "baseline": "baseline/val/top1"}

Series = dict[str, list[dict[str, Any]]]


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

    lines: list[Line]
    y_ticks: list[Tick]
    x_ticks: list[Tick]
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    bottom: int = HEIGHT - _BOTTOM


def draw(series: Series, *, teacher: float | None, epochs: int) -> Chart | None:
    """The curves of student and baseline and the teacher's level; None before the first evaluation.

    Args:
        series: points by metric name, with ``epoch`` and ``value``.
        teacher: its accuracy, a share of 1.
        epochs: the right end of the axis.
    """
    curves = {name: [(p["epoch"], p["value"]) for p in series.get(key, [])] for name, key in _NAMES.items()}
    values = [value for points in curves.values() for _, value in points]
    if not values:
        return None
    if teacher is not None:
        values.append(teacher)
        curves["teacher"] = [(0, teacher), (epochs, teacher)]
    low, high, step = _scale(min(values), max(values))

    def x(epoch: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * epoch / max(1, epochs), 1)

    def y(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low), 1)

    labels = _spread({name: y(points[-1][1]) for name, points in curves.items() if points})
    lines = [
        Line(
            name=name,
            points=" ".join(f"{x(epoch)},{y(value)}" for epoch, value in points),
            label_y=labels[name],
            label=f"{100 * points[-1][1]:.1f} %",
        )
        for name, points in curves.items()
        if points
    ]
    ticks = range(round((high - low) / step) + 1)
    return Chart(
        lines=lines,
        y_ticks=[Tick(at=y(low + i * step), text=f"{100 * (low + i * step):.0f} %") for i in ticks],
        x_ticks=[Tick(at=x(epoch), text=str(epoch)) for epoch in _epoch_ticks(epochs)],
    )


def _scale(low: float, high: float) -> tuple[float, float, float]:
    """Round ends and a round step that make two to six intervals."""
    span = max(high - low, 0.02)
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if span / s <= 5)
    bottom = math.floor(low / step + 1e-9) * step
    top = math.ceil(high / step - 1e-9) * step
    return bottom, max(top, bottom + step), step


def _epoch_ticks(epochs: int) -> list[int]:
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100, 200) if epochs / s <= 8), 500)
    return list(range(0, epochs + 1, step))


def _spread(wanted: dict[str, float]) -> dict[str, float]:
    """Label heights, moved apart where they would cover each other."""
    placed: dict[str, float] = {}
    below = -math.inf
    for name, height in sorted(wanted.items(), key=lambda pair: pair[1]):
        below = max(height + 4, below + _LABEL_GAP)
        placed[name] = round(below, 1)
    return placed
