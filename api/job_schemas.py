"""What is read of a job: itself, its events, series, log lines and artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import ConfigDict

from api.schemas import ErrorSchema, Schema
from distill.spec import DistillSpec
from models import Artifact, Attempt, Job, JobEvent, JobStatus
from service.plans import Plan

EventType = Literal["status", "metric", "log", "checkpoint", "artifact", "end"]
LogLevel = Literal["info", "warning", "error"]


class QueueSchema(Schema):
    """Why a job waits."""

    position: int | None
    """1 is next."""
    waiting_for: str | None
    """teacher or dataset while that is being checked, else worker."""
    reason: str
    """The same in words, such as "2 jobs are before it" or "no live worker has a GPU"."""
    estimated_start_at: datetime | None
    """From what runs now and how long the last jobs took; null where that does not tell."""


class ProgressSchema(Schema):
    """Where a running job stands; steps count over student and baseline."""

    run: str
    """student, or baseline: the same network on labels alone."""
    epoch: int
    epochs: int
    step: int
    total_steps: int
    percent: float
    eta_seconds: float | None
    images_per_second: float


class TransitionSchema(Schema):
    """A change of status or phase."""

    at: datetime
    status: str
    phase: str | None
    reason: str | None = None


class AttemptSchema(Schema):
    """One try of a worker."""

    model_config = ConfigDict(from_attributes=True)

    n: int
    worker: str
    started_at: datetime
    heartbeat_at: datetime
    ended_at: datetime | None
    outcome: str | None
    resumed_from_step: int


class JobLinks(Schema):
    """Where to go on from a job."""

    self: str
    events: str
    metrics: str
    logs: str
    artifacts: str
    student: str
    report: str
    cancel: str
    pause: str
    resume: str
    retry: str
    clone: str
    web: str

    @classmethod
    def of(cls, job_id: str) -> JobLinks:
        here = f"/distill/{job_id}"
        names = ("events", "metrics", "logs", "artifacts", "student", "report")
        wishes = ("cancel", "pause", "resume", "retry", "clone")
        return cls(self=here, web=f"/jobs/{job_id}", **{name: f"{here}/{name}" for name in (*names, *wishes)})


class JobSummary(Schema):
    """A job as lists show it. New values of status and phase may come: rely on `is_terminal`."""

    id: str
    object: Literal["distill.job"] = "distill.job"
    name: str
    status: str
    """queued, running, pausing, paused, cancelling, succeeded, failed or cancelled."""
    is_terminal: bool
    phase: str | None
    """While running: preparing, training, evaluating, exporting."""
    status_reason: str | None
    created_at: datetime
    queued_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    progress: ProgressSchema | None
    config: DistillSpec
    """As it was sent, with defaults."""
    config_resolved: DistillSpec | None
    """With every "auto" replaced; null while an input is being checked."""
    teacher: dict[str, Any]
    student: dict[str, Any]
    dataset: dict[str, Any]
    metrics: dict[str, Any]
    """best and last evaluation of the student, the teacher's, the baseline's last, each an object of the job's one
    headline, a share of 1, and its "epoch": {"top1": 0.91, "epoch": 4}. The headline is `top1`, accuracy; for
    landmarks `nme`, the normalised mean error, of which less is better; and `agreement` with the teacher where no image
    is labelled, when there is no baseline."""
    error: ErrorSchema | None
    links: JobLinks
    metadata: dict[str, str]
    sweep_id: str | None
    """The sweep that made it, if one did: GET /distill/sweep/{id}."""
    made_from: str | None
    """The job that it retries or is a clone of."""

    @classmethod
    def of(cls, job: Job) -> JobSummary:
        return cls(**_summary(job))


class JobSchema(JobSummary):
    """One job in full."""

    estimated_finish_at: datetime | None
    queue: QueueSchema | None
    """Null once the job does not wait any more."""
    transitions: list[TransitionSchema]
    attempts: list[AttemptSchema]

    @classmethod
    def full(
        cls, job: Job, *, queue: QueueSchema | None, transitions: Sequence[JobEvent], attempts: Sequence[Attempt]
    ) -> JobSchema:
        fields = _summary(job)
        return cls(
            **fields,
            estimated_finish_at=_finish_at(fields["progress"], attempts) if job.status == JobStatus.RUNNING else None,
            queue=queue,
            transitions=[_transition(event) for event in transitions],
            attempts=[AttemptSchema.model_validate(attempt) for attempt in attempts],
        )


def _summary(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "name": job.name,
        "status": job.status,
        "is_terminal": job.is_terminal,
        "phase": job.phase,
        "status_reason": job.status_reason,
        "created_at": job.created_at,
        "queued_at": job.queued_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "progress": progress_of(job),
        "config": job.spec,
        "config_resolved": job.config_resolved,
        "teacher": job.facts.get("teacher", {"id": job.teacher_id}),
        "student": job.facts.get("student", {}),
        "dataset": job.facts.get("dataset", {"id": job.dataset_id}),
        "metrics": job.metrics,
        "error": job.error,
        "links": JobLinks.of(job.id),
        "metadata": job.labels,
        "sweep_id": job.sweep_id,
        "made_from": job.made_from,
    }


def waiting_for(job: Job) -> str | None:
    """What a queued job waits for."""
    if job.status != JobStatus.QUEUED:
        return None
    if job.dispatched_at is not None:
        return "worker"
    names = ("teacher", "dataset")
    return next((n for n in names if job.facts.get(n, {}).get("status") == "processing"), "worker")


def progress_of(job: Job) -> ProgressSchema | None:
    """Where the job stands, and how long it would take on at the present rate."""
    if job.progress is None:
        return None
    step, total = job.progress["step"], job.progress["total_steps"]
    images = (job.config_resolved or {}).get("training", {}).get("batch_size", 0)
    rate = job.progress["images_per_second"]
    known = rate > 0 and isinstance(images, int) and not job.is_terminal
    return ProgressSchema(
        **job.progress,
        percent=round(100.0 * step / total, 2) if total else 0.0,
        eta_seconds=round((total - step) * images / rate, 1) if known else None,
    )


def _finish_at(progress: ProgressSchema | None, attempts: Sequence[Attempt]) -> datetime | None:
    # Counted from the last heartbeat and not from now: an unchanged job must read the same, or its ETag would lie.
    if progress is None or progress.eta_seconds is None or not attempts:
        return None
    return attempts[-1].heartbeat_at + timedelta(seconds=progress.eta_seconds)


def _transition(event: JobEvent) -> TransitionSchema:
    data = event.data
    return TransitionSchema(at=event.at, status=data["status"], phase=data.get("phase"), reason=data.get("reason"))


class PlanSchema(Schema):
    """What a request would come to; nothing was stored."""

    object: Literal["distill.plan"] = "distill.plan"
    config_resolved: DistillSpec | None
    """Null while an input is being checked."""
    facts: dict[str, Any]
    """Of teacher, student and data set; the number of optimizer steps; `recipe_base`, whose settings each "auto" took;
    and what the recipe, if one was named, was published with."""
    waiting_for: str | None

    @classmethod
    def of(cls, plan: Plan) -> PlanSchema:
        return cls(config_resolved=plan.resolved, facts=plan.facts, waiting_for=plan.waiting_for)


class EventSchema(Schema):
    """Something that happened to a job."""

    id: int
    """Counts within the job, from 1, without gaps."""
    type: str
    at: datetime
    data: dict[str, Any]

    @classmethod
    def of(cls, event: JobEvent) -> EventSchema:
        return cls(id=event.seq, type=event.type, at=event.at, data=event.data)


class EventList(Schema):
    """Events in their order; go on with `after=<last_id>`."""

    object: Literal["list"] = "list"
    data: list[EventSchema]
    has_more: bool
    first_id: int | None
    last_id: int | None


class LogLine(Schema):
    """A line of a job's log."""

    id: int
    at: datetime
    level: str
    message: str

    @classmethod
    def of(cls, event: JobEvent) -> LogLine:
        return cls(id=event.seq, at=event.at, level=event.data["level"], message=event.data["message"])


class LogList(Schema):
    """The last lines of a job's log, in their order."""

    object: Literal["list"] = "list"
    data: list[LogLine]


class PointSchema(Schema):
    """A value at a step."""

    step: int
    epoch: int
    value: float


class MetricsSchema(Schema):
    """Series of numbers by name."""

    object: Literal["distill.metrics"] = "distill.metrics"
    job_id: str
    series: dict[str, list[PointSchema]]
    """Such as `train/loss` and `lr`; the headline of the job (`top1`, `nme` or `agreement`) as `val/<headline>` of the
    student, `baseline/val/<headline>` and `teacher/val/<headline>`."""


class ArtifactLinks(Schema):
    """Where the bytes are."""

    download: str


class ArtifactSchema(Schema):
    """A file that a job made."""

    object: Literal["distill.artifact"] = "distill.artifact"
    name: str
    size: int
    sha256: str
    content_type: str
    created_at: datetime
    links: ArtifactLinks

    @classmethod
    def of(cls, row: Artifact) -> ArtifactSchema:
        return cls(
            name=row.name,
            size=row.size,
            sha256=row.sha256,
            content_type=row.content_type,
            created_at=row.created_at,
            links=ArtifactLinks(download=f"/distill/{row.job_id}/artifacts/{row.name}"),
        )
