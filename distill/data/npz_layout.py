"""Which arrays an .npz holds, read from their headers alone. Standard library only."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import dataclass
from typing import IO, Any, NoReturn

from distill.data.archive import shown
from distill.data.source import Source
from distill.errors import InputError

_MAX_ARRAYS = 64
_MAX_HEADER_BYTES = 4096
_MAX_SIDE = 1024
_IMAGES = {
    "train": ("x_train", "train_images"),
    "test": ("x_test", "test_images"),
    "val": ("x_val", "val_images"),
}
_LABELS = {
    "train": ("y_train", "train_labels"),
    "test": ("y_test", "test_labels"),
    "val": ("y_val", "val_labels"),
}
_UNLABELED = ("x_train_unlabeled", "unlabeled_images")
_HINT = (
    "An .npz needs x_train (N, H, W[, C]) of uint8 and y_train (N,) of integers, and x_test, y_test likewise; "
    "x_train_unlabeled may follow, and without any label x_train and x_test stand alone."
)


@dataclass(frozen=True, kw_only=True)
class ArrayHeader:
    """One array: its key, the member that holds it, and what numpy's header says of it.

    Attributes:
        descr: the type as numpy writes it, such as ``<f4``; ``kind`` is its letter, ``item_bytes`` its size.
        fortran_order: whether the first axis changes fastest.
        start: bytes before the items.
    """

    key: str
    member: str
    descr: str
    kind: str
    item_bytes: int
    shape: tuple[int, ...]
    fortran_order: bool
    start: int

    @property
    def dtype(self) -> str:
        """In numpy's words, such as ``uint8``."""
        names = {"u": "uint", "i": "int", "f": "float"}
        return f"{names.get(self.kind, self.kind)}{self.item_bytes * 8}"


Pair = tuple[ArrayHeader, ArrayHeader | None]


@dataclass(frozen=True, kw_only=True)
class NpzLayout:
    """The arrays that will be used: images with their labels, which are None throughout or nowhere.

    ``test`` is None when a part of ``train`` must be held out.
    """

    train: Pair
    test: Pair | None
    unlabeled: ArrayHeader | None
    """More images for training, beside labelled ones."""
    classes: ArrayHeader | None
    channels_last: bool
    unused: list[str]
    """Keys that nothing is made of."""

    @property
    def image(self) -> dict[str, int]:
        return image_shape(self.train[0])


def npz_layout(source: Source) -> NpzLayout:
    """Find images and labels and check that types, shapes and sizes agree.

    Raises:
        InputError: ``unsafe_file`` for arrays of objects, ``dataset_empty``, ``dataset_unreadable``,
            ``dataset_class_mismatch`` never (the values are not read here).
    """
    arrays = array_headers(source)
    train, test, unlabeled = _roles(arrays)
    for images, labels in filter(None, (train, test)):
        check_images(images)
        if labels is not None:
            _check_labels(labels, len_of=images)
    if unlabeled is not None:
        check_images(unlabeled)
    for other in filter(None, (test and test[0], unlabeled)):
        if other.shape[1:] != train[0].shape[1:]:
            _refuse(f"{_said(train[0])} and {_said(other)} hold images of different shapes")
    classes = arrays.get("classes") if train[1] is not None else None
    if classes is not None and (classes.kind != "U" or len(classes.shape) != 1):
        _refuse(f"{_said(classes)} should be a list of names: np.array([...], dtype=str)")
    used = {a.key for a in (*train, *(test or ()), unlabeled, classes) if a is not None}
    return NpzLayout(
        train=train,
        test=test,
        unlabeled=unlabeled,
        classes=classes,
        channels_last=channels_last(train[0]),
        unused=sorted(set(arrays) - used),
    )


def _roles(arrays: dict[str, ArrayHeader]) -> tuple[Pair, Pair | None, ArrayHeader | None]:
    """Train, test, and what has no label beside train."""
    labeled = any(key in arrays for keys in _LABELS.values() for key in keys)
    train = _pair(arrays, "train", labeled=labeled)
    test = _pair(arrays, "test", labeled=labeled) or _pair(arrays, "val", labeled=labeled)
    found = [arrays[key] for key in _UNLABELED if key in arrays]
    if len(found) > 1 or (found and not labeled and train is not None):
        names = ", ".join(array.key for array in (*found, *filter(None, train or ())))
        _refuse(f"there are images without labels in more than one array: {names}")
    unlabeled = found[0] if found else None
    if train is not None:
        return train, test, unlabeled
    if unlabeled is not None and not labeled:
        return (unlabeled, None), test, None
    names = ", ".join(sorted(shown(k) for k in arrays)[:10]) or "no arrays"
    raise InputError("dataset_unreadable", f"the .npz has no x_train; it holds {names}", hint=_HINT)


def array_headers(source: Source) -> dict[str, ArrayHeader]:
    """Every array by its key.

    Raises:
        InputError: ``unsafe_file`` for arrays of objects, ``unsupported_format``, ``dataset_unreadable``.
    """
    members = [name for name in source.files if name.endswith(".npy")]
    if len(members) > _MAX_ARRAYS:
        raise InputError("unsupported_format", f"the .npz holds {len(members)} arrays", hint=_HINT)
    return {name.removesuffix(".npy"): _header(source, name) for name in members}


def _header(source: Source, member: str) -> ArrayHeader:
    with source.open(member) as stream:
        text, start = _header_text(stream, member)
    fields = _parse(text, member)
    kind, item_bytes = _type(fields["descr"], member)
    array = ArrayHeader(
        key=member.removesuffix(".npy"), member=member, kind=kind, item_bytes=item_bytes, start=start, **fields
    )
    wanted, held = start + math.prod(array.shape) * item_bytes, source.files[member].file_size
    if wanted != held:
        _refuse(f"{_said(array)} takes {wanted:,} bytes, the archive holds {held:,}")
    return array


def _header_text(stream: IO[bytes], member: str) -> tuple[str, int]:
    start = stream.read(8)
    if start[:6] != b"\x93NUMPY":
        _refuse(f"{shown(member)} is not a numpy array")
    length_bytes = {1: 2, 2: 4, 3: 4}.get(start[6]) if len(start) == 8 else None
    if length_bytes is None:
        _refuse(f"{shown(member)} is of an unknown version of the format")
    length = int.from_bytes(stream.read(length_bytes), "little")
    if length > _MAX_HEADER_BYTES:
        raise InputError("unsafe_file", f"{shown(member)} has a header of {length:,} bytes", hint=_HINT)
    return stream.read(length).decode("latin1"), 8 + length_bytes + length


def _parse(text: str, member: str) -> dict[str, Any]:
    """``descr``, ``fortran_order`` and ``shape``; the first is yet to be checked."""
    try:
        fields: Any = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        fields = None
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        _refuse(f"{shown(member)} has a header that cannot be read")
    shape = fields["shape"]
    if not isinstance(fields["fortran_order"], bool):
        _refuse(f"{shown(member)} does not say in which order its items lie")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 32:
        _refuse(f"{shown(member)} has no usable shape")
    return fields


def _type(descr: object, member: str) -> tuple[str, int]:
    if isinstance(descr, str) and "O" in descr:
        raise InputError(
            "unsafe_file",
            f"{shown(member)} is an array of Python objects, which are pickled",
            hint="Convert it: np.asarray(images, dtype=np.uint8), np.asarray(labels, dtype=np.int64).",
        )
    match = re.fullmatch(r"[<>|=]?([?bhiufcUS])(\d{1,6})", descr) if isinstance(descr, str) else None
    if match is None:
        _refuse(f"{shown(member)} has the type {shown(str(descr))}, which is not used here")
    kind, size = match[1], int(match[2])
    return kind, size * 4 if kind == "U" else size


def _pair(arrays: dict[str, ArrayHeader], split: str, *, labeled: bool) -> Pair | None:
    images = [arrays[k] for k in _IMAGES[split] if k in arrays]
    labels = [arrays[k] for k in _LABELS[split] if k in arrays]
    if not images and not labels:
        return None
    if not labeled and len(images) == 1:
        return images[0], None
    if len(images) != 1 or len(labels) != 1:
        found = ", ".join(a.key for a in (*images, *labels))
        _refuse(f"{_IMAGES[split][0]} and {_LABELS[split][0]} must come once each; found {found}")
    return images[0], labels[0]


def check_images(array: ArrayHeader) -> None:
    """Whether type and shape are those of images.

    Raises:
        InputError: ``dataset_unreadable`` or ``dataset_empty``.
    """
    if not (array.kind == "u" and array.item_bytes == 1) and array.kind != "f":
        _refuse(f"{_said(array)} should be uint8, or float in 0..1")
    if len(array.shape) not in (3, 4):
        _refuse(f"{_said(array)} should be (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if 0 in array.shape:
        raise InputError("dataset_empty", f"{_said(array)} holds no images", hint=_HINT)
    if len(array.shape) == 4 and not {array.shape[1], array.shape[3]} & {1, 3}:
        _refuse(f"{_said(array)} should have 1 or 3 channels, first or last")
    if max(array.shape[1:]) > _MAX_SIDE:
        _refuse(f"{_said(array)} has a side above {_MAX_SIDE} pixels")


def _check_labels(array: ArrayHeader, *, len_of: ArrayHeader) -> None:
    if array.kind not in "iu":
        _refuse(f"{_said(array)} should hold integers")
    if len(array.shape) not in (1, 2) or array.shape[1:] not in ((), (1,)):
        _refuse(f"{_said(array)} should be (N,) or (N, 1); one-hot rows become labels by .argmax(1)")
    if array.shape[0] != len_of.shape[0]:
        _refuse(f"{array.shape[0]:,} labels in {array.key} for {len_of.shape[0]:,} images in {len_of.key}")


def channels_last(images: ArrayHeader) -> bool:
    """Whether images are (N, H, W, C)."""
    # Where both ends could be channels, as in (N, 1, 28, 1), the last is taken, as Keras writes it.
    return len(images.shape) == 4 and images.shape[3] in (1, 3)


def image_shape(images: ArrayHeader) -> dict[str, int]:
    """``channels``, ``height`` and ``width`` of each image."""
    shape = images.shape
    if len(shape) == 3:
        channels, height, width = 1, shape[1], shape[2]
    elif channels_last(images):
        height, width, channels = shape[1:]
    else:
        channels, height, width = shape[1:]
    return {"channels": channels, "height": height, "width": width}


def _said(array: ArrayHeader) -> str:
    shape = ", ".join(map(str, array.shape)) + ("," if len(array.shape) == 1 else "")
    return f"{shown(array.key)} ({shape}) {array.dtype}"


def _refuse(message: str) -> NoReturn:
    raise InputError("dataset_unreadable", message, hint=_HINT)
