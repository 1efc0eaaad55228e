"""An uploaded data set as arrays. To be run in a confined child process: it decodes what strangers sent."""

from __future__ import annotations

from pathlib import Path

from distill.data.idx import read_idx
from distill.data.imagefolder import read_imagefolder
from distill.data.inspect import detect, open_archive
from distill.data.npz import read_npz
from distill.data.raw import RawDataset

__all__ = ["RawDataset", "read"]


def read(path: Path, *, format: str = "auto", seed: int = 0, image_size: int | None = None) -> RawDataset:
    """Read an .npz, a zip of IDX files or a zip of class folders.

    Args:
        path: the uploaded file; its name does not matter, and nothing is written beside it.
        format: ``auto``, ``npz``, ``idx`` or ``imagefolder``.
        seed: of the held-out split, where the upload has none.
        image_size: side in pixels that class folders' images are brought to; None chooses.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file``, ``unsupported_format``, ``dataset_empty``,
            ``dataset_unreadable`` or ``dataset_class_mismatch``.
    """
    with open_archive(path) as archive:
        found = detect(archive, format)
        if found == "npz":
            return read_npz(archive, seed=seed)
        if found == "idx":
            return read_idx(archive, seed=seed)
        return read_imagefolder(archive, seed=seed, image_size=image_size)
