"""The network that a request leaves to a budget: chosen when teacher and data are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

from distill import architectures, compatibility
from distill.architectures import AUTO, ONNX
from distill.compatibility import Side
from distill.errors import InputError
from distill.proposals import Candidate, Place, Suits, measure, propose, smallest
from distill.spec import Budget, DistillSpec, NetworkOptions, StudentSpec
from models import Teacher
from service.data_facts import DataFacts
from service.errors import Invalid


@lru_cache(maxsize=10_000)  # a sweep asks of the same few hundred networks for each of its jobs
def side(name: str, options: NetworkOptions) -> Side:
    """What is known of a network without building it."""
    blueprint = architectures.blueprint(name, options=options)
    return Side(name=name, num_stages=len(blueprint.widths), pools=blueprint.pools)


def teacher_side(teacher: Teacher) -> Side:
    """The same of a teacher, which may be an ONNX file, or not known yet."""
    if teacher.architecture == AUTO:
        return Side(name="the teacher", num_stages=None, pools=None)
    if teacher.architecture == ONNX:
        return Side(name="an ONNX file", num_stages=0, pools=teacher.report.get("pools"))
    return side(teacher.architecture, NetworkOptions.model_validate(teacher.options))


def candidates(spec: DistillSpec, *, teacher: Teacher, data: DataFacts) -> list[Candidate]:
    """The named student with its figures, or the best three within the budget, the best first.

    Networks that the method cannot use are passed over, unless it can use none.

    Raises:
        Invalid: ``invalid_value``, no network is within the budget.
    """
    place = _place(teacher, data)
    budget = spec.student.budget
    if budget is None:
        return [measure(spec.student.name, spec.student.options, place)]
    found = propose(budget, place, suits=_usable(spec, teacher)) or propose(budget, place, suits=_any)
    if not found:
        raise Invalid([_too_small(budget, place)])
    return found


def with_student(spec: DistillSpec, chosen: Candidate) -> DistillSpec:
    """The request with a named student in place of the budget."""
    student = StudentSpec(architecture=chosen.name, options=chosen.options)
    return spec.model_copy(update={"student": student})


def facts_of(budget: Budget, found: Sequence[Candidate]) -> dict[str, Any]:
    """What a job keeps of its budget: what was asked for, and what was proposed, ready for JSON."""
    return {"asked": budget.limits, "proposed": [as_json(candidate) for candidate in found]}


def as_json(candidate: Candidate) -> dict[str, Any]:
    """As the API shows it."""
    shares = {name: round(share, 4) for name, share in candidate.used.items()}
    return asdict(candidate) | {
        "options": candidate.options.model_dump(mode="json"),
        "stages": list(candidate.stages),
        "used": shares,
    }


def _place(teacher: Teacher, data: DataFacts) -> Place:
    return Place(
        teacher=teacher.architecture,
        teacher_options=NetworkOptions.model_validate(teacher.options),
        teacher_parameters=teacher.report.get("parameters"),
        num_classes=teacher.num_classes,
        in_channels=teacher.in_channels,
        image_size=data.image_size,
        classes=data.classes,
    )


def _usable(spec: DistillSpec, teacher: Teacher) -> Suits:
    master = teacher_side(teacher)

    def suits(name: str, options: NetworkOptions) -> bool:
        return not compatibility.check_method(spec.method, student=side(name, options), teacher=master)

    return suits


def _any(name: str, options: NetworkOptions) -> bool:
    return True


def _too_small(budget: Budget, place: Place) -> InputError:
    nearest = smallest(budget, place, suits=_any)
    hint = "Name an architecture instead."
    if nearest is not None:
        wanted = {"parameters": nearest.parameters, "macs": nearest.macs, "file_bytes": nearest.file_bytes}
        figures = ", ".join(f"{name} {wanted[name]:,}" for name in budget.limits)
        hint = f"The least that the zoo needs is {nearest.name} of width {nearest.options.width:g}: {figures}."
    return InputError(
        "invalid_value",
        "No network of the zoo is within the budget and smaller than the teacher.",
        hint=hint,
        param="/student/budget",
    )
