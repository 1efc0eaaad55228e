"""What a job's runs share once everything is loaded and proven, and how their networks and objectives are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from distill.anatomy import LAST
from distill.batch import POOLED
from distill.evaluation import Answers
from distill.method_specs import CEMethod, ExtraMethod, MethodSpec, SRRLMethod
from distill.objective import Objective
from distill.pairs import Pair, Sizes, sizes_of
from distill.registry import build_network, build_objective
from distill.runs import Material
from distill.spec import DistillSpec
from distill.tasks import Landmarks, Task
from distill.teachers import Teacher
from distill.viewing import Shape


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that training reads and nothing that it changes."""

    material: Material
    teacher: Teacher
    teacher_sizes: Sizes
    nonnegative: frozenset[str]
    task: Task
    teacher_answers: Answers
    classes: list[str]
    num_outputs: int
    mean: list[float]
    std: list[float]
    in_channels: int
    teacher_shape: Shape
    """(C, H, W) of the images as the teacher sees them; in pixels."""
    student_shape: Shape
    """The same of the student: the data set's own, unless the network takes one size only."""
    precision: str
    extra: tuple[ExtraMethod, ...]
    """Methods that the data make necessary beside those that were asked for."""
    start: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights by name that every student has before its first step; what it lacks, all of it if empty, is random."""

    @property
    def task_name(self) -> str:
        """``classification`` or ``landmarks``."""
        return "landmarks" if isinstance(self.task, Landmarks) else "classification"

    def student(self, spec: DistillSpec) -> nn.Module:
        """A student before its first step; what it does not start from a file with has the random numbers of now."""
        network = build_network(
            spec.student.name,
            options=spec.student.options,
            num_classes=self.num_outputs,
            in_channels=self.in_channels,
        )
        if self.start:
            network.load_state_dict(dict(self.start), strict=False)  # held to the network when it was read
        return network

    def objective(self, method: MethodSpec, network: nn.Module) -> Objective:
        """What a student descends on by a method; with layers and a copy of the teacher's classifier of its own."""
        classifier = nn.Linear(self.teacher.classifier.in_features, self.teacher.classifier.out_features)
        classifier.load_state_dict(self.teacher.classifier.state_dict())
        pair = Pair(
            student=sizes_of(network, torch.zeros(2, *self.student_shape)),
            teacher=self.teacher_sizes,
            classifier=classifier,
            resume=self.teacher.resume,
            nonnegative=self.nonnegative,
            labels_N=self.material.targets_N,
            epochs=self.material.epochs,
            output_scale=self.task.output_scale,
        )
        return build_objective(method, pair=pair, label_loss=self.task.label_loss, label_part=self.task.label_part)

    def resolve(self, spec: DistillSpec) -> DistillSpec:
        """The spec without its last ``auto``, and with what the data made necessary."""
        where = {"precision": self.precision, "device": self.material.device.type}
        training = spec.training.model_copy(update=where)
        method = spec.method
        if isinstance(method, SRRLMethod) and method.srrl.activation == "auto":
            stages = {*(method.srrl.feature_stages or method.srrl.stages)}
            stages |= {*(method.srrl.regression_stages or method.srrl.stages)}
            found = {(POOLED if name == LAST else name) in self.nonnegative for name in stages}
            if len(found) == 1:  # else each stage has its own, which is told in the log
                settings = method.srrl.model_copy(update={"activation": "relu" if found.pop() else "none"})
                method = method.model_copy(update={"srrl": settings})
        if not isinstance(method, CEMethod):
            known = {method.type, *(term.type for term in method.extra)}
            added = [term for term in self.extra if term.type not in known]
            method = method.model_copy(update={"extra": [*method.extra, *added]})
        return spec.model_copy(update={"training": training, "method": method})
