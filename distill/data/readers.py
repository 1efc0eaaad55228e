"""An uploaded data set as arrays. To be run in a confined child process: it decodes what strangers sent."""

from __future__ import annotations

from pathlib import Path

from distill.data.faces import read_300w, read_wflw
from distill.data.idx import read_idx
from distill.data.imagefolder import read_imagefolder
from distill.data.inspect import detect, open_archive
from distill.data.npz import read_npz
from distill.data.npz_landmarks import read_npz_landmarks
from distill.data.npz_landmarks_layout import has_landmarks
from distill.data.raw import RawDataset
from distill.data.raw_landmarks import RawLandmarks

__all__ = ["RawDataset", "RawLandmarks", "read"]


def read(
    path: Path, *, format: str = "auto", seed: int = 0, image_size: int | None = None
) -> RawDataset | RawLandmarks:
    """Read an .npz, a zip of IDX files, a zip of class folders, or a zip of faces as WFLW's or 300W's.

    Args:
        path: the uploaded file; its name does not matter, and nothing is written beside it.
        format: ``auto``, ``npz``, ``idx``, ``imagefolder``, ``wflw`` or ``300w``.
        seed: of the held-out split, where the upload has none.
        image_size: side in pixels that images in folders, or faces, are brought to; None chooses.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file``, ``unsupported_format``, ``dataset_empty``,
            ``dataset_unreadable`` or ``dataset_class_mismatch``.
    """
    with open_archive(path) as archive:
        found = detect(archive, format)
        if found == "npz":
            reader = read_npz_landmarks if has_landmarks(archive) else read_npz
            return reader(archive, seed=seed)
        if found == "idx":
            return read_idx(archive, seed=seed)
        if found == "wflw":
            return read_wflw(archive, seed=seed, image_size=image_size)
        if found == "300w":
            return read_300w(archive, seed=seed, image_size=image_size)
        return read_imagefolder(archive, seed=seed, image_size=image_size)
