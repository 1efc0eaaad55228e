"""Parquet files with a column of encoded images and one of labels, as Hugging Face's data sets have them.

To be run in a confined child process. Rows are read in batches, and the images put aside one after the other, so that a
large file needs little memory. Sources: https://parquet.apache.org/docs/file-format/ and, for the features that the
schema's metadata may describe, https://huggingface.co/docs/datasets/about_dataset_features.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from distill.data.archive import CHUNK_BYTES, MAX_MEMBERS, MAX_TOTAL_BYTES, check_ratio, refuse, shown
from distill.data.columns import LABELS, choose, split_of
from distill.data.folder_layout import MAX_IMAGE_BYTES, is_junk, junk_kinds
from distill.data.image_layout import ImageLayout, Labelled, as_label, listed_layout, skip
from distill.data.imagefolder import read_layout
from distill.data.parquet_outline import check_ends, check_parquet, is_parquet
from distill.data.raw import RawDataset
from distill.data.reading import Reading
from distill.data.source import Source
from distill.data.spool import Extent, Extents, Spool, window
from distill.errors import InputError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_IMAGES = ("image", "img", "images", "picture")
_MAX_COLUMNS = 1000
_MAX_FEATURES_BYTES = 4 * 2**20
_MAX_LABEL_BYTES = 1000
_MAX_FILES = 2000
_BATCH_BYTES = 2**30
_BATCH_ROWS = 256
_HINT = (
    "Each file needs a column image, of encoded bytes or of {bytes, path}, and a column label, of numbers or names; "
    "files of a split are called train-..., test-... or validation-...."
)


@dataclass
class _Rows:
    """What the files read so far hold."""

    spool: Spool
    files: dict[str, Extent] = field(default_factory=dict)
    images: list[Labelled] = field(default_factory=list)
    missing: list[dict[str, str]] = field(default_factory=list)
    classes: list[str] | None = None

    def layout(self, source: Source) -> ImageLayout:
        names = [name for name in source.files if not is_junk(name)]
        return listed_layout(
            self.images,
            classes=self.classes,
            missing=self.missing,
            skipped=[skip(name, "not a Parquet file") for name in names if not is_parquet(name)],
            ignored=junk_kinds(source.files),
        )


@dataclass(frozen=True)
class _Columns:
    image: str
    in_struct: bool
    label: str | None
    names: list[str] | None
    """Of the labels' numbers, from the metadata."""


def read_parquet(source: Source, how: Reading) -> RawDataset:
    """Read the rows of all files; images that cannot be read are left out and listed.

    Args:
        source: the files.
        how: as in :func:`distill.data.imagefolder.read_imagefolder`.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file`` for sizes beyond the limits, ``dataset_unreadable`` for other
            columns, ``unsupported_format`` where Parquet cannot be read; others as other readers of images.
    """
    members = sorted(filter(is_parquet, source.files))
    if len(members) > _MAX_FILES:
        refuse(f"there are {len(members):,} Parquet files", hint=f"Send at most {_MAX_FILES:,}.")
    check_parquet(source)
    with Spool(how.folder) as spool:
        rows = _Rows(spool)
        for member in members:
            with Spool(how.folder) as copy, _arrow_errors(member):
                _read_file(source, member, copy, rows)
        return read_layout(Extents(spool.file, rows.files), rows.layout(source), how)


def _read_file(source: Source, member: str, copy: Spool, rows: _Rows) -> None:
    parquet = _pyarrow()
    with source.open(member) as stream:
        whole = copy.append(iter(lambda: stream.read(CHUNK_BYTES), b""))
    with window(copy.file, whole) as stream:
        start = stream.read(4)
        stream.seek(max(0, whole.file_size - 8))
        check_ends(start, stream.read(8), whole.file_size, member)
        with parquet.ParquetFile(
            stream,
            buffer_size=CHUNK_BYTES,  # without it whole row groups are read ahead
            thrift_string_size_limit=_MAX_FEATURES_BYTES,
            thrift_container_size_limit=MAX_MEMBERS,
        ) as file:
            _read_rows(file, member, whole.file_size, rows)


def _read_rows(file: ParquetFile, member: str, file_bytes: int, rows: _Rows) -> None:
    columns = _columns(file.schema_arrow, member)
    if columns.names is not None and rows.classes not in (None, columns.names):
        message = f"{shown(member)} gives the classes other names than the files before it"
        raise InputError("dataset_class_mismatch", message, hint="Send files of one data set.")
    rows.classes = rows.classes or columns.names
    paths = [f"{columns.image}.bytes" if columns.in_struct else columns.image]
    if columns.label is not None:
        paths.append(columns.label)
    _check_sizes(file, member, file_bytes)
    split, before, number = split_of(member) or "train", rows.spool.size, 0
    for group in range(file.num_row_groups):
        batches = file.iter_batches(
            batch_size=_batch_rows(file.metadata.row_group(group).total_byte_size),
            row_groups=[group],
            columns=paths,
            use_threads=False,
        )
        for image, label in (row for batch in batches for row in _pairs(batch, columns)):
            _add(rows, f"{member}/{number}", image, label, split)
            number += 1
            check_ratio(file_bytes, rows.spool.size - before, of=shown(member))


def _add(rows: _Rows, name: str, image: Any, label: Any, split: str) -> None:
    if len(rows.images) + len(rows.missing) >= MAX_MEMBERS:
        refuse(f"there are more than {MAX_MEMBERS:,} rows", hint="Send a part of the data set.")
    try:
        data = image.as_buffer()
        if data is None:
            raise ValueError("the row has no bytes of an image")
        if data.size > MAX_IMAGE_BYTES:
            raise ValueError(f"{data.size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}")
        value = _label(label) if label is not None else None
    except ValueError as error:
        rows.missing.append(skip(name, str(error)))
        return
    # Hugging Face writes -1 where the label is kept secret; numbers without names may mean two classes by it.
    rows.images.append(Labelled(name, None if value == -1 and rows.classes is not None else value, split))
    rows.files[name] = rows.spool.append([data])


def _pairs(batch: Any, columns: _Columns) -> Iterator[tuple[Any, Any]]:
    """The cells of image and label, row by row."""
    images = batch.column(columns.image)
    if columns.in_struct:
        images = images.flatten()[0]
    labels = batch.column(columns.label) if columns.label is not None else None
    for index in range(len(images)):
        yield images[index], labels[index] if labels is not None else None


def _label(cell: Any) -> int | str | None:
    import pyarrow

    if isinstance(cell, pyarrow.DictionaryScalar):
        cell = cell.value
    is_text = isinstance(cell, pyarrow.StringScalar | pyarrow.LargeStringScalar)
    if is_text and (text := cell.as_buffer()) is not None and text.size > _MAX_LABEL_BYTES:
        raise ValueError(f"the label takes {text.size:,} bytes")
    return as_label(cell.as_py())


def _check_sizes(file: ParquetFile, member: str, file_bytes: int) -> None:
    """Hold what the file says of itself against the limits, before any of it is unpacked."""
    meta = file.metadata
    if meta.num_rows > MAX_MEMBERS or meta.num_row_groups > MAX_MEMBERS // 10:
        message = f"{shown(member)} says that it has {meta.num_rows:,} rows in {meta.num_row_groups:,} groups"
        refuse(message, hint="Send a part of the data set, in fewer groups.")
    # Not the sizes of each column: pyarrow 26 aborts the process where those of a damaged file cannot be read.
    sizes = [meta.row_group(group).total_byte_size for group in range(meta.num_row_groups)]
    unpacked = sum(sizes)
    if min(sizes, default=0) < 0:
        raise InputError("upload_corrupt", f"{shown(member)} tells a negative size", hint="Write the file again.")
    check_ratio(file_bytes, unpacked, of=shown(member))
    if unpacked > MAX_TOTAL_BYTES:
        message = f"{file_bytes:,} bytes of {shown(member)} unpack to {unpacked:,}"
        refuse(message, hint="Send fewer or smaller images.")


def _batch_rows(group_bytes: int) -> int:
    """As many rows as fit the memory, even where a dictionary of all bytes has one entry, which each row repeats."""
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, group_bytes)))


def _columns(schema: Any, member: str) -> _Columns:
    from pyarrow import types

    if len(schema.names) > _MAX_COLUMNS:
        refuse(f"{shown(member)} has {len(schema.names):,} columns", hint="Leave out those that are not needed.")
    features = _features(schema)
    typed = {name: features[name].get("_type") for name in schema.names if isinstance(features.get(name), dict)}
    image = _chosen(schema, _IMAGES, [name for name in typed if typed[name] == "Image"], "images", member)
    label = _chosen(schema, LABELS, [name for name in typed if typed[name] == "ClassLabel"], "labels", member)
    if image is None:
        _refuse(f"{shown(member)} has no column image; it has {_few(schema.names)}")
    kind = schema.field(image).type
    in_struct = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    if in_struct:
        kind = kind.field("bytes").type
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        _refuse(f"the column {shown(image)} of {shown(member)} holds {shown(str(kind))}, not encoded images")
    if label is None:
        others = [f.name for f in schema if types.is_integer(f.type) or types.is_string(f.type)]
        if others:
            _refuse(f"{shown(member)} has no column label; it has {_few(others)}")
        return _Columns(image, in_struct, None, None)
    kind = schema.field(label).type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)):
        _refuse(
            f"the column {shown(label)} of {shown(member)} holds {shown(str(kind))}, not numbers or names of classes"
        )
    return _Columns(image, in_struct, label, _names(features.get(label)) if types.is_integer(kind) else None)


def _chosen(schema: Any, among: tuple[str, ...], typed: list[str], what: str, member: str) -> str | None:
    """The column by its name, else the one that the features tell of."""
    named = choose(schema.names, among, what=what, place=member)
    if named is None and len(typed) > 1:
        _refuse(f"{shown(member)} has several columns of {what}, {_few(typed)}, and none has a usual name")
    return named or next(iter(typed), None)


def _features(schema: Any) -> dict[str, Any]:
    """What Hugging Face's library wrote of the columns; a help, and nothing that is relied on."""
    text = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        features = json.loads(text)["info"]["features"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}


def _names(feature: Any) -> list[str] | None:
    names = feature.get("names") if isinstance(feature, dict) else None
    return names if isinstance(names, list) and names and all(isinstance(name, str) for name in names) else None


def _few(names: list[str]) -> str:
    return ", ".join(shown(name) for name in names[:8]) or "none"


def _pyarrow() -> Any:
    try:
        # Its own allocator takes whole arenas ahead, which the limit on the process's memory may refuse.
        os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
        from pyarrow import parquet
    except ImportError as error:
        message = "this worker has no reader of Parquet"
        hint = "The operator installs it with limbeck[parquet]; else save the images into class folders and zip them."
        raise InputError("unsupported_format", message, hint=hint) from error
    return parquet


@contextmanager
def _arrow_errors(member: str) -> Iterator[None]:
    _pyarrow()
    from pyarrow import ArrowException

    try:
        yield
    except MemoryError:
        raise
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # ours, such as a full disk
            raise
        message = f"{shown(member)} cannot be read: {shown(str(error).strip())}"
        raise InputError("upload_corrupt", message, hint="Write the file again.") from error


def _refuse(message: str) -> NoReturn:
    raise InputError("dataset_unreadable", message, hint=_HINT)
