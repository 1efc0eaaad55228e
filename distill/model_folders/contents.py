"""What lies in a model folder: its config, the config of its images, and the files of its weights."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from distill.data.archive import CHUNK_BYTES, check_ratio, shown
from distill.data.folder_layout import is_junk
from distill.data.source import Source
from distill.errors import InputError

CONFIG, IMAGES, SINGLE, INDEX = (
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
)
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MAX_SHARDS = 64
MAX_BYTES = {CONFIG: 8 * 2**20, IMAGES: 2**20, INDEX: 8 * 2**20, PICKLED_INDEX: 8 * 2**20}
"""Of the files that are read whole: 21,843 class names take 2 MB."""

NEEDED = f"Send the folder with {CONFIG} and {SINGLE}, or {INDEX} and the files that it names."


SAVE_SAFELY = (
    "Save it with save_pretrained of a current version, which writes safetensors, or have the operator set "
    "LIMBECK_ALLOW_PICKLE=1 and send a zip."
)


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What was found.

    Attributes:
        config: of the network.
        images: of how images are prepared; None where there is none.
        weights: the names of the files that hold the weights, within the source.
        is_pickled: whether these are PyTorch's pickles and not safetensors.
    """

    config: dict[str, Any]
    images: dict[str, Any] | None
    weights: tuple[str, ...]
    is_pickled: bool


def find(source: Source) -> Contents:
    """Read the configs of a folder, and find its weights.

    Raises:
        InputError: ``unsupported_format``, something is missing; ``upload_corrupt`` or ``unsafe_file``, a config cannot
            be read.
    """
    root = _root(source.files)
    if root is None:
        names = ", ".join(shown(name) for name in list(source.files)[:5]) or "nothing"
        message = f"The archive holds no {CONFIG}, neither at its top nor in its one folder: it holds {names}."
        raise InputError("unsupported_format", message, hint=NEEDED)
    weights, is_pickled = _weights(source, root)
    for name in weights:
        check_ratio(source.files[name].compress_size, source.files[name].file_size, of=shown(name))
    return Contents(
        config=read_json(source, root + CONFIG),
        images=read_json(source, root + IMAGES) if root + IMAGES in source.files else None,
        weights=weights,
        is_pickled=is_pickled,
    )


def read_json(source: Source, name: str) -> dict[str, Any]:
    """An object of JSON within the limits of its file.

    Raises:
        InputError: ``upload_corrupt`` or ``unsafe_file``.
    """
    limit = MAX_BYTES[name.rpartition("/")[2]]
    if (size := source.files[name].file_size) > limit:
        message = f"{shown(name)} has {size:,} bytes; at most {limit:,} are read."
        raise InputError("unsafe_file", message, hint="Leave out what is not the network's configuration.")
    with source.open(name) as stream:
        data = b"".join(iter(lambda: stream.read(CHUNK_BYTES), b""))
    return parse_json(data, name=name)


def parse_json(data: bytes, *, name: str) -> dict[str, Any]:
    """An object of JSON; raises InputError ``upload_corrupt`` when it is none."""
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(
            "upload_corrupt", f"{shown(name)} is not JSON: {str(error)[:100]}.", hint="Save the network again."
        ) from error
    if not isinstance(found, dict):
        raise InputError("upload_corrupt", f"{shown(name)} is not an object of JSON.", hint="Save the network again.")
    return found


def shards_of(index: Mapping[str, Any]) -> tuple[str, ...]:
    """The files that an index of weights names, in order; plain names in its own folder.

    Raises:
        InputError: ``upload_corrupt`` or ``unsafe_file``.
    """
    by_tensor = index.get("weight_map")
    names = set(by_tensor.values()) if isinstance(by_tensor, dict) and by_tensor and _are_texts(by_tensor) else set()
    if not names:
        message = "The index of the weights names no files: its weight_map is missing or malformed."
        raise InputError("upload_corrupt", message, hint="Save the network again.")
    if len(names) > MAX_SHARDS:
        message = f"The weights are in {len(names)} files; at most {MAX_SHARDS} are read."
        raise InputError("unsafe_file", message, hint="Save them in larger ones.")
    bad = sorted(name for name in names if "/" in name or "\\" in name or name in ("", ".", "..") or len(name) > 200)
    if bad:
        message = f"The index of the weights names a file outside of the folder: {shown(bad[0])}."
        raise InputError("unsafe_file", message, hint="Save the network again.")
    return tuple(sorted(names))


def _are_texts(by_tensor: Mapping[str, Any]) -> bool:
    return all(isinstance(name, str) for name in by_tensor.values())


def _root(names: Collection[str]) -> str | None:
    """The folder of the config with its slash: "" or the one that wraps all; None where there is no config."""
    kept = [name for name in names if not is_junk(name)]
    if CONFIG in kept:
        return ""
    tops = {name.partition("/")[0] for name in kept}
    wrapping = f"{next(iter(tops))}/" if len(tops) == 1 else None
    return wrapping if wrapping is not None and wrapping + CONFIG in kept else None


def _weights(source: Source, root: str) -> tuple[tuple[str, ...], bool]:
    for single, index, is_pickled in ((SINGLE, INDEX, False), (PICKLED, PICKLED_INDEX, True)):
        if root + single in source.files:
            return (root + single,), is_pickled
        if root + index in source.files:
            names = tuple(root + name for name in shards_of(read_json(source, root + index)))
            missing = [name for name in names if name not in source.files]
            if missing:
                message = f"{shown(missing[0])} is missing, which the index of the weights names."
                raise InputError("upload_corrupt", message, hint="Send the whole folder.")
            return names, is_pickled
    raise InputError("unsupported_format", f"Beside {CONFIG} there are no weights.", hint=NEEDED)
