"""Whether a request can be done with these inputs, and what it comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from sqlalchemy.orm import Session

from distill import architectures, compatibility, plan, traits
from distill.architectures import AUTO, ONNX
from distill.errors import DistillError, InputError
from distill.method_specs import SimKDSettings, settings_of
from distill.proposals import Candidate
from distill.published import published
from distill.spec import DatasetFormat, DatasetRef, DistillSpec, NetworkOptions, StudentInit, TeacherRef
from models import Dataset, InputStatus, Teacher
from service import budgets, hub, inputs, presets, remote, sources, starts
from service.data_facts import DataFacts
from service.errors import Invalid
from service.inputs import Kind
from service.starts import StartFile

_HEAD_NOT_COUNTED = (
    "The student classifies with the teacher's layer: its connector and that layer come on top of parameters, "
    "multiply-adds and bytes."
)
Ref = TypeVar("Ref", TeacherRef, DatasetRef, StudentInit)


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
    students: Sequence[Candidate]
    """The student with its figures, and the next best within the budget; empty while an input is being prepared."""

    @property
    def memory(self) -> dict[str, Any] | None:
        """Bytes on the training device that follow from the request: ``images_bytes``, ``teacher_features_bytes``."""
        if self.resolved is None:
            return None
        data, width = DataFacts.of(self.dataset), self.facts["teacher"]["feature_width"]
        features = plan.bank_bytes(self.resolved, num_images=data.num_images, feature_width=width)
        return {"images_bytes": data.image_bytes, "teacher_features_bytes": features}

    @property
    def needs_bytes(self) -> int:
        """Of memory on the training device, at least; 0 while that is not known."""
        return sum(filter(None, (self.memory or {}).values()))

    @property
    def warnings(self) -> list[str]:
        """What the figures leave out."""
        settings = None if self.resolved is None else settings_of(self.resolved.method)
        takes_head = getattr(settings, "head", "own") == "teacher" or isinstance(settings, SimKDSettings)
        return [_HEAD_NOT_COUNTED] if takes_head else []

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
    start: StartFile | None
    errors: list[DistillError]


Found = Teacher | Dataset | StartFile
Seen = dict[str, Found | Invalid]
"""What uploads were found to be, by what a request says of them."""


def bring(spec: DistillSpec, *, seen: Seen | None = None) -> Brought:
    """Look into the uploads, the preset or the URL that a request names; before the transaction, since files take time.

    Args:
        spec: the request.
        seen: shared by several requests, it makes them share the rows of the uploads that they share.
    """
    seen = {} if seen is None else seen
    found = (
        _once(seen, spec.teacher, _new_teacher) if spec.teacher.id is None else None,
        _once(seen, spec.dataset, _new_dataset) if spec.dataset.id is None else None,
        _once(seen, spec.student.init, starts.look) if spec.student.init is not None else None,
    )
    return Brought(
        teacher=next((row for row in found if isinstance(row, Teacher)), None),
        dataset=next((row for row in found if isinstance(row, Dataset)), None),
        start=next((file for file in found if isinstance(file, StartFile)), None),
        errors=[error for each in found if isinstance(each, Invalid) for error in each.errors],
    )


def _once(
    seen: Seen, ref: Ref, look: Callable[[Ref], Teacher | Dataset | StartFile]
) -> Teacher | Dataset | StartFile | Invalid:
    key = f"{type(ref).__name__} {ref.model_dump_json()}"
    if key not in seen:
        try:
            seen[key] = look(ref)
        except Invalid as invalid:
            seen[key] = invalid
    return seen[key]


def _new_teacher(ref: TeacherRef) -> Teacher:
    if ref.hub is not None:
        row = hub.new_teacher(ref.hub, revision=ref.revision, traits=ref.traits, at="/teacher")
    else:
        row = inputs.new_teacher(ref.upload_id or "", architecture=ref.architecture, traits=ref.traits, at="/teacher")
    row.status = InputStatus.PROCESSING
    return row


def _new_dataset(ref: DatasetRef) -> Dataset:
    if ref.preset is not None:
        row = presets.new_dataset(ref.preset, format=ref.format, max_broken_share=ref.max_broken_share, at="/dataset")
    elif ref.url is not None:
        row = remote.new_dataset(
            ref.url, sha256=ref.sha256, format=ref.format, max_broken_share=ref.max_broken_share, at="/dataset"
        )
    else:
        row = inputs.new_dataset(
            ref.upload_id or "", format=ref.format, max_broken_share=ref.max_broken_share, at="/dataset"
        )
    row.status = InputStatus.PROCESSING
    return row


def make(session: Session, spec: DistillSpec, *, brought: Brought) -> Plan:
    """Find the inputs and hold them against the request.

    Raises:
        Invalid: everything that is wrong, each with its pointer.
    """
    errors = list(brought.errors)
    teacher = brought.teacher or _known(session, Teacher, spec.teacher.id, errors)
    dataset = _prepared_before(session, brought.dataset) or brought.dataset
    dataset = dataset or _known(session, Dataset, spec.dataset.id, errors)
    if spec.student.budget is None:
        try:
            architectures.check(spec.student.name, options=spec.student.options, param="/student/architecture")
        except InputError as error:
            errors.append(error)
    if errors or teacher is None or dataset is None:
        raise Invalid(errors)
    new_rows = [row for row in (teacher, dataset) if row in (brought.teacher, brought.dataset)]
    start = None
    if brought.start is not None:
        try:
            start = starts.facts_of(brought.start, spec.student, teacher=teacher)
        except InputError as error:
            raise Invalid([error]) from error
    return fit(spec, teacher=teacher, dataset=dataset, start=start, new_rows=new_rows)


def fit(
    spec: DistillSpec,
    *,
    teacher: Teacher,
    dataset: Dataset,
    start: dict[str, Any] | None = None,
    new_rows: Sequence[Teacher | Dataset] = (),
) -> Plan:
    """Hold a request against its inputs, as far as they are ready.

    Args:
        start: of the weights that the student starts from, as :func:`service.starts.facts_of` tells it.

    Raises:
        Invalid: teacher and data do not belong together, or the method fits neither; everything that is found.
    """
    # Of a teacher whose header tells nothing, too little is known to plan with until it is checked.
    is_known = dataset.status == InputStatus.READY and teacher.num_classes > 0
    data = DataFacts.of(dataset) if is_known else None
    budget = spec.student.budget
    students = [] if data is None else budgets.candidates(spec, teacher=teacher, data=data)
    if budget is not None and students:
        spec = budgets.with_student(spec, students[0])
    errors = [
        *(_method_errors(spec, teacher, data) if spec.student.budget is None else ()),
        *_output_errors(spec),
        *(_pair_errors(spec, teacher, data) if data is not None else ()),
    ]
    if errors:
        raise Invalid(errors)
    facts: dict[str, Any] = {
        "teacher": _teacher_facts(teacher, data),
        "student": {"init": start, "budget": None if budget is None else budgets.facts_of(budget, students)},
    }
    if spec.student.budget is None:
        facts["student"] |= _network_facts(spec.student.name, spec.student.options, teacher, data)
    facts["dataset"] = {"id": dataset.id, "sha256": dataset.sha256, "status": dataset.status}
    facts["teacher"] |= {"id": teacher.id, "sha256": teacher.sha256, "status": teacher.status}
    resolved = None
    if data is not None:
        resolved = plan.resolve(
            spec,
            num_images=data.num_images,
            num_labelled=data.num_labelled,
            image_size=data.image_size,
            can_flip=data.can_flip,
            normaliser=data.normaliser,
        ).model_copy(
            update={"teacher": TeacherRef(id=teacher.id), "dataset": DatasetRef(id=dataset.id, format=_format(dataset))}
        )
        facts["dataset"] |= data.facts
        facts["recipe_base"] = plan.base_of(spec, num_images=data.num_images, image_size=data.image_size).name
        facts["published"] = published(resolved, teacher=teacher.architecture, num_classes=teacher.num_classes)
        counts = {"num_images": data.num_images, "num_labelled": data.num_labelled}
        facts["total_steps"] = plan.total_steps(resolved, **counts)
    return Plan(teacher=teacher, dataset=dataset, new_rows=new_rows, resolved=resolved, facts=facts, students=students)


def _method_errors(spec: DistillSpec, teacher: Teacher, data: DataFacts | None) -> list[InputError]:
    student = budgets.side(spec.student.name, spec.student.options)
    master = budgets.teacher_side(teacher)
    return compatibility.check_method(
        spec.method,
        student=student,
        teacher=master,
        task="classification" if data is None else data.task,
        is_labelled=data is None or data.num_labelled > 0,
    )


def _output_errors(spec: DistillSpec) -> Iterator[InputError]:
    methods = [spec.method.type, *(term.type for term in getattr(spec.method, "extra", ()))]
    if "connector" in spec.outputs and "srrl" not in methods:
        yield InputError(
            "invalid_value",
            f"The connector is srrl's, and {spec.method.type} has none.",
            hint="Leave it out, or take srrl as the method or in its extra.",
            param=f"/outputs/{spec.outputs.index('connector')}",
        )


def _prepared_before(session: Session, row: Dataset | None) -> Dataset | None:
    """What an earlier request made of the same preset, so that its images are packed once."""
    return presets.same(session, row) if row is not None and sources.of(row).preset is not None else None


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


def _pair_errors(spec: DistillSpec, teacher: Teacher, data: DataFacts) -> Iterator[InputError]:
    yield from _head_errors(teacher, data)
    yield from _student_errors(spec, data)
    yield from _landmark_errors(spec, data)
    if teacher.in_channels != data.image["channels"]:
        yield InputError(
            "state_dict_mismatch",
            f"The teacher takes images of {teacher.in_channels} channels, the data set's have "
            f"{data.image['channels']}.",
            hint="Convert the images to the teacher's colour mode.",
            param="/dataset/id",
        )


def _head_errors(teacher: Teacher, data: DataFacts) -> Iterator[InputError]:
    """Without labels and points there is nothing that the teacher's outputs could not fit."""
    if data.task == "landmarks" and teacher.num_classes != 2 * data.num_points:
        yield InputError(
            "teacher_head_mismatch",
            f"The teacher has {teacher.num_classes} outputs; {data.num_points} points need {2 * data.num_points}, "
            "x and y of each in turn.",
            hint="Use a teacher that was trained on these points, or the data of its points.",
            param="/teacher/id",
        )
    elif data.num_classes and teacher.num_classes != data.num_classes:
        yield InputError(
            "teacher_head_mismatch",
            f"The teacher has {teacher.num_classes} classes, the data set {data.num_classes}.",
            hint="Use a teacher that was trained on these classes, or the data of its classes.",
            param="/teacher/id",
        )
    else:
        try:
            traits.check_class_names(teacher.classes, data.classes)
        except InputError as error:
            yield error


def _student_errors(spec: DistillSpec, data: DataFacts) -> Iterator[InputError]:
    name = spec.student.name
    blueprint = architectures.blueprint(name, options=spec.student.options)
    if not blueprint.has_linear_head:
        yield InputError(
            "invalid_value",
            f"The logits of {name} are not linear in one penultimate feature, which every method reads.",
            hint="Take a network that GET /networks gives roles.",
            param="/student/architecture",
        )
    if not blueprint.takes_channels(data.image["channels"]):
        yield InputError(
            "invalid_value",
            f"{name} takes images in colour only, and the data set's have {data.image['channels']} channels.",
            hint="Take another network, or send the images in colour.",
            param="/student/architecture",
        )


def _landmark_errors(spec: DistillSpec, data: DataFacts) -> Iterator[InputError]:
    if spec.landmarks is not None and data.task != "landmarks":
        yield InputError(
            "invalid_value", "The data set has classes, not points.", hint="Leave it out.", param="/landmarks"
        )
    if data.task != "landmarks":
        return
    normaliser = spec.landmarks.normaliser if spec.landmarks is not None else "auto"
    if not isinstance(normaliser, str) and not (max(normaliser) < data.num_points and len(set(normaliser)) == 2):
        yield InputError(
            "invalid_value",
            f"{list(normaliser)} are not two of the {data.num_points} points, counted from 0.",
            hint='Two different points, "box" or "auto".',
            param="/landmarks/normaliser",
        )
    if "flip" in spec.training.augmentation and not data.can_flip:
        yield InputError(
            "invalid_value",
            "It is not known which points change places in a mirrored image.",
            hint='Give flip_pairs with the data set, or ask for "crop" or "none".',
            param="/training/augmentation",
        )


def _teacher_facts(teacher: Teacher, data: DataFacts | None) -> dict[str, Any]:
    options = NetworkOptions.model_validate(teacher.options)
    if teacher.architecture not in (AUTO, ONNX):
        return _network_facts(teacher.architecture, options, teacher, data)
    return {
        "architecture": teacher.architecture,
        "options": teacher.options,
        "num_classes": teacher.num_classes or None,
        "parameters": teacher.report.get("parameters"),
        "feature_width": teacher.report.get("feature_width"),
    }


def _network_facts(
    architecture: str, options: NetworkOptions, teacher: Teacher, data: DataFacts | None
) -> dict[str, Any]:
    """Of a network for the teacher's classes and the data's images, as far as both are known."""
    facts: dict[str, Any] = {
        "architecture": architecture,
        "options": options.model_dump(mode="json"),
        "num_classes": teacher.num_classes or None,
        "feature_width": architectures.feature_width(architecture, options=options),
    }
    if not teacher.num_classes:
        return facts
    size: dict[str, Any] = {
        "options": options,
        "num_classes": teacher.num_classes,
        "in_channels": teacher.in_channels,
    }
    facts["parameters"] = architectures.parameters(architecture, **size)
    if data is not None:
        facts["macs"] = architectures.macs(architecture, image_size=data.image_size, **size)
    return facts
