"""What is read of a request's cost before it is posted."""

from __future__ import annotations

from typing import Any, Literal

from api.schemas import Schema
from distill.spec import DistillSpec, NetworkOptions
from service import budgets
from service.plans import Plan


class CandidateSchema(Schema):
    """A network that the student may be."""

    name: str
    options: NetworkOptions
    parameters: int
    macs: int | None
    """Multiply-adds of one image of the data's size; null where they are not known."""
    file_bytes: int
    """What the student's file has at most, with its own classifier; a little less in truth."""
    stages: list[int]
    """Output channels of each stage."""
    used: dict[str, float]
    """What of each figure of the budget it uses, as shares of 1; empty without a budget."""


class MemorySchema(Schema):
    """Memory on the training device for the data; networks, gradients and activations come on top."""

    images_bytes: int
    """All images of all splits."""
    teacher_features_bytes: int | None
    """The teacher's features of every view, computed once; 0 where it is asked at every step or not at all; null where
    the method reads maps too, whose sizes are known only when the job starts."""


class EstimateSchema(Schema):
    """What a request comes to, as far as that can be computed; nothing was stored. It tells no seconds: how fast a
    worker is shows only when it trains."""

    object: Literal["distill.estimate"] = "distill.estimate"
    students: list[CandidateSchema]
    """The student with its figures; with a budget the best three, the first of which POST /distill takes. Empty while
    an input is being checked."""
    config_resolved: DistillSpec | None
    """Of the first of them; null while an input is being checked."""
    total_steps: int | None
    """Optimizer steps of student and baseline."""
    memory: MemorySchema | None
    warnings: list[str]
    waiting_for: str | None
    """teacher or dataset while that is being checked."""

    @classmethod
    def of(cls, plan: Plan) -> EstimateSchema:
        memory: dict[str, Any] | None = plan.memory
        return cls(
            students=[CandidateSchema(**budgets.as_json(student)) for student in plan.students],
            config_resolved=plan.resolved,
            total_steps=plan.facts.get("total_steps"),
            memory=None if memory is None else MemorySchema(**memory),
            warnings=plan.warnings,
            waiting_for=plan.waiting_for,
        )
