"""Before the first step: load, prove, refuse what cannot work, and decide what was left to ``auto``."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import architectures, events
from distill.anatomy import LAST
from distill.architectures import ONNX, ImageInput, Preprocessing
from distill.batch import POOLED
from distill.data.augment import Augmentation, AugmentationName, normalize
from distill.data.packed import PackedDataset
from distill.errors import InputError
from distill.evaluation import Answers, answers
from distill.method_specs import CEMethod, ExtraMethod, KDMethod, KDSettings, SRRLMethod
from distill.networks.opaque import OpaqueNetwork
from distill.pairs import Sizes, sizes_of
from distill.plan import BANK_BYTES
from distill.prepared import Prepared, Shape
from distill.registry import build_network, load_start, load_weights
from distill.reporting import num_parameters
from distill.runs import Material, draw_views
from distill.spec import DistillSpec, LandmarkSpec, NetworkOptions
from distill.taps import Tap, anatomy_of, linear_head, prove, prove_resumable
from distill.tasks import Classification, Landmarks, Task
from distill.teachers import Teacher, feature_bank, freeze

_PROBE_IMAGES = 64
_NOISE_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class TeacherFile:
    """A teacher's weights and what they are weights of."""

    path: Path
    architecture: str
    options: NetworkOptions
    num_classes: int
    in_channels: int


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
    master = load_teacher(teacher, data, device=place, precision=precision)
    probe = data.test_images[:_PROBE_IMAGES].to(place)
    prove_teacher(master, probe)
    found = _ask(master, data.test_images, place)
    task = _task(spec, data, found)
    student_shape = input_shape(spec.student.name, options=spec.student.options, data=data)
    said = task.check()
    yield events.Metric(step=0, epoch=0, values={f"teacher/val/{task.headline}": task.score(found)})
    yield events.Log(level="info", message=said)
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
        teacher_shape=_seen_shape(_teacher_input(teacher, master.tap.network)[0], data),
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
    prepared = replace(prepared, material=_with_bank(prepared.material, master, needs=needs))
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


def open_teacher(file: TeacherFile) -> tuple[nn.Module, dict[str, str]]:
    """A teacher's network, frozen, on the CPU, and its file's metadata.

    Raises:
        InputError: the weights do not fit the architecture, or are not finite.
    """
    if file.architecture == ONNX:
        graph = _open_onnx(file.path)
        return freeze(graph), graph.metadata
    network = build_network(
        file.architecture, options=file.options, num_classes=file.num_classes, in_channels=file.in_channels
    )
    metadata = load_weights(network, file.path)
    return freeze(network), metadata


def _open_onnx(path: Path) -> OpaqueNetwork:
    try:
        from distill.networks.onnx_network import OnnxNetwork
    except ImportError as error:
        raise InputError(
            "unsupported_format",
            "ONNX files need onnx and onnxruntime, which the worker does not have.",
            hint="pip install limbeck[onnx]",
            param="/teacher/architecture",
        ) from error
    return OnnxNetwork(path)


def _teacher_input(file: TeacherFile, network: nn.Module) -> tuple[ImageInput, Preprocessing]:
    """The images that a teacher takes, and how its architecture normalises them."""
    if isinstance(network, OpaqueNetwork):
        return network.input, Preprocessing()
    blueprint = architectures.blueprint(file.architecture, options=file.options)
    return blueprint.input, blueprint.preprocessing


def load_teacher(file: TeacherFile, data: PackedDataset, *, device: torch.device, precision: torch.dtype) -> Teacher:
    """The frozen teacher, which sees images as it was trained to.

    Normalised by the ``mean`` and ``std`` named in its file, else by those that its architecture is published
    with, else by the data set's; scaled where it takes one size only.

    Raises:
        InputError: the weights do not fit the architecture, or are not finite.
    """
    network, metadata = open_teacher(file)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    own, published = _teacher_input(file, network)
    mean, std = data.mean_C, data.std_C
    if "mean" in metadata and "std" in metadata:
        mean, std = (torch.tensor(json.loads(metadata[key]), dtype=torch.float32) for key in ("mean", "std"))
    elif published.mean is not None and published.std is not None and len(published.mean) == data.in_channels:
        mean, std = torch.tensor(published.mean), torch.tensor(published.std)
    size = _seen_shape(own, data)[1:]
    prepare_images = normaliser(mean.to(device), std.to(device), size=_other(size, than=data))
    head = linear_head(network).requires_grad_(False)
    return Teacher(Tap(network, maps=anatomy_of(network).maps), head, prepare_images, precision)


def input_shape(architecture: str, *, options: NetworkOptions, data: PackedDataset) -> Shape:
    """(C, H, W) of the images as a network sees them: the data set's, unless it takes one size only; in pixels."""
    return _seen_shape(architectures.blueprint(architecture, options=options).input, data)


def _seen_shape(own: ImageInput, data: PackedDataset) -> Shape:
    return (data.in_channels, *((own.height, own.width) if own.fixed else data.image_size))


def _other(size: tuple[int, int], *, than: PackedDataset) -> tuple[int, int] | None:
    return size if size != than.image_size else None


def normaliser(mean_C: Tensor, std_C: Tensor, *, size: tuple[int, int] | None = None) -> Callable[[Tensor], Tensor]:
    """Uint8 images (B, C, H, W) to normalised float ones, channels last; scaled to ``size``, (height, width)."""

    def prepare_images(images_BCHW: Tensor) -> Tensor:
        normalised = normalize(images_BCHW, mean_C, std_C)
        if size is None:
            return normalised
        return F.interpolate(normalised, size=size, mode="bilinear", align_corners=False, antialias=True)

    return prepare_images


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
    if found.keeps_head:
        return network.state_dict(), f"{said}, classifier included."
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


def prove_teacher(teacher: Teacher, images_BCHW: Tensor) -> None:
    """The two-sided proof of :func:`distill.taps.prove`, in float32 whatever the training's precision.

    Raises:
        InputError: ``teacher_head_unsupported``.
    """
    prove(teacher.tap, teacher.classifier, images_BCHW=teacher.prepare(images_BCHW))


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


def _ask(teacher: Teacher, images_NCHW: Tensor, device: torch.device) -> Answers:
    def look(images: Tensor) -> tuple[Tensor, Tensor]:
        seen = teacher.features(images)
        return seen.logits_BK, seen.pooled_BC

    return answers(look, images_NCHW, device=device)


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
    images = data.train_images.to(device)
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
        prepare=normaliser(data.mean_C.to(device), data.std_C.to(device), size=_other(image_size, than=data)),
        flip_pairs=None if data.markup is None else data.markup.flip_pairs,
    )


def _with_bank(material: Material, teacher: Teacher, *, needs: frozenset[str]) -> Material:
    """The same, with the teacher's features of all views where they are few and fit."""
    views, images = material.views_NV, material.images_NCHW
    if views is None or not needs or views.shape[1] > material.epochs:
        return material
    num_views = views.shape[1]
    one = teacher.features(images[:1], maps=needs - {POOLED})
    numbers = one.pooled_BC.numel() + sum(value.numel() for value in one.maps.values())
    if len(images) * num_views * numbers * 4 > BANK_BYTES:
        return material

    def view(indices: Tensor, slot: int) -> Tensor:
        return material.augmentation.apply(images.index_select(0, indices), views[indices, slot])

    bank = feature_bank(
        teacher, num_images=len(images), num_views=num_views, view=view, maps=needs - {POOLED}, device=material.device
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


def _first_check(network: nn.Module) -> str:
    if not isinstance(network, OpaqueNetwork):
        return "names and shapes fit"
    said = "the graph holds standard operations and its own weights"
    return f"{said}; the {network.squashed} at its end is left out" if network.squashed else said


def check_teacher_file(file: TeacherFile) -> dict[str, Any]:
    """Load a teacher and prove its head on noise, before any data is known; what the check found.

    Raises:
        InputError: weights that do not fit or are not finite, or a head that is not linear.
    """
    network, metadata = open_teacher(file)
    own, _ = _teacher_input(file, network)
    size = (own.height, own.width) if own.fixed else (_NOISE_SIDE, _NOISE_SIDE)
    noise = torch.randn(8, file.in_channels or own.channels, *size, generator=torch.Generator().manual_seed(0))
    tap = Tap(network, maps=anatomy_of(network).maps)
    prove(tap, linear_head(network), images_BCHW=noise)
    with torch.no_grad():
        seen = tap(noise)
    if not seen.logits_BK.isfinite().all():
        raise InputError("upload_corrupt", "The network answers NaN or infinity.", param="/teacher")
    head = linear_head(network)
    return {
        "num_classes": head.out_features,
        "in_channels": noise.shape[1],
        "feature_width": head.in_features,
        "parameters": num_parameters(network),
        "pools": tap.anatomy.pooling is not None,
        "checks": [_first_check(network), "all values are finite", "W p + b are the logits"],
        "smallest_feature": float(seen.pooled_BC.min()),
        "normalisation": {k: json.loads(metadata[k]) for k in ("mean", "std") if k in metadata} or None,
    }
