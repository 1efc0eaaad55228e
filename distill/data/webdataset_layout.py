"""Samples of WebDataset: files of one name in a tar, ``0001.jpg`` with ``0001.cls`` or ``0001.json``.

A sample's name goes up to the first dot of the last part, as the library has it. Several tars, its shards, may lie in a
zip or a tar. Standard library only. Source: https://github.com/webdataset/webdataset.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from distill.data.archive import CHUNK_BYTES, MAX_MEMBERS, check_ratio, refuse, shown
from distill.data.columns import split_of
from distill.data.folder_layout import check_sizes, is_image, is_junk, junk_kinds
from distill.data.image_layout import ImageLayout, Labelled, as_label, listed_layout, skip
from distill.data.source import Source
from distill.data.spool import Extent, Extents, Spool, window
from distill.data.tarball import gunzipped, is_tar, tar_members
from distill.errors import InputError

_SHARDS = (".tar", ".tar.gz", ".tgz")
_MAX_LABEL_BYTES = 2**20
_HINT = (
    "Each image needs a file of its name beside it with its label: 0001.jpg and 0001.cls, with the number or the name "
    'of the class, or 0001.json with {"label": ...}. Call shards train-000.tar and test-000.tar.'
)


@dataclass
class _Sample:
    images: list[str] = field(default_factory=list)
    cls: str | None = None
    json: str | None = None


def is_webdataset(names: list[str]) -> bool:
    """Whether these are shards, or samples with labels of their own."""
    images = [name for name in names if is_image(name)]
    if not images:
        return any(_is_shard(name) for name in names)
    if any(_parts(name)[1] == "cls" for name in names):
        return True
    described = {_parts(name)[0] for name in names if _parts(name)[1] == "json"}
    return 2 * sum(_parts(name)[0] in described for name in images) > len(images)


@contextmanager
def opened_shards(source: Source, folder: Path) -> Iterator[Source]:
    """The samples of all shards under names that begin with their shard's; the source itself where there are none.

    Args:
        source: the archive.
        folder: on whose disk shards are copied for reading.

    Raises:
        InputError: as :func:`distill.data.tarball.tar_members`.
    """
    shards = [name for name in source.files if _is_shard(name) and not is_junk(name)]
    if not shards:
        yield source
        return
    with Spool(folder) as spool:
        files: dict[str, Extent] = {}
        for shard in shards:
            files |= {f"{shard}/{name}": extent for name, extent in _members(source, shard, spool).items()}
            if len(files) > MAX_MEMBERS:
                refuse(f"the shards have more than {MAX_MEMBERS:,} members", hint="Send fewer of them.")
        yield Extents(spool.file, files)


def webdataset_layout(source: Source) -> ImageLayout:
    """Read the labels of all samples.

    The split is that of the shard's name or a folder's, else train.

    Raises:
        InputError: ``dataset_empty``, ``dataset_unreadable``, ``dataset_class_mismatch``, ``unsafe_file``.
    """
    names = [name for name in source.files if not is_junk(name)]
    check_sizes(source, [name for name in names if is_image(name)])
    samples: dict[str, _Sample] = {}
    skipped = []
    for name in names:
        key, kind = _parts(name)
        if is_image(name):
            samples.setdefault(key, _Sample()).images.append(name)
        elif kind == "cls":
            samples.setdefault(key, _Sample()).cls = name
        elif kind == "json":
            samples.setdefault(key, _Sample()).json = name
        else:
            skipped.append(skip(name, "no image and no label"))
    if not any(sample.images for sample in samples.values()):
        raise InputError("dataset_empty", "there are no images", hint=_HINT)
    missing: list[dict[str, str]] = []
    return listed_layout(
        _labelled(source, samples, missing),
        missing=missing,
        skipped=skipped,
        ignored=junk_kinds(source.files),
    )


def _labelled(source: Source, samples: dict[str, _Sample], missing: list[dict[str, str]]) -> Iterable[Labelled]:
    for key, sample in samples.items():
        if len(sample.images) != 1:
            missing.append(skip(key, f"a sample of {len(sample.images)} images"))
            continue
        try:
            label = _label(source, sample)
        except ValueError as error:
            missing.append(skip(sample.images[0], str(error)))
            continue
        yield Labelled(sample.images[0], label, split_of(key.rpartition("/")[0]) or "train")


def _label(source: Source, sample: _Sample) -> int | str | None:
    member = sample.cls or sample.json
    if member is None:
        raise ValueError("there is no .cls and no .json of its name")
    if (size := source.files[member].file_size) > _MAX_LABEL_BYTES:
        raise ValueError(f"{shown(member)} takes {size:,} bytes")
    text = source.read(member).decode()
    if member == sample.cls:
        return as_label(text)
    try:
        record = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{shown(member)} is nested too deeply") from error
    if not isinstance(record, dict) or "label" not in record:
        raise ValueError(f"{shown(member)} has no label")
    return as_label(record["label"])


def _members(source: Source, shard: str, spool: Spool) -> dict[str, Extent]:
    info = source.files[shard]
    check_ratio(info.compress_size, info.file_size, of=shown(shard))
    with source.open(shard) as stream:
        packed = not shard.endswith(".tar")
        whole = spool.append(gunzipped(stream) if packed else iter(lambda: stream.read(CHUNK_BYTES), b""))
    with window(spool.file, whole) as start:
        if not is_tar(start.read(512)):
            _refuse(f"{shown(shard)} is no tar")
    return tar_members(spool.file, whole)


def _is_shard(name: str) -> bool:
    return name.lower().endswith(_SHARDS)


def _parts(name: str) -> tuple[str, str]:
    """A sample's name, with its folders, and the kind of the file."""
    folder, slash, last = name.rpartition("/")
    key, _, kind = last.partition(".")
    return f"{folder}{slash}{key}", kind.lower()


def _refuse(message: str) -> NoReturn:
    raise InputError("dataset_unreadable", message, hint=_HINT)
