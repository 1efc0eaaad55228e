"""The comparison that a sweep is made for: means and deviations over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from models import TERMINAL, JobStatus
from service.sweep_figures import FIGURES, SEED_PATH, gain


@dataclass(frozen=True, kw_only=True)
class Child:
    """A job of a sweep, as the comparison sees it."""

    id: str
    name: str
    status: str
    point: list[dict[str, Any]]
    metrics: dict[str, Any]
    progress: dict[str, Any] | None
    error: dict[str, Any] | None
    started_at: datetime | None
    finished_at: datetime | None
    reported: dict[str, float | None]
    """Of ``sweep_figures.REPORTED``; all None before the report."""

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def figures(self) -> dict[str, float | None]:
        """Of ``sweep_figures.FIGURES``, all None unless the job succeeded: half a training is no measurement."""
        if self.status != JobStatus.SUCCEEDED:
            return dict.fromkeys(FIGURES)
        seconds = (self.finished_at - self.started_at).total_seconds() if self.finished_at and self.started_at else None
        found = {**self.reported, "gain": gain(self.reported), "seconds": seconds}
        return {name: found[name] for name in FIGURES}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Several measurements in short."""

    n: int
    mean: float | None
    """None without any."""
    sd: float | None
    """Of the sample, with n - 1; None for fewer than two."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What differs in nothing but the seed."""

    point: list[dict[str, Any]]
    """Of all axes but the seed's."""
    num_jobs: int
    num_finished: int
    figures: dict[str, Spread]

    @property
    def is_complete(self) -> bool:
        """Whether all its jobs succeeded; while they have not, the numbers may still move or lack some."""
        return self.num_finished == self.num_jobs


def rows(children: Sequence[Child]) -> list[Row]:
    """One row for each combination of all axes but the seed's, in the order of the jobs."""
    groups: dict[tuple[str, ...], list[Child]] = {}
    for child in children:
        groups.setdefault(tuple(c["label"] for c in _without_seed(child.point)), []).append(child)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Child]) -> Row:
    measured = [child.figures for child in group]
    return Row(
        point=_without_seed(group[0].point),
        num_jobs=len(group),
        num_finished=sum(child.status == JobStatus.SUCCEEDED for child in group),
        figures={name: spread(each[name] for each in measured) for name in FIGURES},
    )


def _without_seed(point: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [dict(coordinate) for coordinate in point if coordinate["path"] != SEED_PATH]


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and sample standard deviation of the values that are there."""
    known = [value for value in values if value is not None]
    n = len(known)
    mean = math.fsum(known) / n if n else None
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1)) if mean is not None and n > 1 else None
    return Spread(n=n, mean=mean, sd=sd)
