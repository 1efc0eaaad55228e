"""What an uploaded data set is, in an instant: structure and limits, no pixel decoded. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from distill.data.archive import ACCEPTED, Archive, shown
from distill.data.folder_layout import folder_layout, is_image, is_junk
from distill.data.idx_layout import idx_layout, is_idx
from distill.data.npz_landmarks_layout import has_landmarks, npz_landmarks_layout
from distill.data.npz_layout import npz_layout
from distill.data.pts_layout import is_pts, pts_layout
from distill.data.wflw_layout import is_wflw, wflw_layout
from distill.errors import InputError

Format = Literal["npz", "idx", "imagefolder", "wflw", "300w"]

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
_PICKLE_HINT = "Pickles can run code and are never loaded: save the arrays with np.savez_compressed."


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The format that a file was found to have, and what its directory says.

    ``summary`` always has ``splits`` (images by split; ``test`` is None when it will be held out of
    ``train``), ``image`` (channels, height, width, or None where only decoding tells), ``classes`` (names, or None
    where only the labels tell), ``per_class`` (or None), ``skipped``, ``ignored`` and ``unused`` (counts). With
    landmarks there are ``task`` (``landmarks``) and ``num_points`` too, and no classes.
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
        found = detect(archive, format)
        return Inspection(format=found, summary=_SUMMARIES[found](archive))


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


def detect(archive: Archive, wanted: str = "auto") -> Format:
    """The format by the names inside.

    Raises:
        InputError: ``unsupported_format`` or ``dataset_empty``; also when another format was asked for.
    """
    names = [name for name in archive.files if not is_junk(name)]
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
    return None


def _hint(names: list[str]) -> str:
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


def _npz_summary(archive: Archive) -> dict[str, Any]:
    if has_landmarks(archive):
        return npz_landmarks_layout(archive).summary
    layout = npz_layout(archive)
    test = layout.test[0].shape[0] if layout.test else None
    return {
        "splits": {"train": layout.train[0].shape[0], "test": test},
        "image": layout.image,
        "classes": None,
        "per_class": None,
        "skipped": 0,
        "ignored": 0,
        "unused": len(layout.unused),
    }


def _idx_summary(archive: Archive) -> dict[str, Any]:
    layout = idx_layout(archive)
    count, height, width = layout.train[0].shape
    return {
        "splits": {"train": count, "test": layout.test[0].shape[0] if layout.test else None},
        "image": {"channels": 1, "height": height, "width": width},
        "classes": None,
        "per_class": None,
        "skipped": 0,
        "ignored": 0,
        "unused": 0,
    }


def _folder_summary(archive: Archive) -> dict[str, Any]:
    layout = folder_layout(archive)
    splits = {"train": layout.train, "test": layout.test}
    counts = {name: Counter(c for _, c in pairs) for name, pairs in splits.items() if pairs is not None}
    return {
        "splits": {name: None if pairs is None else len(pairs) for name, pairs in splits.items()},
        "image": None,
        "classes": layout.classes,
        "per_class": {
            split: {name: count[index] for index, name in enumerate(layout.classes)} for split, count in counts.items()
        },
        "skipped": len(layout.skipped),
        "ignored": layout.ignored,
        "unused": layout.unused,
    }


_SUMMARIES: dict[Format, Callable[[Archive], dict[str, Any]]] = {
    "npz": _npz_summary,
    "idx": _idx_summary,
    "imagefolder": _folder_summary,
    "wflw": lambda archive: wflw_layout(archive).summary,
    "300w": lambda archive: pts_layout(archive).summary,
}
