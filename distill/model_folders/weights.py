"""The tensors of a folder's files: outlined by their headers, and written as one file under new names."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from distill import tensorfile
from distill.architectures import Shape
from distill.data.archive import shown
from distill.data.source import Source
from distill.errors import InputError
from distill.model_folders.renaming import Parts
from distill.tensorfile import Header, Tensor, header_of, read_header


@dataclass(frozen=True, kw_only=True)
class Outline:
    """All files of weights together: name -> shape, and the metadata of the first that has any."""

    shapes: Mapping[str, Shape]
    metadata: Mapping[str, str]


def outline_of(source: Source, names: Iterable[str]) -> Outline:
    """What the headers of files in a folder say, of which nothing else is read.

    Raises:
        InputError: as :func:`distill.tensorfile.read_header`; ``upload_corrupt``, a tensor is in two files.
    """
    headers = []
    for name in names:
        with source.open(name) as stream:
            headers.append(header_of(stream, size=source.files[name].file_size))
    return _together(headers)


def outline_of_files(paths: Iterable[Path]) -> Outline:
    """The same of files on disk."""
    return _together([read_header(path) for path in paths])


def join(paths: Iterable[Path], parts: Parts, target: Path, *, metadata: Mapping[str, str]) -> None:
    """Write tensors of some safetensors files as one file, under new names.

    Tensors that become one are joined along their first axis, which in memory is one behind the other.

    Args:
        paths: checked as by :func:`outline_of_files`.
        parts: new name -> names in the files.
        target: is written.

    Raises:
        InputError: ``state_dict_mismatch``, pieces of one tensor are of different types.
    """
    found: dict[str, Tensor] = {}
    for path in paths:
        header = read_header(path)
        data = _mapped(path)
        for name, (begin, stop) in header.places.items():
            found[name] = Tensor(header.dtypes[name], header.shapes[name], [data[begin:stop]])
    tensors = {new: _joined(new, [found[name] for name in names]) for new, names in parts.items()}
    # Large items first, so that every tensor lies aligned.
    ordered = sorted(tensors.items(), key=lambda item: -tensorfile.ITEM_BYTES[item[1].dtype])
    tensorfile.write(target, dict(ordered), metadata={"format": "pt", **metadata})


def _together(headers: Iterable[Header]) -> Outline:
    shapes: dict[str, Shape] = {}
    metadata: Mapping[str, str] = {}
    for header in headers:
        for name, shape in header.shapes.items():
            if name in shapes:
                message = f"The tensor {shown(name)} is in two files of weights."
                raise InputError("upload_corrupt", message, hint="Save the network again.")
            shapes[name] = shape
        metadata = metadata or header.metadata
    if len(shapes) > tensorfile.MAX_TENSORS:
        message = f"The files hold {len(shapes)} tensors; at most {tensorfile.MAX_TENSORS} are read."
        raise InputError("unsafe_file", message, hint="A network has fewer.")
    return Outline(shapes=shapes, metadata=metadata)


def _mapped(path: Path) -> memoryview:
    """A file's bytes, read as they are asked for."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _joined(name: str, pieces: list[Tensor]) -> Tensor:
    if len(pieces) == 1:
        return pieces[0]
    if len({piece.dtype for piece in pieces}) != 1:
        message = f"The pieces of {shown(name)} are of different types."
        raise InputError("state_dict_mismatch", message, hint="Save all weights in one type.")
    shape = (sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:])
    return Tensor(pieces[0].dtype, shape, [part for piece in pieces for part in piece.pieces])
