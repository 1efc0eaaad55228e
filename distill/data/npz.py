"""The arrays of an .npz as a data set."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data import UNLABELED
from distill.data.archive import shown
from distill.data.npz_layout import ArrayHeader, NpzLayout, Pair, npz_layout
from distill.data.raw import Images, Labels, RawDataset, Split, assemble
from distill.data.source import Source
from distill.errors import InputError

_CHUNK = 1024


def read_npz(source: Source, *, seed: int) -> RawDataset:
    """Images and labels of both splits; float images in 0..1 become bytes.

    Raises:
        InputError: as :func:`distill.data.npz_layout.npz_layout`, and for values out of range.
    """
    layout = npz_layout(source)
    train, test = _split(source, layout, layout.train), None
    if layout.test is not None:
        test = _split(source, layout, layout.test)
    unlabeled = None
    if layout.unlabeled is not None:
        unlabeled = read_images(source, layout.unlabeled, channels_last=layout.channels_last)
    if layout.train[1] is None:
        unlabeled = train.images
    unused = ", ".join(shown(key) for key in layout.unused[:10])
    return assemble(
        train if layout.train[1] is not None else None,
        test=test,
        classes=_names(source, layout.classes) if layout.classes is not None else None,
        unlabeled=unlabeled,
        seed=seed,
        notes=[f"Nothing was made of the arrays {unused}."] if unused else [],
    )


def _split(source: Source, layout: NpzLayout, pair: Pair) -> Split:
    images = read_images(source, pair[0], channels_last=layout.channels_last)
    if pair[1] is None:
        return Split(images=images, labels=np.full(len(images), UNLABELED, dtype=np.int64))
    return Split(images=images, labels=_labels(read_array(source, pair[1]), pair[1]))


def read_images(source: Source, header: ArrayHeader, *, channels_last: bool) -> Images:
    """An array of images as uint8 (N, C, H, W).

    Raises:
        InputError: ``upload_corrupt``, or ``dataset_unreadable`` for values out of range.
    """
    pixels = _bytes(read_array(source, header), header)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif channels_last:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return np.ascontiguousarray(pixels)


def read_array(source: Source, header: ArrayHeader) -> NDArray[Any]:
    """One array.

    Raises:
        InputError: ``upload_corrupt``.
    """
    with source.open(header.member) as stream:
        try:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        except ValueError as error:
            message = f"{shown(header.key)} is damaged: {error}"
            raise InputError("upload_corrupt", message, hint="Save the arrays again with np.savez.") from error
        # The checksum is compared only once the end is reached.
        stream.read(1)
    return array


def _names(source: Source, header: ArrayHeader) -> list[str]:
    names = read_array(source, header)
    if header.item_bytes:
        codes = names.astype(names.dtype.newbyteorder("=")).view(np.uint32)
        # numpy stores any 32 bits; Python fails in its own ways on what is no character.
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            message = f"{shown(header.key)} holds what is no text"
            raise InputError("dataset_unreadable", message, hint="Save the names as np.array(names, dtype=str).")
    return [str(name) for name in names]


def _bytes(images: NDArray[Any], header: ArrayHeader) -> Images:
    if images.dtype == np.uint8:
        return images
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1 + 1e-6):  # also when either is NaN
        raise InputError(
            "dataset_unreadable",
            f"{shown(header.key)} {header.dtype} holds values from {low:g} to {high:g}",
            hint="Give float images in 0..1, or uint8 in 0..255: images.round().astype(np.uint8).",
        )
    scaled = np.empty(images.shape, dtype=np.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].astype(np.float32)
        scaled[start : start + _CHUNK] = np.rint(np.minimum(chunk, 1) * 255)
    return scaled


def _labels(labels: NDArray[Any], header: ArrayHeader) -> Labels:
    high = int(labels.max())
    if high > 2**31:
        message = f"{shown(header.key)} holds the label {high}"
        hint = "Number the classes 0, 1, 2, ... without gaps: np.unique(y, return_inverse=True)[1] does."
        raise InputError("dataset_unreadable", message, hint=hint)
    return labels.reshape(-1).astype(np.int64)
