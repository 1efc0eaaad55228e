"""How the names in a zip of images make splits and classes. Standard library only.

Class folders stand alone (``cat/1.png``) or in split folders (``train/cat/1.png``, ``test/cat/2.png``). What lies in
``train_unlabeled/`` or ``unlabeled/``, at any depth, is for training without a label. Where there are no class folders
at all, no image has a label: a flat folder, ``train_unlabeled/`` alone, or flat ``train/`` and ``test/``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NoReturn

from distill.data.archive import check_ratio, shown
from distill.data.image_layout import ImageLayout, skip, unlabeled
from distill.data.source import Source
from distill.errors import InputError

MAX_IMAGE_BYTES = 50 * 2**20
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_HIDDEN = {".DS_Store", ".ipynb_checkpoints"}
SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
UNLABELED_FOLDERS = {"train_unlabeled", "train_unlabelled", "unlabeled", "unlabelled"}
_HINT = (
    "Put the images into class folders: cat/1.png, dog/1.png; or train/cat/1.png and test/cat/2.png. Images without "
    "labels go to train_unlabeled/ beside them, or lie flat where there are no class folders at all."
)


@dataclass
class _Tree:
    by_split: bool
    classes: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Members in class folders, by split and class."""
    loose: dict[str, list[str]] = field(default_factory=dict)
    """Members in no class folder, by split."""
    unlabeled: list[str] = field(default_factory=list)
    """Members of the folders that are named so."""

    @property
    def has_classes(self) -> bool:
        """A single folder beside nothing else is the folder that the images were in, and no class."""
        train = self.classes.get("train", {})
        return bool(self.classes) and (self.by_split or len(train) > 1 or bool(self.unlabeled))


def is_junk(name: str) -> bool:
    """Whether a system left this file behind: dot files and folders, __MACOSX, Thumbs.db."""
    return any(part.startswith(".") or part in _JUNK for part in name.split("/"))


def junk_kinds(names: Iterable[str]) -> dict[str, int]:
    """How many of the names are junk, by kind: ``__MACOSX``, ``.DS_Store``, ``._*``, ``.*`` for other dot files."""
    kinds = Counter(_junk_kind(name) for name in names if is_junk(name))
    return dict(sorted(kinds.items()))


def _junk_kind(name: str) -> str:
    part = next(part for part in name.split("/") if is_junk(part))
    if part in _JUNK or part in _HIDDEN:
        return part
    return "._*" if part.startswith("._") else ".*"


def is_image(name: str) -> bool:
    """Whether the name is that of an image we read, and not junk."""
    return name.lower().endswith(_SUFFIXES) and not is_junk(name)


def folder_layout(source: Source) -> ImageLayout:
    """Find splits and classes by the folders' names.

    Raises:
        InputError: ``dataset_empty`` with only one class, ``dataset_class_mismatch`` when the splits have
            other classes, ``dataset_unreadable`` for unclear folders, ``unsafe_file`` beyond the limits.
    """
    names = [name for name in source.files if not is_junk(name)]
    images = [name for name in names if is_image(name)]
    check_sizes(source, images)
    tree = _grow(images)
    loose = [member for members in tree.loose.values() for member in members] if tree.has_classes else []
    others = [name for name in names if not is_image(name)]
    return replace(
        _with_classes(tree) if tree.has_classes else _without_classes(tree),
        skipped=[skip(member, "not in a class folder") for member in loose]
        + [skip(name, "not a JPEG, PNG, WebP or BMP") for name in others],
        ignored=junk_kinds(source.files),
    )


def _with_classes(tree: _Tree) -> ImageLayout:
    train, test, val = (tree.classes.get(split, {}) for split in ("train", "test", "val"))
    held_out = test or val
    _check_classes(train, held_out)
    classes = sorted(train)
    return ImageLayout(
        classes=classes,
        train=_pairs(train, classes),
        unlabeled=unlabeled(tree.unlabeled),
        test=_pairs(held_out, classes) if held_out else None,
        unused=sum(map(len, val.values())) if test else 0,
    )


def _without_classes(tree: _Tree) -> ImageLayout:
    in_a_folder = [member for members in tree.classes.get("train", {}).values() for member in members]
    train = tree.unlabeled + tree.loose.get("train", []) + in_a_folder
    if not train:
        raise InputError("dataset_empty", "there are no images for training", hint=_HINT)
    test, val = (tree.loose.get(split, []) for split in ("test", "val"))
    return ImageLayout(
        classes=[],
        train=[],
        unlabeled=unlabeled(train),
        test=unlabeled(test or val) or None,
        unused=len(val) if test else 0,
    )


def check_sizes(source: Source, images: list[str]) -> None:
    """Whether each image is of a size that images have, and whether all together are no bomb.

    Raises:
        InputError: ``unsafe_file``.
    """
    packed = unpacked = 0
    for name in images:
        info = source.files[name]
        if info.file_size > MAX_IMAGE_BYTES:
            _unsafe(f"{shown(name)} takes {info.file_size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}")
        packed, unpacked = packed + info.compress_size, unpacked + info.file_size
    check_ratio(packed, unpacked, of="images")


def _grow(images: list[str]) -> _Tree:
    paths = [name.split("/") for name in images]
    root = _wrapper(paths)
    parts_of = {name: path[root:] for name, path in zip(images, paths, strict=True)}
    tops = {parts[0] for parts in parts_of.values() if len(parts) > 1}
    named = tops - UNLABELED_FOLDERS
    by_split = bool(named) and named <= set(SPLITS) and ("train" in named or named != tops)
    if not by_split and "train" in tops and all(len(p) > 2 for p in parts_of.values() if p[0] == "train"):
        others = ", ".join(sorted(shown(top) for top in named - set(SPLITS))[:5])
        raise InputError("dataset_unreadable", f"beside train/ there are images in {others}", hint=_HINT)
    tree = _Tree(by_split=by_split)
    for name, (*folders, _) in parts_of.items():
        if folders and folders[0] in UNLABELED_FOLDERS:
            tree.unlabeled.append(name)
            continue
        split = SPLITS[folders.pop(0)] if by_split and folders else "train"
        if folders:
            tree.classes.setdefault(split, {}).setdefault(folders[0], []).append(name)
        else:
            tree.loose.setdefault(split, []).append(name)
    return tree


def _wrapper(paths: list[list[str]]) -> int:
    """1 when a single folder wraps everything, else 0."""
    tops = {path[0] for path in paths}
    return int(len(tops) == 1 and not tops & UNLABELED_FOLDERS and all(len(path) > 2 for path in paths))


def _check_classes(train: dict[str, list[str]], held_out: dict[str, list[str]]) -> None:
    if not train:
        message = f"there are class folders beside train, such as {_few(sorted(held_out))}, and none in train"
        raise InputError("dataset_unreadable", message, hint=_HINT)
    if held_out and set(train) != set(held_out):
        only_train, only_test = sorted(set(train) - set(held_out)), sorted(set(held_out) - set(train))
        raise InputError(
            "dataset_class_mismatch",
            f"the splits have different classes: only in train {_few(only_train)}, only in the other {_few(only_test)}",
            hint="Give every class a folder with images in both splits.",
        )
    if len(train) < 2:
        raise InputError("dataset_empty", f"the only class with images is {_few(list(train))}", hint=_HINT)


def _few(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(map(shown, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _pairs(split: dict[str, list[str]], classes: list[str]) -> list[tuple[str, int]]:
    return [(member, index) for index, name in enumerate(classes) for member in sorted(split[name])]


def _unsafe(message: str) -> NoReturn:
    raise InputError("unsafe_file", message, hint="Leave that file out, or save it smaller.")
