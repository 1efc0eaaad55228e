"""Images that a list in CSV or JSON lines names with their labels. Standard library only.

A list is called ``manifest``, ``metadata``, ``train``, ``test`` or ``val``, and ``.csv`` or ``.jsonl``. Its paths go
from its own folder, as those of Hugging Face's ``metadata.csv``, or from some folder above the images.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn

from distill.data.archive import MAX_MEMBERS, shown
from distill.data.columns import LABELS, choose, split_of, split_word
from distill.data.folder_layout import UNLABELED_FOLDERS, check_sizes, is_image, is_junk, junk_kinds
from distill.data.image_layout import ImageLayout, Labelled, as_label, listed_layout, skip
from distill.data.lists import locate, plain, read_text
from distill.data.source import Source
from distill.errors import InputError

_STEMS = ("manifest", "metadata", "train", "test", "val", "valid", "validation")
_MEMBERS = {f"{stem}.{suffix}" for stem in _STEMS for suffix in ("csv", "jsonl")}
_PATHS = ("file_name", "filename", "image", "path")
_MAX_LISTS = 100
_MAX_LINE = 2**20
_HINT = (
    "The list needs a column file_name (or image, or path) and a column label, and may have a column split with train, "
    "test or val: the first line of manifest.csv is file_name,label. To read folders instead, ask for imagefolder."
)


@dataclass(frozen=True, slots=True)
class _Row:
    place: str
    path: str
    label: int | str | None
    split: str | None


def is_manifest(name: str) -> bool:
    """Whether the name is that of a list of images."""
    return name.rsplit("/", 1)[-1].lower() in _MEMBERS and not is_junk(name)


def manifest_layout(source: Source) -> ImageLayout:
    """Read the lists and find the images that they name.

    The split of an image is that of its row, else of the list's name or folder, else of the folder that its path
    starts with, else train.

    Raises:
        InputError: ``dataset_unreadable`` for a list of another form, ``dataset_empty``, ``dataset_class_mismatch``,
            ``unsafe_file`` beyond the limits.
    """
    names = [name for name in source.files if not is_junk(name)]
    images = [name for name in names if is_image(name)]
    check_sizes(source, images)
    known = set(images)
    listed: dict[str, Labelled] = {}
    missing: list[dict[str, str]] = []
    lists = list(filter(is_manifest, names))
    if len(lists) > _MAX_LISTS:
        _refuse(f"there are {len(lists):,} lists, such as {shown(lists[0])}")
    for member in lists:
        rows = _rows(source, member)
        found = _found(member, [row.path for row in rows], images, known)
        for row in rows:
            image = found.get(row.path)
            if image is None:
                missing.append(skip(row.path, f"named in {row.place}, and not in the archive"))
            elif image in listed:
                _refuse(f"{row.place} names {shown(image)}, which was named before")
            else:
                split = row.split or split_of(member) or _folder_split(row.path) or "train"
                listed[image] = Labelled(image, row.label, split)
    unnamed = [name for name in images if name not in listed]
    free = {name for name in unnamed if UNLABELED_FOLDERS & set(name.split("/")[:-1])}
    others = [skip(name, "no list names it") for name in unnamed if name not in free]
    others += [
        skip(name, "not a JPEG, PNG, WebP or BMP") for name in names if not is_image(name) and not is_manifest(name)
    ]
    return listed_layout(
        [*listed.values(), *(Labelled(name, None, "train") for name in sorted(free))],
        missing=missing,
        skipped=others,
        ignored=junk_kinds(source.files),
    )


def _found(member: str, paths: Sequence[str], images: Collection[str], known: set[str]) -> dict[str, str]:
    folder = member[: member.rfind("/") + 1]
    beside = {path: folder + path for path in paths if folder + path in known}
    return locate(paths, among=images) | beside


def _folder_split(path: str) -> str | None:
    first, slash, _ = path.partition("/")
    return split_word(first) if slash else None


def _rows(source: Source, member: str) -> list[_Row]:
    text = read_text(source, member)
    records = _json_lines(text, member) if member.lower().endswith(".jsonl") else _csv_lines(text, member)
    rows: list[_Row] = []
    columns: tuple[str, str | None, str | None] | None = None
    for number, record in records:
        place = f"{shown(member)}, line {number}"
        if columns is None:
            columns = _columns(record, member)
        rows.append(_row(record, columns, place))
        if len(rows) > MAX_MEMBERS:
            raise InputError("unsafe_file", f"{shown(member)} has more than {MAX_MEMBERS:,} rows", hint="Split it.")
    return rows


def _columns(record: dict[str, object], member: str) -> tuple[str, str | None, str | None]:
    path = choose(record, _PATHS, what="paths", place=member)
    if path is None:
        _refuse(f"{shown(member)} has no column file_name; it has {', '.join(shown(n) for n in list(record)[:8])}")
    label = choose(record, LABELS, what="labels", place=member)
    return path, label, choose(record, ("split",), what="splits", place=member)


def _row(record: dict[str, object], columns: tuple[str, str | None, str | None], place: str) -> _Row:
    path, label, split = (record.get(column) if column is not None else None for column in columns)
    if not isinstance(path, str) or not path.strip():
        _refuse(f"{place} names no image")
    word = split_word(split) if isinstance(split, str) else None
    if split not in (None, "") and word is None:
        _refuse(f"{place} has the split {shown(str(split)[:200])}, which is none of train, test and val")
    try:
        return _Row(place, plain(path.strip()), as_label(label), word)
    except ValueError as error:
        _refuse(f"{place}: {error}")


def _csv_lines(text: str, member: str) -> Iterator[tuple[int, dict[str, object]]]:
    head = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    try:
        for record in reader:
            if None in record or None in record.values():
                _refuse(f"{shown(member)}, line {reader.line_num} has not as many fields as the first line")
            yield reader.line_num, dict(record)
    except csv.Error as error:
        _refuse(f"{shown(member)}, line {reader.line_num} cannot be read: {error}")


def _json_lines(text: str, member: str) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if len(line) > _MAX_LINE:
            _refuse(f"{shown(member)}, line {number} has {len(line):,} characters")
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            _refuse(f"{shown(member)}, line {number} is no JSON: {shown(str(error))}")
        if not isinstance(record, dict):
            _refuse(f"{shown(member)}, line {number} is no JSON object")
        yield number, record


def _refuse(message: str) -> NoReturn:
    raise InputError("dataset_unreadable", message, hint=_HINT)
