"""Which of a zip's members are the binary files of CIFAR-10 or CIFAR-100, and whether their sizes fit.

Standard library only.

Format: records without a header: one label byte (CIFAR-10) or a coarse and a fine one (CIFAR-100), then 3,072 bytes of
pixels: planes of red, green and blue, each 32 x 32, row by row. Source: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from distill.data.archive import shown
from distill.data.folder_layout import is_junk
from distill.data.source import Source
from distill.errors import InputError

SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE
_BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)]
_TEN = {*_BATCHES, "test_batch.bin", "batches.meta.txt"}
_HUNDRED = {"train.bin", "test.bin", "fine_label_names.txt"}
_MAX_META_BYTES = 2**16
_HINT = (
    "The zip needs data_batch_1.bin to data_batch_5.bin, test_batch.bin and batches.meta.txt, or train.bin, test.bin "
    "and fine_label_names.txt: the binary versions of CIFAR-10 and CIFAR-100, unpacked and zipped."
)


@dataclass(frozen=True, kw_only=True)
class CifarLayout:
    """Members of each split in order. ``test`` is None when a part of ``train`` must be held out."""

    num_labels: int
    """Label bytes of a record, the last of which is read: 1 for CIFAR-10, 2 for CIFAR-100."""
    train: list[str]
    test: str | None
    num_train: int
    num_test: int | None
    classes: list[str] | None
    """From the file of names, where there is one."""
    missing: list[str]
    """Names of CIFAR-10's training files that are not there, behind those that are."""

    @property
    def record_bytes(self) -> int:
        return self.num_labels + PIXEL_BYTES


def is_cifar(name: str) -> bool:
    """Whether a member's last part is the name of a training file of CIFAR's binary versions."""
    return name.rsplit("/", 1)[-1] in {*_BATCHES, "train.bin"}


def cifar_layout(source: Source) -> CifarLayout:
    """Find the files, check their sizes and read the names of the classes.

    Raises:
        InputError: ``dataset_unreadable``, ``dataset_empty`` or ``upload_corrupt``.
    """
    found = _find(source)
    hundred = "train.bin" in found
    train = ["train.bin"] if hundred else [name for name in _BATCHES if name in found]
    if not hundred and train != _BATCHES[: len(train)]:
        _refuse(f"{train[-1]} is there, {next(name for name in _BATCHES if name not in found)} is not")
    test = found.get("test.bin" if hundred else "test_batch.bin")
    names = found.get("fine_label_names.txt" if hundred else "batches.meta.txt")
    num_labels = 2 if hundred else 1
    return CifarLayout(
        num_labels=num_labels,
        train=[found[name] for name in train],
        test=test,
        num_train=sum(_count(source, found[name], num_labels) for name in train),
        num_test=_count(source, test, num_labels) if test else None,
        classes=_class_names(source, names) if names else None,
        missing=[] if hundred else _BATCHES[len(train) :],
    )


def _find(source: Source) -> dict[str, str]:
    """Members by the last part of their names."""
    found: dict[str, str] = {}
    for member in source.files:
        last = member.rsplit("/", 1)[-1]
        if is_junk(member) or last not in _TEN | _HUNDRED:
            continue
        if last in found:
            _refuse(f"both {shown(found[last])} and {shown(member)} are there; send one data set a zip")
        found[last] = member
    if found.keys() & _TEN and found.keys() & _HUNDRED:
        _refuse("there are files of CIFAR-10 and of CIFAR-100; send one data set a zip")
    return found


def _count(source: Source, member: str, num_labels: int) -> int:
    size, record_bytes = source.files[member].file_size, num_labels + PIXEL_BYTES
    if size == 0:
        raise InputError("dataset_empty", f"{shown(member)} holds no images", hint=_HINT)
    if size % record_bytes:
        _refuse(f"{shown(member)} takes {size:,} bytes, no multiple of the {record_bytes:,} of an image")
    return size // record_bytes


def _class_names(source: Source, member: str) -> list[str]:
    if source.files[member].file_size > _MAX_META_BYTES:
        _refuse(f"{shown(member)} takes {source.files[member].file_size:,} bytes, too many for names of classes")
    try:
        lines = source.read(member).decode().splitlines()
    except UnicodeDecodeError:
        _refuse(f"{shown(member)} is no text")
    return [line.strip() for line in lines if line.strip()]


def _refuse(message: str) -> NoReturn:
    raise InputError("dataset_unreadable", message, hint=_HINT)
