"""An uploaded data set, read piece by piece. To be run in a confined child process: it decodes what strangers sent."""

from __future__ import annotations

import tempfile
from pathlib import Path

from distill.data import presets
from distill.data.cifar import read_cifar
from distill.data.faces import read_300w, read_wflw
from distill.data.idx import read_idx
from distill.data.imagefolder import read_imagefolder, read_layout
from distill.data.inspect import Format, detect
from distill.data.manifest_layout import manifest_layout
from distill.data.npz import read_npz
from distill.data.npz_landmarks import read_npz_landmarks
from distill.data.npz_landmarks_layout import has_landmarks
from distill.data.opening import open_upload
from distill.data.parquet import read_parquet
from distill.data.raw import RawDataset, normalised_as
from distill.data.raw_landmarks import RawLandmarks
from distill.data.reading import MAX_BROKEN_SHARE, Reading
from distill.data.source import Source
from distill.data.webdataset_layout import opened_shards, webdataset_layout
from distill.errors import InputError

__all__ = ["RawDataset", "RawLandmarks", "read", "read_preset"]


def read(
    path: Path,
    *,
    format: str = "auto",
    seed: int = 0,
    image_size: int | None = None,
    max_broken_share: float = MAX_BROKEN_SHARE,
    folder: Path | None = None,
) -> RawDataset | RawLandmarks:
    """Read an .npz, or an archive of IDX files, of CIFAR's binary files, of images with their labels, or of landmarks.

    Args:
        path: the uploaded file; its name does not matter.
        format: ``auto`` or one of :data:`distill.data.inspect.Format`.
        seed: as in :class:`distill.data.reading.Reading`; ``image_size`` and ``max_broken_share`` too.
        folder: on whose disk pixels, and what must be unpacked, are put aside; None: beside the upload.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file``, ``unsupported_format``, ``dataset_empty``,
            ``dataset_unreadable``, ``dataset_class_mismatch`` or ``storage_full``.
    """
    how = Reading(folder=folder or path.parent, seed=seed, image_size=image_size, max_broken_share=max_broken_share)
    with open_upload(path, folder=how.folder) as archive:
        found = detect(archive, format)
        if found == "npz" and has_landmarks(archive):
            return read_npz_landmarks(archive, how)
        if found == "wflw":
            return read_wflw(archive, how)
        if found == "300w":
            return read_300w(archive, how)
        if found == "parquet":
            return read_parquet(archive, how)
        if found == "webdataset":
            with opened_shards(archive, how.folder) as source:
                return read_layout(source, webdataset_layout(source), how)
        if found == "manifest":
            return read_layout(archive, manifest_layout(archive), how)
        return _read(archive, found, how)


def read_preset(
    root: Path,
    *,
    name: str,
    sha256: str | None = None,
    seed: int = 0,
    max_broken_share: float = MAX_BROKEN_SHARE,
    folder: Path | None = None,
) -> RawDataset:
    """Read a public data set from the operator's folder.

    Args:
        root: the folder of :mod:`distill.data.presets`.
        name: of the preset.
        sha256: the digest that its files must have; None: whatever is there.
        seed: as in :func:`read`; ``max_broken_share`` too.
        folder: as there; None: the system's folder of temporary files.

    Raises:
        InputError: as :func:`read`; ``dataset_unreadable`` when the files are not in place or have changed.
    """
    preset = presets.by_name(name)
    tree = presets.open_preset(preset, root)
    if sha256 not in (None, presets.digest(preset, tree)):
        message = f"The files of {name} are not those that were there when it was asked for."
        raise InputError("dataset_unreadable", message, hint="Ask for the preset again.")
    how = Reading(folder=folder or Path(tempfile.gettempdir()), seed=seed, max_broken_share=max_broken_share)
    raw = _read(tree, detect(tree), how, classes=preset.classes)
    return normalised_as(raw, preset.normalisation) if preset.normalisation else raw


def _read(source: Source, found: Format, how: Reading, *, classes: tuple[str, ...] | None = None) -> RawDataset:
    if found == "npz":
        return read_npz(source, how)
    if found == "idx":
        return read_idx(source, how, classes=classes)
    if found == "cifar":
        return read_cifar(source, how)
    return read_imagefolder(source, how)
