"""What the service answers, typed as far as the client and the command read it; more fields may come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict


class Upload(TypedDict, total=False):
    """A file on its way, or arrived."""

    id: str
    filename: str
    bytes: int
    offset: int
    sha256: str
    status: str


class Input(TypedDict, total=False):
    """A teacher or a data set; ``status`` is processing, ready or error."""

    id: str
    status: str
    sha256: str
    architecture: str
    options: dict[str, Any]
    classes: list[str] | None
    preprocessing: dict[str, Any]
    format: str
    error: dict[str, Any] | None


class Progress(TypedDict, total=False):
    """Where a running job stands; seconds, and images of one run."""

    run: str
    epoch: int
    epochs: int
    step: int
    total_steps: int
    percent: float
    eta_seconds: float | None
    images_per_second: float


class Job(TypedDict, total=False):
    """One submitted run."""

    id: str
    name: str
    status: str
    is_terminal: bool
    phase: str | None
    status_reason: str | None
    queue: dict[str, Any] | None
    progress: Progress | None
    metrics: dict[str, Any]
    config: dict[str, Any]
    config_resolved: dict[str, Any] | None
    error: dict[str, Any] | None
    links: dict[str, str]


class Figures(TypedDict, total=False):
    """One network in the report: shares of 1, counts, bytes, milliseconds for one image on the CPU."""

    top1: float
    top5: float
    ece: float
    per_class: list[float | None]
    nmi_to_labels: float
    nme: float
    failure_rate: float
    auc: float
    nme_to_teacher: float
    agreement: float
    kl_to_teacher: float
    cka: float
    nmi_to_teacher: float
    parameters: int
    binary_parameters: int
    macs: int
    binary_macs: int
    operations: int
    bytes: int
    latency_ms: float


class Published(TypedDict):
    """What the recipe of a job was published with; shares of 1."""

    recipe: str
    title: str
    top1: float
    teacher_top1: float | None
    baseline_top1: float | None
    rivals: dict[str, float]
    source: str
    departures: list[str]


class Report(TypedDict, total=False):
    """Teacher, student and plainly trained student side by side."""

    teacher: Figures
    student: Figures
    baseline: Figures | None
    published: Published | None
    task: str
    head: str
    method: str


class Coordinate(TypedDict):
    """The value of one axis of a sweep."""

    path: str
    label: str
    value: Any


class SweepChild(TypedDict, total=False):
    """A job of a sweep; ``figures`` are None until it succeeded."""

    id: str
    name: str
    status: str
    is_terminal: bool
    point: list[Coordinate]
    metrics: dict[str, Any]
    figures: dict[str, float | None]
    error: dict[str, Any] | None


class Spread(TypedDict):
    """Several measurements in short; ``sd`` is of the sample, None for fewer than two."""

    n: int
    mean: float | None
    sd: float | None


class SweepRow(TypedDict, total=False):
    """Jobs that differ in nothing but the seed."""

    point: list[Coordinate]
    num_jobs: int
    num_finished: int
    is_complete: bool
    figures: dict[str, Spread]


class Sweep(TypedDict, total=False):
    """Many jobs by one request, and their comparison."""

    id: str
    name: str
    status: str
    is_terminal: bool
    num_jobs: int
    counts: dict[str, int]
    axes: list[dict[str, Any]]
    children: list[SweepChild]
    table: list[SweepRow]
    links: dict[str, str]


@dataclass(frozen=True)
class JobEvent:
    """One event of a job; ``id`` grows within the job, so that a reader can go on behind it."""

    id: int
    type: str
    data: dict[str, Any]
