"""A file that ``torch.save`` wrote, told by its zip's directory and by its pickle's outline. Free of torch.

No reader of pickles ever gets it: the tensors are made of the records' bytes, by what the outline says of them.
"""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, cast

from distill.architectures import Shape, Tree
from distill.data.archive import Archive, shown
from distill.data.tarball import is_tar
from distill.errors import InputError
from distill.pickled import MAX_PICKLE_BYTES, SAVE_WEIGHTS, Storage, TensorOutline, outline

Kind = Literal["zip", "pickle", "archive", "other"]
_PICKLE_NAME, _DIRECTORY_BYTES = b"data.pkl", 2**20
_ALIGNMENT = 64
_MAX_DEPTH = 6  # of dictionaries in dictionaries; weights lie higher
_SAVE_AGAIN = "Load it with a current PyTorch and save it again. " + SAVE_WEIGHTS


def kind_of(path: Path) -> Kind:
    """What a file is by its first bytes.

    ``zip`` is one that may be PyTorch's, ``pickle`` one without a zip around it, ``archive`` any other zip, a tar or a
    gzip file, ``other`` none of these.
    """
    with path.open("rb") as file:
        start = file.read(4096)
        file.seek(-min(_DIRECTORY_BYTES, path.stat().st_size), os.SEEK_END)
        end = file.read()
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip" if _PICKLE_NAME in start or _PICKLE_NAME in end else "archive"
    if start.startswith(b"\x1f\x8b") or is_tar(start[:512]):
        return "archive"
    # The length of a safetensors header may begin as a pickle does; but then the header itself follows.
    is_pickle = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and start[8:9] != b"{"
    return "pickle" if is_pickle else "other"


class TorchFile:
    """A checkpoint in PyTorch's zip format that is sound as far as its outline tells.

    Args:
        path: the uploaded file, of :func:`kind_of` zip.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file`` or ``unsupported_format``.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._archive = Archive(path)
        except InputError as error:
            if error.code == "unsafe_file":
                error.hint = SAVE_WEIGHTS  # in place of advice for archives
            raise
        try:
            self._root = _root(self._archive)
            self._pickled = outline(self._read_pickle())
            self._check_records()
            self._tree = self._weights()
        except BaseException:
            self._archive.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.__exit__()

    @property
    def tree(self) -> Tree:
        """What is in the saved dictionary, as :func:`distill.architectures.unwrap` takes it."""
        return self._tree

    @property
    def num_bytes(self) -> int:
        """Of all numbers in the file."""
        return sum(storage.num_bytes for storage in self._pickled.storages.values())

    def tensor(self, path: tuple[str, ...], name: str) -> TensorOutline:
        """What :attr:`tree` has at a place; where there is no dictionary of a key, the names begin with it."""
        place = self._pickled.root
        for number, key in enumerate(path):
            if type(place.get(key)) is not dict:
                return cast(TensorOutline, place[".".join((*path[number:], name))])
            place = place[key]
        return cast(TensorOutline, place[name])

    def copy_to(self, path: Path, storages: Iterable[Storage]) -> dict[str, int]:
        """Write these records one after the other, checked by the zip's sums; where each begins, by its key.

        Raises:
            InputError: ``upload_corrupt``.
        """
        places = {}
        with path.open("wb") as copy:
            for storage in {storage.key: storage for storage in storages}.values():
                copy.seek(-copy.tell() % _ALIGNMENT, os.SEEK_CUR)
                places[storage.key] = copy.tell()
                with self._archive.open(f"{self._root}data/{storage.key}") as source:
                    shutil.copyfileobj(source, copy)
            copy.truncate()
        return places

    def _read_pickle(self) -> bytes:
        name = f"{self._root}data.pkl"
        if (size := self._archive.files[name].file_size) > MAX_PICKLE_BYTES:
            _refuse(f"its pickle has {size:,} bytes; at most {MAX_PICKLE_BYTES:,} are read")
        return self._archive.read(name)

    def _check_records(self) -> None:
        if (order := self._archive.files.get(f"{self._root}byteorder")) is not None and (
            order.file_size > len("little") or self._archive.read(f"{self._root}byteorder") != b"little"
        ):
            message = "Its numbers are in another order of bytes than PyTorch's usual one."
            raise InputError("unsupported_format", message, hint="Save it on an ordinary machine. " + SAVE_WEIGHTS)
        for storage in self._pickled.storages.values():
            name = f"{self._root}data/{storage.key}"
            record = self._archive.files.get(name)
            if record is None:
                message = f"{shown(name)} is missing."
                raise InputError("upload_corrupt", message, hint="Save it again, and send it whole.")
            if record.file_size != storage.num_bytes:
                _refuse(f"{shown(name)} has {record.file_size:,} bytes and should have {storage.num_bytes:,}")

    def _weights(self) -> Tree:
        tree = _pruned(self._pickled.root, depth=_MAX_DEPTH, seen={})
        if not isinstance(tree, Mapping):
            raise InputError("unsupported_format", "The file holds no dictionary of tensors.", hint=SAVE_WEIGHTS)
        return tree


def _pruned(value: Any, *, depth: int, seen: dict[tuple[int, int], Any]) -> Tree | Shape | None:
    """Shapes in place of tensors, and None for what holds none.

    ``seen`` keeps what was made of a dictionary: one that stands in many places is walked once.
    """
    if isinstance(value, TensorOutline):
        return value.shape
    if type(value) is not dict or depth == 0:
        return None
    place = (id(value), depth)
    if place not in seen:
        tree = {name: _pruned(inner, depth=depth - 1, seen=seen) for name, inner in value.items()}
        seen[place] = tree if any(found is not None for found in tree.values()) else None
    found: Tree | None = seen[place]
    return found


def _root(archive: Archive) -> str:
    """The folder, with its slash, that PyTorch put everything into."""
    found = [name for name in archive.files if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if any(re.fullmatch(r"[^/]+/(constants\.pkl|code/.*)", name) for name in archive.files):
        raise InputError("unsupported_format", "The file is TorchScript, which is a program.", hint=SAVE_WEIGHTS)
    if len(found) != 1:
        message = "The zip is not one that torch.save writes: no data.pkl, or several."
        raise InputError("unsupported_format", message, hint=SAVE_WEIGHTS)
    packed = [name for name, info in archive.files.items() if info.compress_type != zipfile.ZIP_STORED]
    if packed:
        _refuse(f"{shown(packed[0])} is compressed, as torch.save never does", hint=_SAVE_AGAIN)
    return found[0].removesuffix("data.pkl")


def _refuse(message: str, *, hint: str = SAVE_WEIGHTS) -> NoReturn:
    raise InputError("unsafe_file", f"Not a usable PyTorch file: {message}.", hint=hint)
