"""Before the first step: load, prove, refuse what cannot work, and decide what was left to ``auto``."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill import events, preflight
from distill.anatomy import LAST
from distill.batch import POOLED
from distill.data.augment import Augmentation, AugmentationName
from distill.data.packed import PackedDataset
from distill.data.placing import gather, per_batch, place
from distill.errors import InputError
from distill.evaluation import Answers
from distill.method_specs import CEMethod, ExtraMethod, KDMethod, KDSettings, SRRLMethod
from distill.pairs import Sizes, sizes_of
from distill.plan import BANK_BYTES
from distill.prepared import Prepared
from distill.registry import load_start
from distill.runs import Material, draw_views
from distill.spec import DistillSpec, LandmarkSpec
from distill.taps import anatomy_of, prove_resumable
from distill.tasks import Classification, Landmarks, Task
from distill.teacher_files import TeacherFile, load_teacher, prove_teacher, teacher_input
from distill.teachers import BANK_BATCH, Teacher, feature_bank
from distill.viewing import ImagePreparation, input_shape, other_size, seen_shape

_PROBE_IMAGES = 64
_NUM_TOLD = 5


def prepare(
    spec: DistillSpec, *, teacher: TeacherFile, dataset_path: Path, start_path: Path | None = None, device: str
) -> Generator[events.Event, None, Prepared]:
    """Make ready; the events say what was found.

    Args:
        start_path: the weights that ``spec.student.init`` names.

    Raises:
        InputError: weights that do not fit, a head that is not linear, an unreadable data set.
        RunError: ``teacher_below_chance``.
    """
    place = choose_device(device)
    data = PackedDataset.load(dataset_path)
    precision = choose_precision(spec.training.precision, place)
    loaded = load_teacher(teacher, data, device=place, precision=precision)
    master = loaded.teacher
    probe = data.test_images[:_PROBE_IMAGES].to(place)
    prove_teacher(master, probe)
    began = time.monotonic()
    found = yield from preflight.ask(master, data.test_images, place)
    seconds_per_image = (time.monotonic() - began) / len(data.test_images)
    task = _task(spec, data, found)
    student_shape = input_shape(spec.student.name, options=spec.student.options, data=data)
    yield from preflight.check(loaded, task, data, device=place, seconds_per_image=seconds_per_image)
    yield events.Metric(step=0, epoch=0, values={f"teacher/val/{task.headline}": task.score(found)})
    prepared = Prepared(
        material=_material(spec, data, master, place, image_size=student_shape[1:]),
        teacher=master,
        teacher_sizes=_sizes_of(master.tap.network, master.prepare(probe[:2]), side="teacher"),
        nonnegative=_nonnegative(master, probe, found),
        task=task,
        teacher_answers=found,
        classes=data.classes,
        num_outputs=master.classifier.out_features,
        mean=data.mean_C.tolist(),
        std=data.std_C.tolist(),
        in_channels=data.in_channels,
        teacher_shape=seen_shape(teacher_input(teacher, master.tap.network)[0], data),
        student_shape=student_shape,
        precision="bf16" if precision == torch.bfloat16 else "fp32",
        extra=(),
    )
    if start_path is not None:
        start, said = _start(spec, start_path, prepared)
        yield events.Log(level="info", message=said)
        prepared = replace(prepared, start=start)
    _sizes_of(prepared.student(spec), torch.zeros(2, *student_shape), side="student")
    prepared = replace(prepared, extra=_necessary(spec, prepared))
    for term in prepared.extra:
        message = f"{term.type} is added: without labels the student's own classifier learns from the teacher's logits."
        yield events.Log(level="info", message=message)
    resolved = prepared.resolve(spec)
    needs = prepared.objective(resolved.method, prepared.student(resolved)).teacher_needs
    _prove_stages(resolved, prepared, probe)
    material = yield from _with_bank(prepared.material, master, needs=needs)
    prepared = replace(prepared, material=material)
    yield events.Resolved(values=_resolved(resolved, prepared.material))
    return prepared


def choose_device(name: str) -> torch.device:
    """``auto`` is cuda, else mps, else cpu."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is bf16 where the hardware computes in it."""
    if name == "auto":
        fast = (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)) or (
            device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        )
        name = "bf16" if fast else "fp32"
    return torch.bfloat16 if name == "bf16" else torch.float32


def _start(spec: DistillSpec, path: Path, prepared: Prepared) -> tuple[dict[str, Tensor], str]:
    """The weights that every student of the job starts from, and what is to be said of them.

    Raises:
        InputError: as :func:`distill.registry.load_start`.
    """
    network = prepared.student(spec)
    found = load_start(
        network, path, student=spec.student, num_classes=prepared.num_outputs, in_channels=prepared.in_channels
    )
    said = "Student and baseline start from the uploaded weights"
    if found.ignored:
        said = f"Left out of the uploaded file: {', '.join(found.ignored[:_NUM_TOLD])}. {said}"
    if found.keeps_head:
        return network.state_dict(), f"{said}, their own classifier included."
    heads = anatomy_of(network).classifiers
    start = {name: value for name, value in network.state_dict().items() if name.rpartition(".")[0] not in heads}
    return start, (
        f"{said} without their classifier, which is for {found.num_classes} classes and not {prepared.num_outputs}: "
        "that one starts at random."
    )


def _sizes_of(network: nn.Module, images_BCHW: Tensor, *, side: str) -> Sizes:
    """As :func:`distill.pairs.sizes_of`.

    Raises:
        InputError: ``invalid_value``, the network cannot take such images: too small for its strides, say.
    """
    try:
        return sizes_of(network, images_BCHW)
    except (RuntimeError, AssertionError, ValueError) as error:
        shape = " x ".join(map(str, images_BCHW.shape[1:]))
        reason = (str(error).splitlines() or [""])[0][:200]
        raise InputError(
            "invalid_value",
            f"The {side} cannot take images of {shape}: {reason}",
            hint="Take a network for images of this size; GET /networks tells what each is made for.",
            param=f"/{side}/architecture" if side == "student" else "/teacher",
        ) from error


def _task(spec: DistillSpec, data: PackedDataset, teacher: Answers) -> Task:
    if data.markup is None:
        return Classification(labels_N=data.test_labels, teacher=teacher)
    assert data.train_points is not None
    assert data.test_points is not None
    asked = spec.landmarks or LandmarkSpec()
    return Landmarks(
        points_NLD=data.test_points,
        image_size=data.image_size,
        normaliser=data.markup.normaliser if asked.normaliser == "auto" else asked.normaliser,
        loss=asked.loss,
        mean_shape_LD=data.train_points.mean(dim=0),
        teacher=teacher,
    )


def _prove_stages(spec: DistillSpec, prepared: Prepared, images_BCHW: Tensor) -> None:
    """L_SR from an earlier stage needs that nothing reaches around it.

    Raises:
        InputError: ``teacher_head_unsupported``.
    """
    extra = [] if isinstance(spec.method, CEMethod) else spec.method.extra
    for method in (spec.method, *extra):
        if isinstance(method, SRRLMethod):
            settings = method.srrl
            names = [name for name in settings.regression_stages or settings.stages if name != LAST]
            prove_resumable(prepared.teacher.tap, names=names, images_BCHW=prepared.teacher.prepare(images_BCHW))


def _nonnegative(teacher: Teacher, images_BCHW: Tensor, found: Answers) -> frozenset[str]:
    """The features that are never below zero: the pooled one on all evaluation images, the maps on a few."""
    names = teacher.tap.anatomy.maps
    maps = teacher.features(images_BCHW, maps=names).maps
    positive = {name for name, value in maps.items() if float(value.min()) >= 0.0}
    return frozenset(positive | ({POOLED} if float(found.pooled_NC.min()) >= 0.0 else set()))


def _necessary(spec: DistillSpec, prepared: Prepared) -> tuple[ExtraMethod, ...]:
    """Without labels the student's own classifier learns from the teacher's logits, or not at all."""
    if isinstance(spec.method, CEMethod) or bool((prepared.material.targets_N >= 0).any()):
        return ()
    objective = prepared.objective(spec.method, prepared.student(spec))
    if objective.trains_logits:
        return ()
    return (KDMethod(type="kd", kd=KDSettings(weight=1.0)),)


def _material(
    spec: DistillSpec, data: PackedDataset, teacher: Teacher, device: torch.device, *, image_size: tuple[int, int]
) -> Material:
    training = spec.training
    images = place(data.train_images, device=device)
    augmentation = Augmentation(cast(AugmentationName, training.augmentation), image_size=data.image_size)
    views = None
    if isinstance(training.views, int):
        views = draw_views(augmentation, num_images=len(images), num_views=training.views, seed=training.seed)
    return Material(
        training=training,
        device=device,
        precision=teacher.precision,
        images_NCHW=images,
        targets_N=(data.train_labels if data.train_points is None else data.train_points).to(device),
        test_images_NCHW=data.test_images,
        augmentation=augmentation,
        views_NV=None if views is None else views.to(device),
        bank=None,
        teacher=teacher,
        prepare=ImagePreparation(
            mean_C=data.mean_C.to(device), std_C=data.std_C.to(device), size=other_size(image_size, than=data)
        ),
        flip_pairs=None if data.markup is None else data.markup.flip_pairs,
    )


def _with_bank(
    material: Material, teacher: Teacher, *, needs: frozenset[str]
) -> Generator[events.Event, None, Material]:
    """The same, with the teacher's features of all views where they are few and fit."""
    views, images = material.views_NV, material.images_NCHW
    if views is None or not needs or views.shape[1] > material.epochs:
        return material
    num_views = views.shape[1]
    one = teacher.features(images[:1].to(material.device), maps=needs - {POOLED})
    numbers = one.pooled_BC.numel() + sum(value.numel() for value in one.maps.values())
    if len(images) * num_views * numbers * 4 > BANK_BYTES:
        return material

    def view(indices: Tensor, slot: int) -> Tensor:
        return material.augmentation.apply(gather(images, indices, device=material.device), views[indices, slot])

    bank = yield from feature_bank(
        teacher,
        num_images=len(images),
        num_views=num_views,
        view=view,
        maps=needs - {POOLED},
        batch_size=per_batch(images, at_most=BANK_BATCH),
        device=material.device,
    )
    return replace(material, bank=bank)


def _resolved(spec: DistillSpec, material: Material) -> dict[str, Any]:
    return {
        "training": spec.training.model_dump(mode="json"),
        "method": spec.method.model_dump(mode="json"),
        "runtime": {
            "device": str(material.device),
            "device_name": torch.cuda.get_device_name(material.device) if material.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "teacher": "features computed once" if material.bank is not None else "computed at every step",
        },
    }
