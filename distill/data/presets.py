"""Public data sets by name: which of the operator's files they are, and what is known of them. Standard library only.

The operator puts the original files into one folder; nothing is ever downloaded. A preset's files are looked for in
``<root>/<preset>``, in folders as the archives and torchvision leave them, and in ``root`` itself when that is called
like one of these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distill.data import known
from distill.data.archive import MAX_MEMBERS
from distill.data.file_tree import FileTree
from distill.data.folder_layout import is_image
from distill.data.known import Normalisation
from distill.errors import InputError

_IMAGE_SPLITS = ("train", "val", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A data set that is known by its name."""

    name: str
    title: str
    folders: tuple[str, ...]
    """Where its files lie when nobody has renamed anything, below the root or below ``<root>/<name>``."""
    files: tuple[str, ...]
    """What must be there, each plain or with .gz; none: class folders of images in train/ and val/."""
    optional: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    """Names in the order of the labels, where no file tells them."""
    normalisation: Normalisation | None = None
    """Where the reader does not know it from the format."""

    @property
    def needs(self) -> str:
        """The files in words."""
        if self.files:
            return f"{', '.join(self.files)} in {self.name}/"
        return f"class folders of images in {self.name}/train/ and {self.name}/val/"


def _idx(prefix: str, test: str) -> tuple[str, ...]:
    return tuple(
        f"{prefix}{split}-{part}-ubyte" for split in ("train", test) for part in ("images-idx3", "labels-idx1")
    )


_EMNIST_FOLDERS = ("emnist", "EMNIST/raw", "EMNIST", "gzip")
_PRESETS = (
    Preset(
        name="fashion-mnist",
        title="Fashion-MNIST: 70,000 grey images of clothes, 10 classes",
        folders=("FashionMNIST/raw", "dataset-fashion-mnist", "data/fashion", "fashion"),
        files=_idx("", "t10k"),
        classes=known.FASHION,
    ),
    Preset(
        name="mnist",
        title="MNIST: 70,000 handwritten digits, 10 classes",
        folders=("MNIST/raw",),
        files=_idx("", "t10k"),
        classes=known.DIGITS,
    ),
    Preset(
        name="emnist-letters",
        title="EMNIST Letters: handwritten letters, 26 classes",
        folders=_EMNIST_FOLDERS,
        files=_idx("emnist-letters-", "test"),
    ),
    Preset(
        name="emnist-balanced",
        title="EMNIST Balanced: handwritten digits and letters, 47 classes",
        folders=_EMNIST_FOLDERS,
        files=_idx("emnist-balanced-", "test"),
    ),
    Preset(
        name="cifar-10",
        title="CIFAR-10: 60,000 colour images of 32 x 32 pixels, 10 classes",
        folders=("cifar-10-batches-bin",),
        files=(*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
        optional=("batches.meta.txt",),
    ),
    Preset(
        name="cifar-100",
        title="CIFAR-100: 60,000 colour images of 32 x 32 pixels, 100 classes",
        folders=("cifar-100-binary",),
        files=("train.bin", "test.bin"),
        optional=("fine_label_names.txt",),
    ),
    Preset(
        name="imagenet",
        title="ImageNet, or a part of it: photos in class folders",
        folders=("ILSVRC2012", "ILSVRC/Data/CLS-LOC"),
        files=(),
        normalisation=known.IMAGENET,
    ),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _PRESETS}


def by_name(name: str) -> Preset:
    """A preset.

    Raises:
        InputError: ``not_found``, with near names.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower(), PRESETS, n=3, cutoff=0.5)
        message = f"There is no preset {name[:80]!r}; there are {', '.join(PRESETS)}."
        raise InputError("not_found", message, hint="GET /presets lists them.", did_you_mean=near)
    return PRESETS[name]


def is_in_place(preset: Preset, root: Path) -> bool:
    """Whether the files are there, as far as names tell."""
    return _folder(preset, root) is not None


def open_preset(preset: Preset, root: Path) -> FileTree:
    """The preset's files.

    Raises:
        InputError: ``dataset_unreadable`` when they are not in place, ``unsafe_file`` beyond the limits.
    """
    folder = _folder(preset, root)
    if folder is None:
        raise InputError(
            "dataset_unreadable",
            f"The files of {preset.name} are not in place.",
            hint=f"The operator puts {preset.needs} into the folder LIMBECK_PRESETS_DIR; nothing is downloaded.",
        )
    try:
        return FileTree(_images(folder) if not preset.files else _named(preset, folder))
    except OSError as error:
        raise InputError(
            "dataset_unreadable",
            f"The files of {preset.name} cannot be read: {error.strerror}.",
            hint="The operator gives the service the right to read the folder LIMBECK_PRESETS_DIR.",
        ) from error


def digest(preset: Preset, tree: FileTree) -> str:
    """SHA-256 in hex by which the same files are known again: of what is in them; of images their sizes and times."""
    return tree.digest(of_contents=bool(preset.files))


def _folder(preset: Preset, root: Path) -> Path | None:
    own = root / preset.name
    places = [own, *(base / folder for base in (own, root) for folder in preset.folders)]
    # The root may itself be the folder of one preset, as an installed package's is.
    if any(root.resolve().as_posix().endswith(f"/{name}") for name in (preset.name, *preset.folders)):
        places.append(root)
    return next((place for place in places if _holds(preset, place)), None)


def _holds(preset: Preset, folder: Path) -> bool:
    try:
        if preset.files:
            return all(_one(folder, name) is not None for name in preset.files)
        return any(entry.is_dir() for entry in (folder / "train").iterdir())
    except OSError:
        return False


def _one(folder: Path, name: str) -> Path | None:
    """The plain file, or its gzipped twin: torchvision leaves both in one folder."""
    suffixes = ("", ".gz") if name.endswith("-ubyte") else ("",)
    return next((path for suffix in suffixes if (path := folder / f"{name}{suffix}").is_file()), None)


def _named(preset: Preset, folder: Path) -> dict[str, Path]:
    paths = (_one(folder, name) for name in (*preset.files, *preset.optional))
    return {path.name: path for path in paths if path is not None}


def _images(folder: Path) -> dict[str, Path]:
    """Images two folders deep, as ``train/n01440764/1.JPEG``; one more than is allowed is enough to be refused."""
    found: dict[str, Path] = {}
    for split in filter(lambda split: (folder / split).is_dir(), _IMAGE_SPLITS):
        before = len(found)
        for name, path in _in_class_folders(folder, split):
            found[name] = path
            if len(found) > MAX_MEMBERS:
                return found
        if len(found) == before:
            message = f"{split}/ holds no class folders with images"
            raise InputError("dataset_unreadable", message, hint="Sort its images into folders as those of train/ are.")
    return found


def _in_class_folders(folder: Path, split: str) -> Iterator[tuple[str, Path]]:
    for class_folder in (folder / split).iterdir():
        if class_folder.is_dir():
            for path in class_folder.iterdir():
                name = f"{split}/{class_folder.name}/{path.name}"
                if is_image(name):
                    yield name, path
