"""How the names in a zip of class folders make splits and classes. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from distill.data.archive import Archive, shown
from distill.errors import InputError

MAX_IMAGE_BYTES = 50 * 2**20
_MAX_RATIO = 200
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_JUNK = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_HINT = "Put the images into class folders: cat/1.png, dog/1.png; or train/cat/1.png and test/cat/2.png."


@dataclass(frozen=True, kw_only=True)
class FolderLayout:
    """Members by split and class. ``test`` is None when a part of ``train`` must be held out."""

    classes: list[str]
    """Sorted by code point, as torchvision sorts them."""
    train: list[tuple[str, int]]
    """(member, class index) of every image."""
    test: list[tuple[str, int]] | None
    skipped: list[dict[str, str]]
    """Files that are no images of a class, with ``path`` and ``reason``."""
    ignored: int
    """Files that systems leave behind, such as .DS_Store."""
    unused: int
    """Images of a validation split beside a test split."""


@dataclass
class _Tree:
    splits: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def add(self, split: str, class_name: str, member: str) -> None:
        self.splits.setdefault(split, {}).setdefault(class_name, []).append(member)

    def skip(self, member: str, reason: str) -> None:
        self.skipped.append({"path": shown(member), "reason": reason})


def is_junk(name: str) -> bool:
    """Whether a system left this file behind: dot files and folders, __MACOSX, Thumbs.db."""
    return any(part.startswith(".") or part in _JUNK for part in name.split("/"))


def is_image(name: str) -> bool:
    """Whether the name is that of an image we read, and not junk."""
    return name.lower().endswith(_SUFFIXES) and not is_junk(name)


def folder_layout(archive: Archive) -> FolderLayout:
    """Find splits and classes by the folders' names.

    Raises:
        InputError: ``dataset_empty`` with fewer than two classes, ``dataset_class_mismatch`` when the splits have
            other classes, ``dataset_unreadable`` for unclear folders, ``unsafe_file`` beyond the limits.
    """
    names = [name for name in archive.files if not is_junk(name)]
    images = [name for name in names if is_image(name)]
    _check_sizes(archive, images)
    tree = _grow(images)
    for name in names:
        if not is_image(name):
            tree.skip(name, "not a JPEG, PNG, WebP or BMP")
    train, test, val = (tree.splits.get(split, {}) for split in ("train", "test", "val"))
    held_out = test or val
    _check_classes(train, held_out)
    classes = sorted(train)
    return FolderLayout(
        classes=classes,
        train=_pairs(train, classes),
        test=_pairs(held_out, classes) if held_out else None,
        skipped=tree.skipped,
        ignored=len(archive.files) - len(names),
        unused=sum(map(len, val.values())) if test else 0,
    )


def _check_sizes(archive: Archive, images: list[str]) -> None:
    packed = unpacked = 0
    for name in images:
        info = archive.files[name]
        if info.file_size > MAX_IMAGE_BYTES:
            _unsafe(f"{shown(name)} takes {info.file_size:,} bytes; the limit is {MAX_IMAGE_BYTES:,}")
        packed, unpacked = packed + info.compress_size, unpacked + info.file_size
    # Images are compressed already; only a bomb shrinks like this.
    if unpacked > 2**20 and unpacked > _MAX_RATIO * packed:
        _unsafe(f"{packed:,} bytes of images unpack to {unpacked:,}")


def _grow(images: list[str]) -> _Tree:
    paths = [name.split("/") for name in images]
    root = _wrapper(paths)
    parts_of = {name: path[root:] for name, path in zip(images, paths, strict=True)}
    tops = {parts[0] for parts in parts_of.values() if len(parts) > 1}
    by_split = "train" in tops and tops <= set(_SPLITS)
    if not by_split and "train" in tops and all(len(p) > 2 for p in parts_of.values() if p[0] == "train"):
        others = ", ".join(sorted(shown(top) for top in tops - set(_SPLITS))[:5])
        raise InputError("dataset_unreadable", f"beside train/ there are images in {others}", hint=_HINT)
    tree = _Tree()
    for name, parts in parts_of.items():
        if len(parts) < (3 if by_split else 2):
            tree.skip(name, "not in a class folder")
        elif by_split:
            tree.add(_SPLITS[parts[0]], parts[1], name)
        else:
            tree.add("train", parts[0], name)
    return tree


def _wrapper(paths: list[list[str]]) -> int:
    """1 when a single folder wraps everything, else 0."""
    return int(len({path[0] for path in paths}) == 1 and all(len(path) > 2 for path in paths))


def _check_classes(train: dict[str, list[str]], held_out: dict[str, list[str]]) -> None:
    if not train:
        raise InputError("dataset_empty", "the zip has no images in class folders", hint=_HINT)
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
