"""The arrays of an .npz as a data set."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill.data import UNLABELED
from distill.data.archive import CHUNK_BYTES, shown
from distill.data.images import ImageFile, Images, Pixels, mapped, rows_per_piece
from distill.data.npz_layout import ArrayHeader, NpzLayout, Pair, npz_layout
from distill.data.raw import Labels, RawDataset, Split, assemble
from distill.data.reading import Reading
from distill.data.source import Source
from distill.data.spool import Spool
from distill.errors import InputError

_SAVE_AGAIN = "Save the arrays again with np.savez."


def read_npz(source: Source, how: Reading) -> RawDataset:
    """Images and labels of both splits; float images in 0..1 become bytes.

    Raises:
        InputError: as :func:`distill.data.npz_layout.npz_layout`, and for values out of range.
    """
    layout = npz_layout(source)
    train, test = _split(source, layout, layout.train, how), None
    if layout.test is not None:
        test = _split(source, layout, layout.test, how)
    unlabeled = None
    if layout.unlabeled is not None:
        unlabeled = read_images(source, layout.unlabeled, how, channels_last=layout.channels_last)
    if layout.train[1] is None:
        unlabeled = train.images
    unused = ", ".join(shown(key) for key in layout.unused[:10])
    return assemble(
        train if layout.train[1] is not None else None,
        test=test,
        classes=_names(source, layout.classes) if layout.classes is not None else None,
        unlabeled=unlabeled,
        seed=how.seed,
        notes=[f"Nothing was made of the arrays {unused}."] if unused else [],
    )


def _split(source: Source, layout: NpzLayout, pair: Pair, how: Reading) -> Split:
    images = read_images(source, pair[0], how, channels_last=layout.channels_last)
    if pair[1] is None:
        return Split(images=images, labels=np.full(len(images), UNLABELED, dtype=np.int64))
    return Split(images=images, labels=_labels(read_array(source, pair[1]), pair[1]))


def read_images(source: Source, header: ArrayHeader, how: Reading, *, channels_last: bool) -> Images:
    """An array of images as uint8 (N, C, H, W).

    Raises:
        InputError: ``upload_corrupt``, or ``dataset_unreadable`` for values out of range.
    """
    pixels = _mapped(source, header, how.folder)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif channels_last:
        pixels = pixels.transpose(0, 3, 1, 2)
    return Images.of(pixels if pixels.dtype == np.uint8 else _bytes(pixels, header, how.folder))


def _mapped(source: Source, header: ArrayHeader, folder: Path) -> NDArray[Any]:
    """A large array, put aside and mapped."""
    try:
        dtype = np.dtype(header.descr)
    except TypeError as error:
        raise InputError("upload_corrupt", f"{shown(header.key)} is damaged: {error}", hint=_SAVE_AGAIN) from error
    with Spool(folder) as spool:
        with source.open(header.member) as stream:
            stream.read(header.start)
            # To the end: the checksum is compared only there.
            piece = spool.append(iter(lambda: stream.read(CHUNK_BYTES), b""))
        if piece.file_size != math.prod(header.shape) * header.item_bytes:
            raise InputError("upload_corrupt", f"{shown(header.key)} is damaged: it ends early", hint=_SAVE_AGAIN)
        return mapped(spool, piece, dtype=dtype, shape=header.shape, order="F" if header.fortran_order else "C")


def read_array(source: Source, header: ArrayHeader) -> NDArray[Any]:
    """One array, in memory.

    Raises:
        InputError: ``upload_corrupt``.
    """
    with source.open(header.member) as stream:
        try:
            array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
        except ValueError as error:
            message = f"{shown(header.key)} is damaged: {error}"
            raise InputError("upload_corrupt", message, hint=_SAVE_AGAIN) from error
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


def _bytes(images_NCHW: NDArray[Any], header: ArrayHeader, folder: Path) -> Pixels:
    step = rows_per_piece(images_NCHW)
    pieces = [slice(start, start + step) for start in range(0, len(images_NCHW), step)]
    low = float(np.min([images_NCHW[piece].min() for piece in pieces]))
    high = float(np.max([images_NCHW[piece].max() for piece in pieces]))
    if not (low >= 0 and high <= 1 + 1e-6):  # also when either is NaN
        raise InputError(
            "dataset_unreadable",
            f"{shown(header.key)} {header.dtype} holds values from {low:g} to {high:g}",
            hint="Give float images in 0..1, or uint8 in 0..255: images.round().astype(np.uint8).",
        )
    with ImageFile(folder, images_NCHW.shape[1:]) as file:
        for piece in pieces:
            chunk = images_NCHW[piece].astype(np.float32)
            file.extend(np.rint(np.minimum(chunk, 1) * 255).astype(np.uint8))
        return file.array()


def _labels(labels: NDArray[Any], header: ArrayHeader) -> Labels:
    high = int(labels.max())
    if high > 2**31:
        message = f"{shown(header.key)} holds the label {high}"
        hint = "Number the classes 0, 1, 2, ... without gaps: np.unique(y, return_inverse=True)[1] does."
        raise InputError("dataset_unreadable", message, hint=hint)
    return labels.reshape(-1).astype(np.int64)
