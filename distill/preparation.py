"""Before the first step: load, prove, refuse what cannot work, and decide what was left to ``auto``."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill import events
from distill.data.augment import Augmentation, AugmentationName, normalize
from distill.data.packed import PackedDataset
from distill.errors import InputError
from distill.evaluation import Answers, answers
from distill.registry import build_network, load_weights
from distill.runs import Material, draw_views
from distill.spec import DistillSpec, NetworkOptions, SRRLMethod
from distill.taps import Tap, prove
from distill.teachers import Teacher, check_above_chance, feature_bank, freeze

_BANK_BYTES = 2 * 2**30
_PROBE_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class TeacherFile:
    """A teacher's weights and what they are weights of."""

    path: Path
    architecture: str
    options: NetworkOptions
    num_classes: int
    in_channels: int


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Everything that training reads and nothing that it changes."""

    material: Material
    teacher: Teacher
    teacher_answers: Answers
    test_labels_N: Tensor
    classes: list[str]
    mean: list[float]
    std: list[float]
    in_channels: int
    image_shape: tuple[int, int, int]
    activation: str
    precision: str

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def resolve(self, spec: DistillSpec) -> DistillSpec:
        """The spec without its last ``auto``."""
        training = spec.training.model_copy(update={"precision": self.precision})
        method = spec.method
        if isinstance(method, SRRLMethod):
            settings = method.srrl.model_copy(update={"activation": self.activation})
            method = method.model_copy(update={"srrl": settings})
        return spec.model_copy(update={"training": training, "method": method})


def prepare(
    spec: DistillSpec, *, teacher: TeacherFile, dataset_path: Path, device: str
) -> Generator[events.Event, None, Prepared]:
    """Make ready; the events say what was found.

    Raises:
        InputError: weights that do not fit, a head that is not linear, an unreadable data set.
        RunError: ``teacher_below_chance``.
    """
    place = choose_device(device)
    data = PackedDataset.load(dataset_path)
    precision = choose_precision(spec.training.precision, place)
    master = load_teacher(teacher, data, device=place, precision=precision)
    prove_teacher(master, data.test_images[:_PROBE_IMAGES].to(place))
    found = _ask(master, data.test_images, place)
    accuracy = check_above_chance(found.logits_NK, data.test_labels)
    yield events.Metric(step=0, epoch=0, values={"teacher/val/top1": accuracy})
    yield events.Log(level="info", message=f"The teacher is right on {accuracy:.2%} of {len(data.test_labels)} images.")
    material = _material(spec, data, master, place)
    prepared = Prepared(
        material=material,
        teacher=master,
        teacher_answers=found,
        test_labels_N=data.test_labels,
        classes=data.classes,
        mean=data.mean_C.tolist(),
        std=data.std_C.tolist(),
        in_channels=data.in_channels,
        image_shape=(data.in_channels, *data.image_size),
        activation=_activation(spec, found),
        precision="bf16" if precision == torch.bfloat16 else "fp32",
    )
    yield events.Resolved(values=_resolved(prepared.resolve(spec), material))
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
    network = build_network(
        file.architecture, options=file.options, num_classes=file.num_classes, in_channels=file.in_channels
    )
    metadata = load_weights(network, file.path)
    return freeze(network), metadata


def load_teacher(file: TeacherFile, data: PackedDataset, *, device: torch.device, precision: torch.dtype) -> Teacher:
    """The frozen teacher with the normalisation named in its file (``mean``, ``std``), else the data set's.

    Raises:
        InputError: the weights do not fit the architecture, or are not finite.
    """
    network, metadata = open_teacher(file)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    mean, std = data.mean_C, data.std_C
    if "mean" in metadata and "std" in metadata:
        mean, std = (torch.tensor(json.loads(metadata[key]), dtype=torch.float32) for key in ("mean", "std"))
    classifier = network.get_submodule("fc")
    assert isinstance(classifier, nn.Linear)
    return Teacher(Tap(network), classifier, normaliser(mean.to(device), std.to(device)), precision)


def normaliser(mean_C: Tensor, std_C: Tensor) -> Callable[[Tensor], Tensor]:
    """Uint8 images (B, C, H, W) to normalised float ones, channels last."""

    def prepare_images(images_BCHW: Tensor) -> Tensor:
        return normalize(images_BCHW, mean_C, std_C)

    return prepare_images


def prove_teacher(teacher: Teacher, images_BCHW: Tensor) -> None:
    """The two-sided proof of :func:`distill.taps.prove`, in float32 whatever the training's precision.

    Raises:
        InputError: ``teacher_head_unsupported``.
    """
    prove(teacher.tap, teacher.classifier, images_BCHW=teacher.prepare(images_BCHW))


def _ask(teacher: Teacher, images_NCHW: Tensor, device: torch.device) -> Answers:
    def look(images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = teacher.features(images)
        return teacher.logits(pooled), pooled

    return answers(look, images_NCHW, device=device)


def _material(spec: DistillSpec, data: PackedDataset, teacher: Teacher, device: torch.device) -> Material:
    training = spec.training
    images = data.train_images.to(device)
    augmentation = Augmentation(cast(AugmentationName, training.augmentation), image_size=data.image_size)
    material = Material(
        training=training,
        device=device,
        precision=teacher.precision,
        images_NCHW=images,
        labels_N=data.train_labels.to(device),
        test_images_NCHW=data.test_images,
        augmentation=augmentation,
        views_NV=None,
        bank_NVC=None,
        teacher=teacher,
        prepare=normaliser(data.mean_C.to(device), data.std_C.to(device)),
    )
    if training.views == "fresh" or not isinstance(training.views, int):
        return material
    views = draw_views(augmentation, num_images=len(images), num_views=training.views, seed=training.seed).to(device)
    material = replace(material, views_NV=views)
    num_views = views.shape[1]
    size = len(images) * num_views * teacher.classifier.in_features * 4
    if spec.method.type == "ce" or num_views > material.epochs or size > _BANK_BYTES:
        return material

    def view(indices: Tensor, slot: int) -> Tensor:
        return augmentation.apply(images.index_select(0, indices), views[indices, slot])

    bank = feature_bank(teacher, num_images=len(images), num_views=num_views, view=view, device=device)
    return replace(material, bank_NVC=bank)


def _activation(spec: DistillSpec, found: Answers) -> str:
    if not isinstance(spec.method, SRRLMethod):
        return "none"
    asked = spec.method.srrl.activation
    if asked != "auto":
        return asked
    return "relu" if float(found.pooled_NC.min()) >= 0.0 else "none"


def _resolved(spec: DistillSpec, material: Material) -> dict[str, Any]:
    return {
        "training": spec.training.model_dump(mode="json"),
        "method": spec.method.model_dump(mode="json"),
        "runtime": {
            "device": str(material.device),
            "device_name": torch.cuda.get_device_name(material.device) if material.device.type == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "teacher": "features computed once" if material.bank_NVC is not None else "computed at every step",
        },
    }


def check_teacher_file(file: TeacherFile) -> dict[str, Any]:
    """Load a teacher and prove its head on noise, before any data is known; what the check found.

    Raises:
        InputError: weights that do not fit or are not finite, or a head that is not linear.
    """
    network, metadata = open_teacher(file)
    classifier = network.get_submodule("fc")
    assert isinstance(classifier, nn.Linear)
    noise = torch.randn(8, file.in_channels, 32, 32, generator=torch.Generator().manual_seed(0))
    tap = Tap(network)
    prove(tap, classifier, images_BCHW=noise)
    with torch.no_grad():
        seen = tap(noise)
    if not seen.logits_BK.isfinite().all():
        raise InputError("upload_corrupt", "The network answers NaN or infinity.", param="/teacher")
    return {
        "checks": ["names and shapes fit", "all values are finite", "W p + b are the logits"],
        "smallest_feature": float(seen.pooled_BC.min()),
        "normalisation": {k: json.loads(metadata[k]) for k in ("mean", "std") if k in metadata} or None,
    }
