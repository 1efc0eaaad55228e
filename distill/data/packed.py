"""The packed form: one safetensors file of bytes with labels or points, mapped into memory for training."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill import tensorfile
from distill.data import UNLABELED
from distill.data.images import Images
from distill.data.raw import Labels, RawDataset
from distill.data.raw_landmarks import REACH, RawLandmarks
from distill.errors import InputError
from distill.markup import Markup

Task = Literal["classification", "landmarks"]

FORMAT_VERSION = "1"
_MAX_LISTED = 100
_DTYPES: dict[np.dtype[Any], str] = {
    np.dtype(np.uint8): "U8",
    np.dtype(np.int64): "I64",
    np.dtype(np.float32): "F32",
}


def pack(raw: RawDataset | RawLandmarks, path: Path) -> dict[str, Any]:
    """Write the packed form; the file appears whole or not at all, and equal data give equal bytes.

    Images are read twice, for their statistics and to be written, a few MiB at a time.

    Returns:
        The report: ``classes``, ``splits`` (of train and test: ``images``, ``per_class`` by name; train counts what
        has a label, and ``train_unlabeled`` has the ``images`` without one where there are any), ``image``
        (``channels``, ``height``, ``width``), ``mean`` and ``std`` (per channel in 0..1, of all train images or as
        ``raw`` gives them), ``skipped`` (the first 100), ``skipped_count``, ``ignored`` and ``ignored_kinds`` (how
        many, in all and by kind), ``originals`` (where images were files, see RawDataset), ``notes``, ``bytes`` and
        ``sha256`` of the file. ``task`` is ``classification``, or ``landmarks``: then ``num_points``, ``flip_pairs``
        and ``normaliser`` are there as
        :class:`distill.markup.Markup` has them, ``classes`` is empty, and there is no ``per_class``.
    """
    if isinstance(raw, RawLandmarks):
        return _pack_landmarks(raw, path)
    mean, std = raw.mean, raw.std
    if mean is None or std is None:
        mean, std = statistics(raw.train_images)
    metadata = {
        "format_version": FORMAT_VERSION,
        "classes": json.dumps(raw.classes),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
    }
    tensors = {
        "train_labels": _plain(raw.train_labels),
        "test_labels": _plain(raw.test_labels),
        **_pictures(raw),
    }
    sha256 = tensorfile.write(path, tensors, metadata=metadata)
    return {
        "task": "classification",
        "classes": raw.classes,
        "splits": _splits(raw),
        **({"originals": raw.originals} if raw.originals else {}),
        **_about(raw, path, mean=mean, std=std, sha256=sha256),
    }


def _pack_landmarks(raw: RawLandmarks, path: Path) -> dict[str, Any]:
    mean, std = statistics(raw.train_images)
    markup = raw.markup.as_json()
    metadata = {
        "format_version": FORMAT_VERSION,
        "task": "landmarks",
        **{name: json.dumps(value) for name, value in markup.items()},
        "classes": json.dumps([]),
        "mean": json.dumps(mean),
        "std": json.dumps(std),
    }
    tensors = {
        "train_points": _plain(raw.train_points),
        "test_points": _plain(raw.test_points),
        **_pictures(raw),
    }
    sha256 = tensorfile.write(path, tensors, metadata=metadata)
    return {
        "task": "landmarks",
        **markup,
        "classes": [],
        "splits": {"train": {"images": len(raw.train_images)}, "test": {"images": len(raw.test_images)}},
        **_about(raw, path, mean=mean, std=std, sha256=sha256),
    }


def _about(
    raw: RawDataset | RawLandmarks, path: Path, *, mean: list[float], std: list[float], sha256: str
) -> dict[str, Any]:
    """What the reports of both tasks end with."""
    _, channels, height, width = raw.train_images.shape
    return {
        "image": {"channels": channels, "height": height, "width": width},
        "mean": mean,
        "std": std,
        "skipped": raw.skipped[:_MAX_LISTED],
        "skipped_count": len(raw.skipped),
        "ignored": sum(raw.ignored.values()),
        "ignored_kinds": raw.ignored,
        "notes": raw.notes,
        "bytes": path.stat().st_size,
        "sha256": sha256,
    }


def statistics(images: Images) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of values in 0..1, exact, from counts of the 256 values.

    The deviation of a channel that never changes is given as 1, so that one can divide by it.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), dtype=np.int64)
    for piece_NCHW in images.pieces():
        for channel in range(channels):
            counts[channel] += np.bincount(piece_NCHW[:, channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    std[(counts > 0).sum(axis=1) == 1] = 1.0
    return mean.tolist(), std.tolist()


@dataclass(frozen=True, kw_only=True)
class PackedDataset:
    """Images uint8 (N, C, H, W) mapped from the file, labels int64 (N,), statistics float32 (C,).

    The mapping is read only, whatever torch thinks: a change in place ends the process. So it needs no memory of its
    own, also where the kernel promises none beyond what there is, and the file stays what its hash says.

    The label -1 says that a train image has none. Without any label ``classes`` is empty, and all labels are -1. So it
    is with landmarks: then there are points float32 (N, L, 2), x and y in 0..1 between the image's edges and up to one
    side beyond them, and the markup says what they are.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: list[str]
    mean_C: Tensor
    std_C: Tensor
    train_points: Tensor | None = None
    test_points: Tensor | None = None
    markup: Markup | None = None

    @property
    def task(self) -> Task:
        return "classification" if self.markup is None else "landmarks"

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def in_channels(self) -> int:
        return int(self.train_images.shape[1])

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.train_images.shape[2]), int(self.train_images.shape[3])

    @classmethod
    def load(cls, path: Path) -> Self:
        """Map a packed file.

        Raises:
            InputError: ``dataset_unreadable`` when it is no sound packed data set.
            FileNotFoundError: there is none.
        """
        try:
            header = tensorfile.read_header(path)
            tensors: dict[str, Any] = {name: _mapped(path, header, name) for name in header.shapes}
            fields = _parse(header.metadata)
            if fields["markup"] is not None:
                _label_nothing(tensors)
            dataset = cls(**tensors, **fields)
            dataset._check()
        except (InputError, ValueError, TypeError, KeyError) as error:
            raise InputError(
                "dataset_unreadable",
                f"the packed data set cannot be used: {error}",
                hint="Make the data set again from its upload.",
            ) from error
        return dataset

    def _check(self) -> None:
        shape = self.train_images.shape[1:]
        for images, labels in (
            (self.train_images, self.train_labels),
            (self.test_images, self.test_labels),
        ):
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1:] != shape:
                raise ValueError(f"images are {images.dtype} {tuple(images.shape)}")
            if labels.dtype != torch.int64 or tuple(labels.shape) != (len(images),) or len(images) == 0:
                raise ValueError(f"labels are {labels.dtype} {tuple(labels.shape)} for {len(images)} images")
            if labels.min() < UNLABELED or labels.max() >= self.num_classes:
                raise ValueError(f"labels are not all in 0..{self.num_classes - 1}, or {UNLABELED} for none")
        if self.classes and self.test_labels.min() < 0:
            raise ValueError("there are test images without a label")
        self._check_points()
        for values in (self.mean_C, self.std_C):
            if tuple(values.shape) != (self.in_channels,) or not values.isfinite().all():
                raise ValueError("mean and std are not one finite number per channel")
        if (self.std_C <= 0).any():
            raise ValueError("std is not above zero")

    def _check_points(self) -> None:
        for images, points in ((self.train_images, self.train_points), (self.test_images, self.test_points)):
            if points is None and self.markup is None:
                continue
            if points is None or self.markup is None:
                raise ValueError("there are points without a markup, or a markup without points")
            shape = (len(images), self.markup.num_points, 2)
            if points.dtype != torch.float32 or tuple(points.shape) != shape:
                raise ValueError(f"points are {points.dtype} {tuple(points.shape)}, not float32 {shape}")
            if not (points - 0.5).abs().le(0.5 + REACH + 1e-3).all():  # also when one is NaN
                raise ValueError(f"points are not all in {-REACH:g}..{1 + REACH:g}")


def _parse(metadata: dict[str, str]) -> dict[str, Any]:
    if metadata.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format_version is {metadata.get('format_version')!r}, not {FORMAT_VERSION!r}")
    classes = json.loads(metadata["classes"])
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ValueError("classes is no list of names")
    task = metadata.get("task", "classification")
    if task not in ("classification", "landmarks"):
        raise ValueError(f"task is {task!r}")
    return {
        "classes": classes,
        "markup": _markup(metadata) if task == "landmarks" else None,
        "mean_C": torch.tensor(json.loads(metadata["mean"]), dtype=torch.float32),
        "std_C": torch.tensor(json.loads(metadata["std"]), dtype=torch.float32),
    }


def _markup(metadata: dict[str, str]) -> Markup:
    return Markup.from_json({name: json.loads(metadata[name]) for name in ("num_points", "flip_pairs", "normaliser")})


def _label_nothing(tensors: dict[str, Tensor]) -> None:
    for split in ("train", "test"):
        if f"{split}_labels" in tensors:
            raise ValueError("there are labels beside points")
        tensors[f"{split}_labels"] = torch.full((len(tensors[f"{split}_images"]),), UNLABELED)


def _splits(raw: RawDataset) -> dict[str, Any]:
    labeled = raw.train_labels[raw.train_labels != UNLABELED]
    splits = {"train": _counts(labeled, raw.classes), "test": _counts(raw.test_labels, raw.classes)}
    if len(labeled) < len(raw.train_labels):
        splits["train_unlabeled"] = {"images": len(raw.train_labels) - len(labeled)}
    return splits


def _counts(labels: Labels, classes: list[str]) -> dict[str, Any]:
    per_class = np.bincount(labels, minlength=len(classes)).tolist() if classes else []
    return {"images": len(labels), "per_class": dict(zip(classes, per_class, strict=True))}


def _pictures(raw: RawDataset | RawLandmarks) -> dict[str, tensorfile.Tensor]:
    """Behind labels and points: the items of each array lie aligned then, whatever the images' sizes are."""
    both = {"train_images": raw.train_images, "test_images": raw.test_images}
    return {
        name: tensorfile.Tensor("U8", images.shape, (piece.reshape(-1).data for piece in images.pieces()))
        for name, images in both.items()
    }


def _plain(array: NDArray[Any]) -> tensorfile.Tensor:
    return tensorfile.Tensor(
        _DTYPES[array.dtype], array.shape, [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]
    )


def _mapped(path: Path, header: tensorfile.Header, name: str) -> Tensor:
    """Bytes stay in the file; other types, of which there are few, are read."""
    shape, kind = header.shapes[name], header.dtypes[name]
    dtype = next((dtype for dtype, written in _DTYPES.items() if written == kind), None)
    if dtype is None or 0 in shape:
        raise ValueError(f"{name} is {kind} {shape}")
    array = np.memmap(path, dtype=dtype, mode="r", offset=header.places[name][0], shape=shape)
    if kind != "U8":
        return torch.from_numpy(np.array(array))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)
