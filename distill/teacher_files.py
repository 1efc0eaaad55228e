"""From a teacher's file to a network that is proven: opened, looked into, and held to what it claims."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distill import architectures
from distill.architectures import ONNX, ImageInput, Preprocessing
from distill.data.packed import PackedDataset
from distill.errors import InputError
from distill.networks.opaque import OpaqueNetwork
from distill.registry import build_network, load_weights
from distill.reporting import num_parameters
from distill.spec import NetworkOptions
from distill.taps import Tap, anatomy_of, linear_head, prove
from distill.teachers import Teacher, freeze
from distill.viewing import normaliser, other_size, seen_shape

_NOISE_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class TeacherFile:
    """A teacher's weights and what they are weights of."""

    path: Path
    architecture: str
    options: NetworkOptions
    num_classes: int
    in_channels: int


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


def load_teacher(file: TeacherFile, data: PackedDataset, *, device: torch.device, precision: torch.dtype) -> Teacher:
    """The frozen teacher, which sees images as it was trained to.

    Normalised by the ``mean`` and ``std`` named in its file, else by those that its architecture is published
    with, else by the data set's; scaled where it takes one size only.

    Raises:
        InputError: the weights do not fit the architecture, or are not finite.
    """
    network, metadata = open_teacher(file)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    own, published = teacher_input(file, network)
    mean, std = data.mean_C, data.std_C
    if "mean" in metadata and "std" in metadata:
        mean, std = (torch.tensor(json.loads(metadata[key]), dtype=torch.float32) for key in ("mean", "std"))
    elif published.mean is not None and published.std is not None and len(published.mean) == data.in_channels:
        mean, std = torch.tensor(published.mean), torch.tensor(published.std)
    size = seen_shape(own, data)[1:]
    prepare_images = normaliser(mean.to(device), std.to(device), size=other_size(size, than=data))
    head = linear_head(network).requires_grad_(False)
    return Teacher(Tap(network, maps=anatomy_of(network).maps), head, prepare_images, precision)


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
        InputError: weights that do not fit or are not finite, or a head that is not linear.
    """
    network, metadata = open_teacher(file)
    own, _ = teacher_input(file, network)
    size = (own.height, own.width) if own.fixed else (_NOISE_SIDE, _NOISE_SIDE)
    noise = torch.randn(8, file.in_channels or own.channels, *size, generator=torch.Generator().manual_seed(0))
    tap = Tap(network, maps=anatomy_of(network).maps)
    prove(tap, linear_head(network), images_BCHW=noise)
    with torch.no_grad():
        seen = tap(noise)
    if not seen.logits_BK.isfinite().all():
        message = "The network answers NaN or infinity."
        raise InputError("upload_corrupt", message, hint="Save weights of a healthy training.", param="/teacher")
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
