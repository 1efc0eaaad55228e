"""From a teacher's file to a network that is proven: opened, looked into, and held to what it claims."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from distill import architectures
from distill.architectures import ONNX, ImageInput, Preprocessing
from distill.class_names import order_by_name
from distill.data.packed import PackedDataset
from distill.errors import InputError
from distill.layouts import weight_and_bias
from distill.networks.opaque import OpaqueNetwork
from distill.registry import build_network, load_weights
from distill.reporting import num_parameters
from distill.spec import NetworkOptions, TeacherPreprocessing, TeacherTraits
from distill.taps import Tap, anatomy_of, linear_head, prove
from distill.teachers import Teacher, freeze
from distill.traits import check_traits
from distill.viewing import ImagePreparation, other_size, seen_shape

_NOISE_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class TeacherFile:
    """A teacher's weights and what they are weights of."""

    path: Path
    architecture: str
    options: NetworkOptions
    num_classes: int
    in_channels: int
    classes: list[str] | None = None
    """Names in the order of the outputs."""
    preprocessing: TeacherPreprocessing = field(default_factory=TeacherPreprocessing)

    @classmethod
    def of(cls, order: Mapping[str, Any]) -> Self:
        """From the order that a process was given, which may hold more."""
        return cls(
            path=Path(order["path"]),
            architecture=order["architecture"],
            options=NetworkOptions.model_validate(order["options"]),
            num_classes=order["num_classes"],
            in_channels=order["in_channels"],
            classes=order.get("classes"),
            preprocessing=TeacherPreprocessing.model_validate(order.get("preprocessing", {})),
        )


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


def teacher_input(file: TeacherFile, network: nn.Module) -> tuple[ImageInput, Preprocessing]:
    """The images that a teacher takes, and how its architecture normalises them."""
    if isinstance(network, OpaqueNetwork):
        return network.input, Preprocessing()
    blueprint = architectures.blueprint(file.architecture, options=file.options)
    return blueprint.input, blueprint.preprocessing


@dataclass(frozen=True, kw_only=True)
class LoadedTeacher:
    """A teacher as it looks at one data set.

    Attributes:
        teacher: whose answers are in the data's order of classes.
        prepare: what it does to images.
        normalised_by: whose mean and std these are; ``architecture`` and ``data`` are guesses.
        said: what is to be told of the order of its classes; empty where nothing is.
    """

    teacher: Teacher
    prepare: ImagePreparation
    normalised_by: Literal["request", "file", "architecture", "data"]
    said: str

    @property
    def is_guess(self) -> bool:
        """Whether nobody has said how its images are normalised."""
        return self.normalised_by in ("architecture", "data")

    def seeing(self, prepare: ImagePreparation) -> Teacher:
        """The same teacher, which sees images in another way."""
        return replace(self.teacher, prepare=prepare)


def load_teacher(
    file: TeacherFile, data: PackedDataset, *, device: torch.device, precision: torch.dtype
) -> LoadedTeacher:
    """The frozen teacher, which sees images as it was trained to, and names classes in the data's order.

    Normalised by the ``mean`` and ``std`` that the request gives, else by those named in its file, else by those
    that its architecture is published with, else by the data set's; scaled where it takes one size only.

    Raises:
        InputError: the weights do not fit the architecture, or are not finite.
    """
    network, metadata = open_teacher(file)
    order = None if file.classes is None else order_by_name(file.classes, data.classes)
    if order is not None:
        reorder_classes(network, order)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    own, published = teacher_input(file, network)
    prepare, source = _prepare(file.preprocessing, metadata, published, data, device)
    size = other_size(seen_shape(own, data)[1:], than=data)
    prepare = replace(prepare, size=size)
    head = linear_head(network).requires_grad_(False)
    teacher = Teacher(Tap(network, maps=anatomy_of(network).maps), head, prepare, precision)
    return LoadedTeacher(
        teacher=teacher, prepare=prepare, normalised_by=source, said=_said_of_order(file.classes, data.classes, order)
    )


@torch.no_grad()
def reorder_classes(network: nn.Module, order: Sequence[int]) -> None:
    """Make a network answer its classes in another order: output ``k`` becomes what was output ``order[k]``.

    Raises:
        TypeError: a classifier is no linear layer.
    """
    if isinstance(network, OpaqueNetwork):
        network.order = torch.tensor(order)
    for name in anatomy_of(network).classifiers:
        weight_KC, bias_K = weight_and_bias(network.get_submodule(name))
        weight_KC.copy_(weight_KC[list(order)])
        if bias_K is not None:
            bias_K.copy_(bias_K[list(order)])


def _prepare(
    given: TeacherPreprocessing,
    metadata: Mapping[str, str],
    published: Preprocessing,
    data: PackedDataset,
    device: torch.device,
) -> tuple[ImagePreparation, Literal["request", "file", "architecture", "data"]]:
    def of(mean: Sequence[float], std: Sequence[float]) -> ImagePreparation:
        mean_C, std_C = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
        return ImagePreparation(mean_C=mean_C, std_C=std_C, channels=given.channels)

    if given.mean is not None and given.std is not None:
        return of(given.mean, given.std), "request"
    if (stated := stated_normalisation(metadata, channels=data.in_channels)) is not None:
        return of(*stated), "file"
    if published.mean is not None and published.std is not None and len(published.mean) == data.in_channels:
        return of(published.mean, published.std), "architecture"
    mean, std = data.mean_C, data.std_C
    turned = (mean.flip(0), std.flip(0)) if given.channels == "bgr" else (mean, std)
    return of(*(values.tolist() for values in turned)), "data"


def _said_of_order(teacher: list[str] | None, data: list[str], order: list[int] | None) -> str:
    if teacher is None or not data:
        return ""
    if order is None:
        return "The teacher's class names are not those of the data set: its outputs are taken in their order."
    if order == list(range(len(order))):
        return ""
    return "The teacher's outputs are put into the data set's order of classes, by their names."


def stated_normalisation(metadata: Mapping[str, str], *, channels: int) -> tuple[list[float], list[float]] | None:
    """Mean and std of so many channels that a file's metadata name, as JSON; None where they name no sound ones."""
    try:
        given = TeacherPreprocessing.model_validate(
            {name: json.loads(metadata[name]) for name in ("mean", "std") if name in metadata}
        )
    except (ValueError, RecursionError):
        return None
    if given.mean is None or given.std is None or len(given.mean) != channels:
        return None
    return given.mean, given.std


def stated_classes(metadata: Mapping[str, str], *, num_classes: int) -> list[str] | None:
    """Names of the outputs that a file gives in its metadata, as JSON; None where it has no name for each."""
    try:
        classes = TeacherTraits.model_validate({"classes": json.loads(metadata.get("classes", "null"))}).classes
    except (ValueError, RecursionError):
        return None
    return classes if classes is not None and len(classes) == num_classes else None


def prove_teacher(teacher: Teacher, images_BCHW: Tensor) -> None:
    """The two-sided proof of :func:`distill.taps.prove`, in float32 whatever the training's precision.

    Raises:
        InputError: ``teacher_head_unsupported``.
    """
    prove(teacher.tap, teacher.classifier, images_BCHW=teacher.prepare(images_BCHW))


def _first_check(network: nn.Module) -> str:
    if not isinstance(network, OpaqueNetwork):
        return "names and shapes fit"
    said = "the graph holds standard operations and its own weights"
    return f"{said}; the {network.squashed} at its end is left out" if network.squashed else said


def check_teacher_file(file: TeacherFile) -> dict[str, Any]:
    """Load a teacher and prove its head on noise, before any data is known; what the check found.

    Raises:
        InputError: weights that do not fit or are not finite, a head that is not linear, or traits of another network.
    """
    network, metadata = open_teacher(file)
    own, _ = teacher_input(file, network)
    size = (own.height, own.width) if own.fixed else (_NOISE_SIDE, _NOISE_SIDE)
    noise = torch.randn(8, file.in_channels or own.channels, *size, generator=torch.Generator().manual_seed(0))
    tap, head = Tap(network, maps=anatomy_of(network).maps), linear_head(network)
    num_classes, in_channels = head.out_features, noise.shape[1]
    traits = TeacherTraits(classes=file.classes, preprocessing=file.preprocessing)
    check_traits(traits, num_classes=num_classes, in_channels=in_channels)
    with torch.no_grad():
        seen = tap(noise)
    if not seen.logits_BK.isfinite().all():
        raise InputError(
            "upload_corrupt",
            "The network answers NaN or infinity.",
            hint="Save the weights of a training that went well: one such number in them is enough.",
            param="/teacher",
        )
    prove(tap, head, images_BCHW=noise)
    _refuse_probabilities(seen.logits_BK)
    normalisation = stated_normalisation(metadata, channels=in_channels)
    return {
        "num_classes": num_classes,
        "in_channels": in_channels,
        "classes": file.classes or stated_classes(metadata, num_classes=num_classes),
        "feature_width": head.in_features,
        "parameters": num_parameters(network),
        "pools": tap.anatomy.pooling is not None,
        "checks": [
            _first_check(network),
            "all values are finite",
            "W p + b are the logits",
            "they are no probabilities",
        ],
        "features": _feature_figures(seen.pooled_BC),
        "normalisation": normalisation and dict(zip(("mean", "std"), normalisation, strict=True)),
    }


def _refuse_probabilities(outputs_BK: Tensor) -> None:
    """Logits that look like the result of a softmax: then temperatures and L_SR would work on the wrong numbers.

    Raises:
        InputError: ``teacher_head_unsupported``.
    """
    in_range = bool((outputs_BK >= 0).all() and (outputs_BK <= 1).all())
    sums_B = outputs_BK.sum(dim=1)
    if in_range and outputs_BK.shape[1] > 1 and torch.allclose(sums_B, torch.ones_like(sums_B), atol=1e-3):
        raise InputError(
            "teacher_head_unsupported",
            "The outputs are probabilities already: all lie in 0..1, and each image's sum is 1.",
            hint="Export the network up to its logits, without the softmax at its end.",
            param="/teacher",
        )


def _feature_figures(pooled_BC: Tensor) -> dict[str, Any]:
    """Sign and scale of the penultimate features of noise; ``silent`` counts those that are the same for all images."""
    return {
        "min": float(pooled_BC.min()),
        "max": float(pooled_BC.max()),
        "rms": float(pooled_BC.square().mean().sqrt()),
        "negative": bool((pooled_BC < 0).any()),
        "silent": int((pooled_BC == pooled_BC[:1]).all(dim=0).sum()),
    }
