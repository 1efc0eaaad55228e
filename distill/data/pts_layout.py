"""Images with a ``.pts`` file beside each, as 300W and its kin have them. Standard library only.

A ``.pts`` file (iBUG; Sagonas et al., ICCV workshops 2013)::

    version: 1
    n_points: 68
    {
    30.0 41.5
    ...
    }

Its coordinates are Matlab's: the centre of the first pixel is (1, 1).
"""

from __future__ import annotations

import re
from typing import NoReturn

from distill.data.archive import shown
from distill.data.face_layout import Face, FaceLayout
from distill.data.folder_layout import is_image, is_junk, junk_kinds
from distill.data.lists import locate, plain, read_lines
from distill.data.source import Source
from distill.errors import InputError

_MAX_BYTES = 2**20
_MAX_POINTS = 1000
_TRIED = 20
_FORM = re.compile(r"\s*version:\s*\S+\s+n_points:\s*(\d{1,6})\s*\{([^{}]*)\}\s*")
_SPLITS = {
    "train": "train",
    "trainset": "train",
    "test": "test",
    "testset": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
_HINT = (
    "Put a .pts file of the same name beside each image, into train/ and test/; or name the images of each split, "
    "one a line, in train.txt and test.txt."
)


def is_pts(name: str) -> bool:
    """Whether the name is that of a file with points, and not junk."""
    return name.lower().endswith(".pts") and not is_junk(name)


def pts_layout(source: Source) -> FaceLayout:
    """Find pairs of image and points, and their splits: by lists where there are any, else by the folders' names.

    Without a list and without a folder of a split's name, all faces are for training.

    Raises:
        InputError: ``dataset_empty``, ``dataset_unreadable`` for unclear lists or when the first ``.pts`` cannot
            be read, ``unsafe_file``.
    """
    names = [name for name in source.files if not is_junk(name)]
    skipped: list[dict[str, str]] = []
    pairs = _pairs(names, skipped)
    if not pairs:
        raise InputError("dataset_empty", "no .pts file has an image of its name beside it", hint=_HINT)
    missing: list[dict[str, str]] = []
    lists = _lists(names)
    splits = _by_lists(source, lists, pairs, missing) if lists else _by_folders(pairs, skipped)
    train, test, val = (splits.get(split, []) for split in ("train", "test", "val"))
    if not train or (lists.get("test") and not test):
        which = "test" if train else "train"
        raise InputError("dataset_empty", f"no face with image and points is in {which}", hint=_HINT)
    others = sum(not is_image(name) and not is_pts(name) for name in names) - len(lists)
    left = (len(pairs) - len(train) - len(test)) if lists else 0
    return FaceLayout(
        num_points=_num_points(source, train),
        box="the box about their points",
        train=train,
        test=test or val or None,
        missing=missing,
        skipped=skipped,
        ignored=junk_kinds(source.files),
        unused=others + left + (len(val) if test else 0),
    )


def parse_pts(source: Source, face: Face) -> list[float]:
    """Coordinates x, y, x, y, ... in pixels, with the centre of the first pixel moved from 1 to 0.

    Raises:
        ValueError: the file is of another form, or cut short.
        InputError: ``upload_corrupt``.
    """
    if source.files[face.marks].file_size > _MAX_BYTES:
        raise ValueError(f"over {_MAX_BYTES:,} bytes")
    match = _FORM.fullmatch(source.read(face.marks).decode("latin1"))
    if match is None:
        raise ValueError("cut short, or no .pts file")
    fields, count = match[2].split(), int(match[1])
    if len(fields) != 2 * count or not 2 <= count <= _MAX_POINTS:
        raise ValueError(f"n_points is {count}, and there are {len(fields)} numbers")
    return [float(field) - 1.0 for field in fields]


def _num_points(source: Source, faces: list[Face]) -> int:
    """Of the first file that can be read: a broken one alone is no reason to refuse all."""
    wrong = ""
    for face in faces[:_TRIED]:
        try:
            return len(parse_pts(source, face)) // 2
        except ValueError as error:
            wrong = wrong or f"{face.place}: {shown(str(error))}"
    raise InputError("dataset_unreadable", wrong, hint=_HINT)


def _pairs(names: list[str], skipped: list[dict[str, str]]) -> dict[str, Face]:
    """Faces by the member of their image, in the order of these members."""
    points = {name[: -len(".pts")]: name for name in names if is_pts(name)}
    pairs: dict[str, Face] = {}
    taken: set[str] = set()
    for name in sorted(name for name in names if is_image(name)):
        stem = name.rsplit(".", 1)[0]
        if stem not in points or stem in taken:
            reason = "another image of its name comes before it" if stem in taken else "no .pts file beside it"
            skipped.append({"path": shown(name), "reason": reason})
            continue
        taken.add(stem)
        pairs[name] = Face(image=name, marks=points[stem], place=shown(points[stem]))
    skipped += [
        {"path": shown(name), "reason": "no image beside it"} for stem, name in points.items() if stem not in taken
    ]
    return pairs


def _lists(names: list[str]) -> dict[str, str]:
    lists: dict[str, str] = {}
    for name in names:
        stem = name.rsplit("/", 1)[-1].lower().removesuffix(".txt")
        if not name.lower().endswith(".txt") or stem not in ("train", "test"):
            continue
        if stem in lists:
            _refuse(f"both {shown(lists[stem])} and {shown(name)} are there; send one data set a zip")
        lists[stem] = name
    if lists and "train" not in lists:
        _refuse(f"{shown(lists['test'])} is there, and no train.txt")
    return lists


def _by_lists(
    source: Source, lists: dict[str, str], pairs: dict[str, Face], missing: list[dict[str, str]]
) -> dict[str, list[Face]]:
    splits: dict[str, list[Face]] = {}
    seen: set[str] = set()
    for split, member in lists.items():
        paths = [plain(line) for _, line in read_lines(source, member)]
        members = locate(paths, among=pairs)
        for path in paths:
            found = members.get(path)
            if found is None:
                missing.append({"path": shown(path), "reason": f"{shown(member)} names it, and it is not there"})
                continue
            if found in seen:
                _refuse(f"{shown(path)} is named twice in the lists")
            seen.add(found)
            splits.setdefault(split, []).append(pairs[found])
    return splits


def _by_folders(pairs: dict[str, Face], skipped: list[dict[str, str]]) -> dict[str, list[Face]]:
    splits: dict[str, list[Face]] = {}
    elsewhere = []
    for name, face in pairs.items():
        split = next((_SPLITS[part] for part in name.lower().split("/")[:-1] if part in _SPLITS), None)
        if split is None:
            elsewhere.append(face)
        else:
            splits.setdefault(split, []).append(face)
    if "train" not in splits:
        splits["train"] = elsewhere
    else:
        skipped += [{"path": shown(face.image), "reason": "neither in train nor in test"} for face in elsewhere]
    return splits


def _refuse(message: str) -> NoReturn:
    raise InputError("dataset_unreadable", message, hint=_HINT)
