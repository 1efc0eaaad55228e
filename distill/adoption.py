"""From a model folder to one file of weights under the zoo's names, in a confined process."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill import model_folders
from distill.conversion import convert
from distill.data.file_tree import FileTree
from distill.data.source import Source
from distill.model_folders import Contents, Description, Matched


@dataclass(frozen=True)
class Adopted:
    """A folder whose weights were written as those of a network of the zoo."""

    description: Description
    network: Matched

    def report(self, *, is_pickled: bool) -> dict[str, Any]:
        """For the teacher's row: its architecture, what the config says of classes and images, and where from."""
        return {
            "architecture": self.network.architecture,
            "options": {"width": self.network.options.width, "stem_stride": self.network.options.stem_stride},
            **self.description.as_json(),
            "file": self.network.report(self.description, is_pickled=is_pickled),
        }


def adopt(source: Source, target: Path) -> dict[str, Any]:
    """Write the weights of a folder as one safetensors file that the zoo's network loads; what its configs say.

    Args:
        source: of the folder's files.
        target: is written; copies of the weights stand beside it meanwhile.

    Returns:
        ``architecture`` and ``options``, ``classes`` and ``preprocessing`` (None where the configs have none), and
        ``file``, for the teacher's report.

    Raises:
        InputError: ``unsupported_format``, ``upload_corrupt``, ``unsafe_file``, ``architecture_unknown``,
            ``invalid_value`` or ``state_dict_mismatch``.
    """
    contents = model_folders.find(source)
    description = model_folders.describe(contents)
    folder = target.with_suffix(".weights")
    folder.mkdir()
    try:
        paths = _on_disk(source, contents, folder)
        network = model_folders.match(description, model_folders.outline_of_files(paths))
        metadata = {"architecture": network.architecture}
        if description.normalisation is not None:
            metadata |= {
                "mean": json.dumps(description.normalisation.mean),
                "std": json.dumps(description.normalisation.std),
            }
        model_folders.join(paths, network.parts, target, metadata=metadata)
    finally:
        shutil.rmtree(folder)
    return Adopted(description, network).report(is_pickled=contents.is_pickled)


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
