"""What is read of a sweep: how it stands, its jobs, and the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import ConfigDict

from api.schemas import ErrorSchema, Schema
from models import Sweep
from service import sweep_table
from service.sweep_table import Child
from service.sweep_views import Standing, standing_of
from service.sweeps import PlannedChild


class CoordinateSchema(Schema):
    """The value of one axis."""

    path: str
    label: str
    value: Any


class AxisSchema(Schema):
    """One thing that varies; labels are given or made from the values."""

    path: str
    values: list[Any]
    labels: list[str]


class SweepLinks(Schema):
    """Where to go on from a sweep."""

    self: str
    jobs: str
    cancel: str
    web: str

    @classmethod
    def of(cls, sweep_id: str) -> SweepLinks:
        here = f"/distill/sweep/{sweep_id}"
        return cls(self=here, jobs=f"/distill?sweep={sweep_id}", cancel=f"{here}/cancel", web=f"/sweeps/{sweep_id}")


class SweepSummary(Schema):
    """A sweep as lists show it. New values of status may come: rely on `is_terminal`."""

    id: str
    object: Literal["distill.sweep"] = "distill.sweep"
    name: str
    status: str
    """queued, running, and when all jobs have ended failed, cancelled or succeeded: the worst of theirs."""
    is_terminal: bool
    num_jobs: int
    counts: dict[str, int]
    """How many jobs are in each status that occurs."""
    axes: list[AxisSchema]
    created_at: datetime
    links: SweepLinks
    metadata: dict[str, str]

    @classmethod
    def of(cls, sweep: Sweep, *, standing: Standing) -> SweepSummary:
        return cls(**_summary(sweep, standing))


def _summary(sweep: Sweep, standing: Standing) -> dict[str, Any]:
    return {
        "id": sweep.id,
        "name": sweep.name,
        "status": standing.status,
        "is_terminal": standing.is_terminal,
        "num_jobs": standing.num_jobs,
        "counts": dict(sorted(standing.counts.items())),
        "axes": sweep.axes,
        "created_at": sweep.created_at,
        "links": SweepLinks.of(sweep.id),
        "metadata": sweep.labels,
    }


class ChildLinks(Schema):
    """Where a job of a sweep is."""

    self: str
    web: str


class ChildSchema(Schema):
    """A job of a sweep, in short."""

    id: str
    name: str
    status: str
    is_terminal: bool
    point: list[CoordinateSchema]
    metrics: dict[str, Any]
    """As the job has them: while it runs, best and last evaluation."""
    figures: dict[str, float | None]
    """What goes into the table, from the job's report; null until it succeeded."""
    error: ErrorSchema | None
    links: ChildLinks

    @classmethod
    def of(cls, child: Child) -> ChildSchema:
        return cls(
            id=child.id,
            name=child.name,
            status=child.status,
            is_terminal=child.is_terminal,
            point=[CoordinateSchema(**coordinate) for coordinate in child.point],
            metrics=child.metrics,
            figures=child.figures,
            error=ErrorSchema.model_validate(child.error) if child.error is not None else None,
            links=ChildLinks(self=f"/distill/{child.id}", web=f"/jobs/{child.id}"),
        )


class SpreadSchema(Schema):
    """Several measurements in short."""

    model_config = ConfigDict(from_attributes=True)

    n: int
    mean: float | None
    sd: float | None
    """Sample standard deviation, with n - 1; null for fewer than two."""


class RowSchema(Schema):
    """Jobs that differ in nothing but the seed."""

    model_config = ConfigDict(from_attributes=True)

    point: list[CoordinateSchema]
    """Of all axes but /training/seed."""
    num_jobs: int
    num_finished: int
    """How many of them succeeded; the numbers are of these."""
    is_complete: bool
    """False while jobs are missing: not ended yet, failed or cancelled."""
    figures: dict[str, SpreadSchema]
    """student_top1, teacher_top1, baseline_top1; of landmarks student_nme, teacher_nme, baseline_nme; gain (of top1
    student less baseline, of nme baseline less student), agreement, kl_to_teacher, cka, seconds (from a job's start to
    its end)."""


class SweepSchema(SweepSummary):
    """One sweep in full."""

    base: dict[str, Any]
    """The request of a job as it was sent, without what the axes bring."""
    children: list[ChildSchema]
    table: list[RowSchema]

    @classmethod
    def full(cls, sweep: Sweep, *, children: Sequence[Child]) -> SweepSchema:
        return cls(
            **_summary(sweep, standing_of(children)),
            base=sweep.base,
            children=[ChildSchema.of(child) for child in children],
            table=[RowSchema.model_validate(row, from_attributes=True) for row in sweep_table.rows(children)],
        )


class PlannedChildSchema(Schema):
    """What one job would come to."""

    name: str
    point: list[CoordinateSchema]
    total_steps: int | None
    waiting_for: str | None
    """teacher or dataset while that is being checked; the steps are not known before."""


class SweepPlanSchema(Schema):
    """What a sweep would come to; nothing was stored."""

    object: Literal["distill.sweep_plan"] = "distill.sweep_plan"
    num_jobs: int
    total_steps: int | None
    """Of all jobs, their baselines included; null while an input is being checked."""
    children: list[PlannedChildSchema]

    @classmethod
    def of(cls, planned: Sequence[PlannedChild]) -> SweepPlanSchema:
        children = [
            PlannedChildSchema(
                name=each.child.spec.name,
                point=[CoordinateSchema(**coordinate) for coordinate in each.child.candidate.point],
                total_steps=each.plan.facts.get("total_steps"),
                waiting_for=each.plan.waiting_for,
            )
            for each in planned
        ]
        steps = [child.total_steps for child in children if child.total_steps is not None]
        total = sum(steps) if len(steps) == len(children) else None
        return cls(num_jobs=len(children), total_steps=total, children=children)
