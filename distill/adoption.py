"""From a model folder to one file of weights under the zoo's names, in a confined process."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distill import model_folders
from distill.architectures import timm_names
from distill.conversion import convert
from distill.data.file_tree import FileTree
from distill.data.opening import open_upload
from distill.data.source import Source
from distill.errors import InputError
from distill.model_folders import Contents, Description
from distill.networks.timm_zoo import pooling_of

_TOLD = ("classes", "mean", "std")
"""What a teacher's file may say of itself, in its header."""


def adopt(path: Path, target: Path, *, may_unpickle: bool) -> dict[str, Any]:
    """Write the weights of a folder as one safetensors file that a network of the zoo loads; what the configs say.

    Args:
        path: of an archive of the folder, or of the folder itself.
        target: is written; copies of the weights stand beside it meanwhile. Its header has ``mean``, ``std`` and
            ``classes``, where the configs have them.
        may_unpickle: whether this process is confined enough to read weights that are pickled.

    Returns:
        ``architecture``, ``options``, ``num_classes`` and ``in_channels`` of a teacher, and ``file`` for its report.

    Raises:
        InputError: ``unsupported_format``, ``upload_corrupt``, ``unsafe_file``, ``architecture_unknown``,
            ``invalid_value`` or ``state_dict_mismatch``.
    """
    if path.is_dir():
        return _adopt(FileTree({file.name: file for file in path.iterdir()}), target, may_unpickle=may_unpickle)
    with open_upload(path) as source:
        return _adopt(source, target, may_unpickle=may_unpickle)


def _adopt(source: Source, target: Path, *, may_unpickle: bool) -> dict[str, Any]:
    contents = model_folders.find(source)
    if contents.is_pickled and not may_unpickle:
        message = f"The folder's weights are pickled: {', '.join(contents.weights)[:200]}."
        raise InputError("unsupported_format", message, hint=model_folders.SAVE_SAFELY)
    description = model_folders.describe(contents)
    folder = target.with_suffix(".weights")
    folder.mkdir()
    try:
        paths = _on_disk(source, contents, folder)
        outline = model_folders.outline_of_files(paths)
        network = model_folders.match(description, outline)
        _check_pooling(network.architecture, description)
        metadata = {key: outline.metadata[key] for key in _TOLD if key in outline.metadata} | _metadata(description)
        model_folders.join(paths, network.parts, target, metadata=metadata)
    finally:
        shutil.rmtree(folder)
    return {
        "architecture": network.architecture,
        "options": {"width": network.options.width, "stem_stride": network.options.stem_stride},
        "num_classes": network.facts.num_classes,
        "in_channels": network.facts.in_channels,
        "file": model_folders.report(contents, description, network),
    }


def _on_disk(source: Source, contents: Contents, folder: Path) -> list[Path]:
    """The files of weights as safetensors: where they lie, or copied out of their archive."""
    paths = []
    for number, name in enumerate(contents.weights):
        if isinstance(source, FileTree):
            path = source.files[name].path
        else:
            path = folder / f"{number}.weights"
            with source.open(name) as stream, path.open("wb") as copy:
                shutil.copyfileobj(stream, copy)
        if contents.is_pickled:
            convert(path, folder / f"{number}.safetensors")
            path = folder / f"{number}.safetensors"
        paths.append(path)
    return paths


def _check_pooling(architecture: str, description: Description) -> None:
    """Whether a network of timm's makes its feature as the config says: weights of one way fit the others, too.

    Raises:
        InputError: ``invalid_value``.
    """
    wanted = description.facts.get("global_pool")
    if wanted is None or not architecture.startswith(timm_names.PREFIX):
        return
    own = pooling_of(architecture)
    if own not in (wanted, None):
        message = f"The config pools by {wanted}, and {architecture} by {own}."
        raise InputError("invalid_value", message, hint="Export it to ONNX, and send that.")


def _metadata(description: Description) -> dict[str, str]:
    """What the configs say of these, which counts for more than the header of their weights."""
    told: dict[str, Any] = {}
    if description.classes is not None:
        told["classes"] = description.classes
    if description.normalisation is not None:
        told |= asdict(description.normalisation)
    return {key: json.dumps(value) for key, value in told.items()}
