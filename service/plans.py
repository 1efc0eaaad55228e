"""Whether a request can be done with these inputs, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy.orm import Session

from distill import architectures, plan
from distill.errors import DistillError, InputError
from distill.spec import DatasetFormat, DatasetRef, DistillSpec, NetworkOptions, TeacherRef
from models import Dataset, InputStatus, Teacher
from service import inputs, presets
from service.errors import Invalid
from service.inputs import Kind


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A request that fits its inputs."""

    teacher: Teacher
    dataset: Dataset
    new_rows: Sequence[Teacher | Dataset]
    """Inputs that the request itself brought; to be stored with the job."""
    resolved: DistillSpec | None
    """None while an input is still being prepared."""
    facts: dict[str, Any]

    @property
    def waiting_for(self) -> str | None:
        """``teacher`` or ``dataset`` while one is being prepared."""
        for name, row in (("teacher", self.teacher), ("dataset", self.dataset)):
            if row.status == InputStatus.PROCESSING:
                return name
        return None


@dataclass(frozen=True, kw_only=True)
class Brought:
    """The inputs that a request brings along, checked in outline, and what is wrong with them."""

    teacher: Teacher | None
    dataset: Dataset | None
    errors: list[DistillError]


def bring(spec: DistillSpec) -> Brought:
    """Look into the uploads or the preset that a request names; before the transaction, since files take time."""
    errors: list[DistillError] = []
    teacher = dataset = None
    try:
        if spec.teacher.upload_id is not None:
            teacher = inputs.new_teacher(
                spec.teacher.upload_id,
                architecture=spec.teacher.architecture or "",
                options=spec.teacher.options,
                at="/teacher",
            )
            teacher.status = InputStatus.PROCESSING
    except Invalid as invalid:
        errors.extend(invalid.errors)
    try:
        if spec.dataset.upload_id is not None:
            dataset = inputs.new_dataset(spec.dataset.upload_id, format=spec.dataset.format, at="/dataset")
            dataset.status = InputStatus.PROCESSING
        elif spec.dataset.preset is not None:
            dataset = presets.new_dataset(spec.dataset.preset, format=spec.dataset.format, at="/dataset")
    except Invalid as invalid:
        errors.extend(invalid.errors)
    return Brought(teacher=teacher, dataset=dataset, errors=errors)


def make(session: Session, spec: DistillSpec, *, brought: Brought) -> Plan:
    """Find the inputs and hold them against the request.

    Raises:
        Invalid: everything that is wrong, each with its pointer.
    """
    errors = list(brought.errors)
    teacher = brought.teacher or _known(session, Teacher, spec.teacher.id, errors)
    dataset = _prepared_before(session, brought.dataset) or brought.dataset
    dataset = dataset or _known(session, Dataset, spec.dataset.id, errors)
    try:
        architectures.check(spec.student.architecture, param="/student/architecture")
    except InputError as error:
        errors.append(error)
    if errors or teacher is None or dataset is None:
        raise Invalid(errors)
    new_rows = [row for row in (teacher, dataset) if row in (brought.teacher, brought.dataset)]
    return fit(spec, teacher=teacher, dataset=dataset, new_rows=new_rows)


def fit(spec: DistillSpec, *, teacher: Teacher, dataset: Dataset, new_rows: Sequence[Teacher | Dataset] = ()) -> Plan:
    """Hold a request against its inputs, as far as they are ready.

    Raises:
        Invalid: teacher and data do not belong together.
    """
    facts: dict[str, Any] = {"teacher": _network_facts(teacher.architecture, teacher.options, teacher, dataset)}
    facts["student"] = _network_facts(
        spec.student.architecture, spec.student.options.model_dump(mode="json"), teacher, dataset
    )
    facts["dataset"] = {"id": dataset.id, "sha256": dataset.sha256, "status": dataset.status}
    facts["teacher"] |= {"id": teacher.id, "sha256": teacher.sha256, "status": teacher.status}
    resolved = None
    if dataset.status == InputStatus.READY:
        _check_pair(teacher, dataset)
        splits = dataset.report["splits"]
        num_unlabeled = splits.get("train_unlabeled", {}).get("images", 0)
        num_images = splits["train"]["images"] + num_unlabeled
        resolved = plan.resolve(spec, num_images=num_images).model_copy(
            update={"teacher": TeacherRef(id=teacher.id), "dataset": DatasetRef(id=dataset.id, format=_format(dataset))}
        )
        facts["dataset"] |= {
            "train": num_images,
            "train_unlabeled": num_unlabeled,
            "test": splits["test"]["images"],
            "classes": len(dataset.report["classes"]),
            "image": dataset.report["image"],
        }
        facts["total_steps"] = plan.total_steps(resolved, num_images=num_images)
    return Plan(teacher=teacher, dataset=dataset, new_rows=new_rows, resolved=resolved, facts=facts)


def _prepared_before(session: Session, row: Dataset | None) -> Dataset | None:
    """What an earlier request made of the same preset, so that its images are packed once."""
    return presets.same(session, row) if row is not None and presets.name_of(row) is not None else None


def _known(session: Session, kind: type[Kind], input_id: str | None, errors: list[DistillError]) -> Kind | None:
    """The row of an id; what is wrong with it goes to ``errors``."""
    if input_id is None:
        return None
    name = kind.__name__.lower()
    found = session.get(kind, input_id)
    if found is None:
        errors.append(InputError("not_found", f"No {name} {input_id!r}.", param=f"/{name}/id", hint=f"GET /{name}s"))
    elif found.status == InputStatus.ERROR and found.error is not None:
        error = InputError.from_json(found.error)
        error.param = f"/{name}/id"
        errors.append(error)
    return found


def _format(dataset: Dataset) -> DatasetFormat:
    return cast(DatasetFormat, dataset.format)


def _check_pair(teacher: Teacher, dataset: Dataset) -> None:
    classes = len(dataset.report["classes"])
    if classes and teacher.num_classes != classes:  # without labels there are no classes to compare
        raise Invalid(
            [
                InputError(
                    "teacher_head_mismatch",
                    f"The teacher has {teacher.num_classes} classes, the data set {classes}.",
                    hint="Use a teacher that was trained on these classes, or the data of its classes.",
                    param="/teacher/id",
                )
            ]
        )
    channels = dataset.report["image"]["channels"]
    if teacher.in_channels != channels:
        raise Invalid(
            [
                InputError(
                    "state_dict_mismatch",
                    f"The teacher takes images of {teacher.in_channels} channels, the data set's have {channels}.",
                    hint="Convert the images to the teacher's colour mode.",
                    param="/dataset/id",
                )
            ]
        )


def _network_facts(architecture: str, options: dict[str, Any], teacher: Teacher, dataset: Dataset) -> dict[str, Any]:
    chosen = NetworkOptions.model_validate(options)
    image = dataset.report.get("image")
    facts: dict[str, Any] = {
        "architecture": architecture,
        "options": options,
        "num_classes": teacher.num_classes,
        "parameters": architectures.parameters(
            architecture, options=chosen, num_classes=teacher.num_classes, in_channels=teacher.in_channels
        ),
        "feature_width": architectures.feature_width(architecture, options=chosen),
    }
    if image is not None:
        facts["macs"] = architectures.macs(
            architecture,
            options=chosen,
            num_classes=teacher.num_classes,
            in_channels=teacher.in_channels,
            image_size=(image["height"], image["width"]),
        )
    return facts
