"""What training yields, in order, and how it travels as one JSON line. Free of torch.

``step`` counts optimizer steps over the whole job, the student's first and the baseline's after
them, so that it only ever grows. ``epoch`` counts within one run, from 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

RunName = Literal["student", "baseline"]
PhaseName = Literal["preparing", "training", "evaluating", "exporting"]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The job enters a phase; ``run`` says which student while training."""

    phase: PhaseName
    run: RunName | None = None


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """What ``auto`` became once device, teacher and data were seen; JSON pointers to values."""

    values: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where the job stands; at most a few a second, never stored as history."""

    run: RunName
    epoch: int
    epochs: int
    step: int
    total_steps: int
    images_per_second: float


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Named values at a step. Names: ``train/loss``, ``val/top1``, ``baseline/val/top1``, ``lr``, ...

    What stands behind ``val/`` is the job's headline, one of :data:`distill.headlines.HEADLINES`.
    """

    step: int
    epoch: int
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Log:
    """A line for people."""

    level: Literal["info", "warning", "error"]
    message: str


@dataclass(frozen=True, kw_only=True)
class Alive:
    """Work goes on that takes no steps: a batch was evaluated, or shown to the teacher. Nothing is recorded of it."""


@dataclass(frozen=True, kw_only=True)
class Degraded:
    """Training goes on, but something is wrong that an operator should mend; until the next checkpoint is written."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that would survive a power cut now lies in the work folder."""

    step: int
    epoch: int
    run: RunName


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A finished file that is worth keeping, to be copied before the next event is taken."""

    name: str
    path: str
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, kw_only=True)
class Report:
    """Teacher, student and plainly trained student side by side."""

    report: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Training goes on from a checkpoint."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The run cannot go on; ``error`` is ``DistillError.as_json()``."""

    error: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Everything asked for has been yielded."""

    step: int = field(default=0)


Event = (
    Phase
    | Resolved
    | Progress
    | Metric
    | Log
    | Alive
    | Degraded
    | Checkpoint
    | Artifact
    | Report
    | Resumed
    | Failed
    | Finished
)
T = TypeVar("T")
_TYPES: dict[str, type[Event]] = {t.__name__.lower(): t for t in get_args(Event)}


def to_json(event: Event) -> dict[str, Any]:
    """The event as a flat object with its lower-case class name under ``event``."""
    return {"event": type(event).__name__.lower(), **dataclasses.asdict(event)}


def from_json(data: dict[str, Any]) -> Event:
    """The inverse of :func:`to_json`.

    Raises:
        KeyError: the object names no known event.
    """
    fields = dict(data)
    return _TYPES[fields.pop("event")](**fields)


def result(stream: Generator[Event, None, T]) -> T:
    """What a stream comes to, for who does not want to hear its events."""
    while True:
        try:
            next(stream)
        except StopIteration as stop:
            found: T = stop.value
            return found
