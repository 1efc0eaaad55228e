"""What an uploaded data set is, in an instant: structure and limits, no pixel decoded. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from distill.data.archive import ACCEPTED, Archive, shown
from distill.data.cifar_layout import SIDE, cifar_layout, is_cifar
from distill.data.folder_layout import folder_layout, is_image, is_junk
from distill.data.idx_layout import idx_layout, is_idx
from distill.data.npz_landmarks_layout import has_landmarks, npz_landmarks_layout
from distill.data.npz_layout import npz_layout
from distill.data.pts_layout import is_pts, pts_layout
from distill.data.source import Source
from distill.data.wflw_layout import is_wflw, wflw_layout
from distill.errors import InputError

Format = Literal["npz", "idx", "cifar", "imagefolder", "wflw", "300w"]

# (offset, magic, what it is, how it becomes something we read)
_OTHERS: list[tuple[int, bytes, str, str]] = [
    (0, b"\x93NUMPY", "a single numpy array", "Save images and labels together with np.savez_compressed."),
    (0, b"\x1f\x8b", "a gzip file", "Unpack it and send a zip."),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "Save its arrays with np.savez_compressed."),
    (0, b"PAR1", "a Parquet file", "Save its images into class folders and zip them."),
    (0, b"\x00\x00\x08\x03", "a single IDX file", "Zip it together with the other three."),
    (0, b"\x00\x00\x08\x01", "a single IDX file", "Zip it together with the other three."),
    (0, b"\x89PNG", "a single PNG image", "Zip the class folders with all images."),
    (0, b"\xff\xd8\xff", "a single JPEG image", "Zip the class folders with all images."),
    (8, b"WEBP", "a single WebP image", "Zip the class folders with all images."),
    (0, b"BM", "a single BMP image", "Zip the class folders with all images."),
    (0, b"GIF8", "a single GIF image", "Zip class folders with JPEG, PNG, WebP or BMP images."),
    (257, b"ustar", "a tar archive", "Unpack it and send a zip."),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "Unpack it and send a zip."),
    (0, b"Rar!", "a RAR archive", "Unpack it and send a zip."),
    (0, b"\xfd7zXZ", "an xz file", "Unpack it and send a zip."),
    (0, b"BZh", "a bzip2 file", "Unpack it and send a zip."),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "Unpack it and send a zip."),
]
_CIFAR_PICKLE_HINT = (
    "That is CIFAR's version for Python, which is pickled: take the binary version, and zip its folder."
)
_CIFAR_PICKLES = ("/data_batch_1", "/cifar-10-batches-py/test_batch", "/cifar-100-python/train")
_PICKLE_HINT = "Pickles can run code and are never loaded: save the arrays with np.savez_compressed."


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The format that a file was found to have, and what its directory says.

    ``summary`` always has ``splits`` (images by split; ``test`` is None when it will be held out of ``train``;
    ``train_unlabeled`` where there are images without a label), ``image`` (channels, height, width, or None where
    only decoding tells), ``classes`` (names, or None where only the labels tell), ``per_class`` (or None),
    ``skipped``, ``ignored`` and ``unused`` (counts). With landmarks there are ``task`` (``landmarks``) and
    ``num_points`` too, and no classes.
    """

    format: Format
    summary: dict[str, Any]


def inspect_dataset(path: Path, *, format: str = "auto") -> Inspection:
    """Say what a data set is without decoding it.

    Args:
        path: the uploaded file; its name does not matter.
        format: ``auto``, or the format that it has to have.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file``, ``unsupported_format``, ``dataset_empty``,
            ``dataset_unreadable`` or ``dataset_class_mismatch``.
    """
    with open_archive(path) as archive:
        return inspect_source(archive, format=format)


def inspect_source(source: Source, *, format: str = "auto") -> Inspection:
    """The same of files that are no archive."""
    found = detect(source, format)
    return Inspection(format=found, summary=_SUMMARIES[found](source))


def open_archive(path: Path) -> Archive:
    """The zip at ``path`` after all checks of its directory.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file``, or ``unsupported_format`` for any other kind of file.
    """
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise InputError("upload_corrupt", "the file is empty", hint="Upload it again.")
    if start[:4] not in (b"PK\x03\x04", b"PK\x05\x06"):
        _refuse_other(start)
    return Archive(path)


def detect(source: Source, wanted: str = "auto") -> Format:
    """The format by the names inside.

    Raises:
        InputError: ``unsupported_format`` or ``dataset_empty``; also when another format was asked for.
    """
    names = [name for name in source.files if not is_junk(name)]
    if not names:
        raise InputError("dataset_empty", "the archive holds no files", hint=ACCEPTED)
    found = _detect(names)
    if found is None or wanted not in ("auto", found):
        examples = ", ".join(shown(name) for name in names[:5])
        looks = f"looks like {found}" if found else "is none of the accepted formats"
        asked = "" if wanted == "auto" else f", and {shown(wanted)} was asked for"
        raise InputError("unsupported_format", f"the archive {looks}{asked}; it holds {examples}", hint=_hint(names))
    return found


def _detect(names: list[str]) -> Format | None:
    if all(name.endswith(".npy") for name in names):
        return "npz"
    if any(is_idx(name) for name in names):
        return "idx"
    if any(is_wflw(name) for name in names):
        return "wflw"
    if any(is_pts(name) for name in names):
        return "300w"
    if any(is_image(name) for name in names):
        return "imagefolder"
    if any(is_cifar(name) for name in names):
        return "cifar"
    return None


def _hint(names: list[str]) -> str:
    if any(f"/{name}".endswith(_CIFAR_PICKLES) for name in names):
        return f"{_CIFAR_PICKLE_HINT} {ACCEPTED}"
    if any(name.endswith((".pkl", ".pickle")) for name in names):
        return f"{_PICKLE_HINT} {ACCEPTED}"
    return ACCEPTED


def _refuse_other(start: bytes) -> NoReturn:
    kind, hint = "not a zip", ""
    if start[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        kind, hint = "a Python pickle", _PICKLE_HINT
    for offset, magic, name, advice in _OTHERS:
        if start[offset : offset + len(magic)] == magic:
            kind, hint = name, advice
            break
    raise InputError("unsupported_format", f"the file is {kind}", hint=f"{hint} {ACCEPTED}".strip())


def _npz_summary(source: Source) -> dict[str, Any]:
    if has_landmarks(source):
        return npz_landmarks_layout(source).summary
    layout = npz_layout(source)
    count, test = layout.train[0].shape[0], layout.test and layout.test[0].shape[0]
    labeled = layout.train[1] is not None
    unlabeled = (layout.unlabeled.shape[0] if layout.unlabeled else 0) if labeled else count
    return {
        **_plain(train=count if labeled else 0, test=test, unlabeled=unlabeled, image=layout.image),
        "classes": None if labeled else [],
        "unused": len(layout.unused),
    }


def _idx_summary(source: Source) -> dict[str, Any]:
    layout = idx_layout(source)
    test = layout.test and layout.test[0].shape[0]
    return _plain(train=layout.train[0].shape[0], test=test, image=layout.image)


def _cifar_summary(source: Source) -> dict[str, Any]:
    layout = cifar_layout(source)
    image = {"channels": 3, "height": SIDE, "width": SIDE}
    return {**_plain(train=layout.num_train, test=layout.num_test, image=image), "classes": layout.classes}


def _plain(*, train: int, test: int | None, image: dict[str, int], unlabeled: int = 0) -> dict[str, Any]:
    """The summary where only the labels tell what classes there are."""
    return {
        "splits": _counted(train, test, unlabeled),
        "image": image,
        "classes": None,
        "per_class": None,
        "skipped": 0,
        "ignored": 0,
        "unused": 0,
    }


def _counted(train: int, test: int | None, unlabeled: int) -> dict[str, int | None]:
    counts: dict[str, int | None] = {"train": train, "test": test}
    return counts | {"train_unlabeled": unlabeled} if unlabeled else counts


def _folder_summary(source: Source) -> dict[str, Any]:
    layout = folder_layout(source)
    splits = {"train": layout.train, "test": layout.test}
    counts = {name: Counter(c for _, c in pairs) for name, pairs in splits.items() if pairs is not None}
    test = None if layout.test is None else len(layout.test)
    return {
        "splits": _counted(len(layout.train), test, len(layout.unlabeled)),
        "image": None,
        "classes": layout.classes,
        "per_class": {
            split: {name: count[index] for index, name in enumerate(layout.classes)} for split, count in counts.items()
        },
        "skipped": len(layout.skipped),
        "ignored": layout.ignored,
        "unused": layout.unused,
    }


_SUMMARIES: dict[Format, Callable[[Source], dict[str, Any]]] = {
    "npz": _npz_summary,
    "idx": _idx_summary,
    "cifar": _cifar_summary,
    "imagefolder": _folder_summary,
    "wflw": lambda source: wflw_layout(source).summary,
    "300w": lambda source: pts_layout(source).summary,
}
