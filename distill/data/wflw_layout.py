"""The lists of WFLW and the images they name. Standard library only.

A line of ``list_98pt_rect_attr_train.txt`` or ``..._test.txt`` has 207 fields: x and y of 98 points, a box (x and y
of its upper left, then of its lower right corner), six attributes, and the image's path, which may hold spaces.
Source: Wu et al., CVPR 2018, and the README of its annotations.
"""

from __future__ import annotations

import re
from typing import NoReturn

from distill.data.archive import shown
from distill.data.face_layout import Face, FaceLayout, Rect
from distill.data.folder_layout import is_image, is_junk, junk_kinds
from distill.data.lists import locate, plain, read_lines
from distill.data.source import Source
from distill.errors import InputError

_NUM_POINTS = 98
_NUM_NUMBERS = 2 * _NUM_POINTS + 4 + 6
_NAME = re.compile(r"list_98pt_rect_attr_(train|test)\.txt")
_HINT = (
    "The zip needs list_98pt_rect_attr_train.txt, and ..._test.txt likewise, as WFLW has them: 98 points, 4 numbers "
    "of a box, 6 attributes and the image's path in each line; and the images under these paths."
)


def is_wflw(name: str) -> bool:
    """Whether a member's last part is one of the names of WFLW's lists, and not junk."""
    return _NAME.fullmatch(name.rsplit("/", 1)[-1]) is not None and not is_junk(name)


def wflw_layout(source: Source) -> FaceLayout:
    """Find the lists, and the image of each of their lines.

    Raises:
        InputError: ``dataset_unreadable`` for lines of another form, ``dataset_empty``, ``unsafe_file``.
    """
    names = [name for name in source.files if not is_junk(name)]
    images = [name for name in names if is_image(name)]
    lists = _lists(names)
    missing: list[dict[str, str]] = []
    train = _faces(source, lists["train"], images, missing)
    test = _faces(source, lists["test"], images, missing) if "test" in lists else None
    if not train or test == []:
        which = "test" if train else "train"
        raise InputError("dataset_empty", f"{shown(lists[which])} names no image of the zip", hint=_HINT)
    used = {face.image for face in (*train, *(test or []))}
    return FaceLayout(
        num_points=_NUM_POINTS,
        box="their box",
        train=train,
        test=test,
        missing=missing,
        ignored=junk_kinds(source.files),
        unused=len(names) - len(used) - len(lists),
    )


def parse_wflw(face: Face) -> tuple[list[float], Rect]:
    """Coordinates x, y, x, y, ... and the box, in pixels: the centre of the first pixel is taken to be 0.

    Raises:
        InputError: ``dataset_unreadable`` when one is no number.
    """
    fields = face.marks.split(None, _NUM_NUMBERS)
    try:
        numbers = [float(field) for field in fields[: 2 * _NUM_POINTS + 4]]
    except ValueError as error:
        _refuse(f"{face.place}: {shown(str(error))}")
    left, top, right, bottom = numbers[2 * _NUM_POINTS :]
    return numbers[: 2 * _NUM_POINTS], (left, top, right, bottom)


def _lists(names: list[str]) -> dict[str, str]:
    lists: dict[str, str] = {}
    for name in names:
        match = _NAME.fullmatch(name.rsplit("/", 1)[-1])
        if match is None:
            continue
        if match[1] in lists:
            _refuse(f"both {shown(lists[match[1]])} and {shown(name)} are there; send one data set a zip")
        lists[match[1]] = name
    if "train" not in lists:
        _refuse("the zip has no list_98pt_rect_attr_train.txt")
    return lists


def _faces(source: Source, member: str, images: list[str], missing: list[dict[str, str]]) -> list[Face]:
    lines = read_lines(source, member)
    name = shown(member.rsplit("/", 1)[-1])
    paths = []
    for number, line in lines:
        fields = line.split(None, _NUM_NUMBERS)
        if len(fields) != _NUM_NUMBERS + 1:
            _refuse(f"line {number} of {name} has {len(fields)} fields; {_NUM_NUMBERS + 1} are needed")
        paths.append(plain(fields[-1]))
    members = locate(paths, among=images)
    faces = []
    for (number, line), path in zip(lines, paths, strict=True):
        if path in members:
            faces.append(Face(image=members[path], marks=line, place=f"line {number} of {name}"))
        else:
            missing.append({"path": shown(path), "reason": f"line {number} of {name} names it, and it is not there"})
    return faces


def _refuse(message: str) -> NoReturn:
    raise InputError("dataset_unreadable", message, hint=_HINT)
