"""What an uploaded data set is, in an instant: structure and limits, no pixel decoded. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill.data.archive import ACCEPTED, LongOutline, shown
from distill.data.cifar_layout import SIDE, cifar_layout, is_cifar
from distill.data.folder_layout import folder_layout, is_image, is_junk
from distill.data.idx_layout import idx_layout, is_idx
from distill.data.manifest_layout import is_manifest
from distill.data.npz_landmarks_layout import has_landmarks, npz_landmarks_layout
from distill.data.npz_layout import npz_layout
from distill.data.opening import PICKLE_HINT, open_upload
from distill.data.parquet_outline import check_parquet, is_parquet
from distill.data.pts_layout import is_pts, pts_layout
from distill.data.source import Source
from distill.data.webdataset_layout import is_webdataset
from distill.data.wflw_layout import is_wflw, wflw_layout
from distill.errors import InputError

Format = Literal["npz", "idx", "cifar", "imagefolder", "manifest", "webdataset", "parquet", "wflw", "300w"]

_OUTLINE_BYTES = 128 * 2**20
_OUTLINE_MEMBERS = 20_000  # more take long, and much memory, even to list

_CIFAR_PICKLE_HINT = (
    "That is CIFAR's version for Python, which is pickled: take the binary version, and zip its folder."
)
_CIFAR_PICKLES = ("/data_batch_1", "/cifar-10-batches-py/test_batch", "/cifar-100-python/train")


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The format that a file was found to have, and what its directory says.

    ``summary`` always has ``splits`` (images by split; ``test`` is None when it will be held out of ``train``;
    ``train_unlabeled`` where there are images without a label), ``image`` (channels, height, width, or None where
    only decoding tells), ``classes`` (names, or None where only the labels tell), ``per_class`` (or None),
    ``skipped``, ``ignored`` and ``unused`` (counts). With landmarks there are ``task`` (``landmarks``) and
    ``num_points`` too, and no classes. ``train`` is None as well where only the worker's reading tells.
    """

    format: Format | Literal["auto"]
    """``auto`` for a large tar.gz, or many members, where no format was asked for: the worker finds out."""
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
    try:
        with open_upload(path, at_most=_OUTLINE_BYTES, members=_OUTLINE_MEMBERS) as source:
            return inspect_source(source, format=format)
    except LongOutline:
        return Inspection(format=next((name for name in _FITS if name == format), "auto"), summary=_unknown())


def inspect_source(source: Source, *, format: str = "auto") -> Inspection:
    """The same of files that are no archive."""
    found = detect(source, format)
    return Inspection(format=found, summary=_SUMMARIES[found](source))


def detect(source: Source, wanted: str = "auto") -> Format:
    """The format by the names inside.

    Raises:
        InputError: ``unsupported_format`` or ``dataset_empty``; also when another format was asked for.
    """
    names = [name for name in source.files if not is_junk(name)]
    if not names:
        raise InputError("dataset_empty", "the archive holds no files", hint=ACCEPTED)
    fitting = [name for name, fits in _FITS.items() if fits(names)]
    chosen = [name for name in fitting if wanted in ("auto", name)]
    if not chosen:
        found = next(iter(fitting), None)
        examples = ", ".join(shown(name) for name in names[:5])
        looks = f"looks like {found}" if found else "is none of the accepted formats"
        asked = "" if wanted == "auto" else f", and {shown(wanted)} was asked for"
        raise InputError("unsupported_format", f"the archive {looks}{asked}; it holds {examples}", hint=_hint(names))
    return chosen[0]


def _hint(names: list[str]) -> str:
    if any(f"/{name}".endswith(_CIFAR_PICKLES) for name in names):
        return f"{_CIFAR_PICKLE_HINT} {ACCEPTED}"
    if any(name.endswith((".pkl", ".pickle")) for name in names):
        return f"{PICKLE_HINT} {ACCEPTED}"
    return ACCEPTED


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


def _parquet_summary(source: Source) -> dict[str, Any]:
    check_parquet(source)
    return _unknown()


def _unknown() -> dict[str, Any]:
    """The summary where nothing but the files themselves tells."""
    return _plain(train=None, test=None, image=None)


def _plain(*, train: int | None, test: int | None, image: dict[str, int] | None, unlabeled: int = 0) -> dict[str, Any]:
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


def _counted(train: int | None, test: int | None, unlabeled: int) -> dict[str, int | None]:
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
        "ignored": sum(layout.ignored.values()),
        "unused": layout.unused,
    }


_SUMMARIES: dict[Format, Callable[[Source], dict[str, Any]]] = {
    "npz": _npz_summary,
    "idx": _idx_summary,
    "cifar": _cifar_summary,
    "imagefolder": _folder_summary,
    "manifest": lambda _: _unknown(),
    "webdataset": lambda _: _unknown(),
    "parquet": _parquet_summary,
    "wflw": lambda source: wflw_layout(source).summary,
    "300w": lambda source: pts_layout(source).summary,
}

_FITS: dict[Format, Callable[[list[str]], bool]] = {
    "npz": lambda names: all(name.endswith(".npy") for name in names),
    "idx": lambda names: any(map(is_idx, names)),
    "wflw": lambda names: any(map(is_wflw, names)),
    "300w": lambda names: any(map(is_pts, names)),
    "parquet": lambda names: any(map(is_parquet, names)),
    "webdataset": is_webdataset,
    "manifest": lambda names: any(map(is_manifest, names)) and any(map(is_image, names)),
    "imagefolder": lambda names: any(map(is_image, names)),
    "cifar": lambda names: any(map(is_cifar, names)),
}
"""Whether an archive with these names may be of a format; the first that may is taken."""
