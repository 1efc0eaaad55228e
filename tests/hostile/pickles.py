"""Files of ``torch.save`` that want to harm, as an operator who allows pickles meets them."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import stat
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from distill.registry import build_network
from distill.spec import NetworkOptions
from tests.hostile.case import Hostile

MARKER = "limbeck-was-here"
"""A file of this name would tell that code ran."""


@dataclass(frozen=True)
class Record:
    """A storage as a pickle names it, whatever the zip holds."""

    key: str
    numel: int


@dataclass(frozen=True)
class Claimed:
    """A tensor that claims a shape and a stride over a record."""

    record: Record
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild = torch._utils._rebuild_tensor_v2
        return rebuild, (self.record, self.offset, self.shape, self.stride, False, OrderedDict())


@dataclass(frozen=True)
class Call:
    """Whatever is called when the pickle is loaded by a reader that calls it."""

    function: Any
    arguments: tuple[Any, ...] = field(default=())

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        return ("storage", torch.FloatStorage, value.key, "cpu", value.numel) if isinstance(value, Record) else None


def pickled(value: Any, *, protocol: int = 2) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=protocol).dump(value)
    return buffer.getvalue()


def zipped(
    data: bytes, *, records: dict[str, bytes] | None = None, more: dict[str, bytes] | None = None, packed: bool = False
) -> bytes:
    """A zip as torch.save lays it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/byteorder", "little")
        for key, content in (records or {}).items():
            file.writestr(f"archive/data/{key}", content)
        file.writestr("archive/version", "3\n")
        for name, content in (more or {}).items():
            file.writestr(name, content)
    return buffer.getvalue()


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def weights() -> dict[str, torch.Tensor]:
    """Of a resnet8 for colour images and four classes, which the corpus is declared to be."""
    torch.manual_seed(0)
    return build_network("resnet8", options=NetworkOptions(), num_classes=4, in_channels=3).state_dict()


def _spoiled(name: str, value: Any) -> bytes:
    return saved({**weights(), name: value})


def _nan() -> bytes:
    state = weights()
    state["fc.weight"] = state["fc.weight"].clone().fill_(float("nan"))
    return saved(state)


def _all_in_one_storage() -> bytes:
    """Every tensor a view of the largest one's numbers: small as a file, large when written out."""
    shapes = {name: tuple(value.shape) for name, value in weights().items()}
    numel = max(torch.Size(shape).numel() for shape in shapes.values())
    one = torch.zeros(numel)
    return saved({name: one[: torch.Size(shape).numel()].view(shape) for name, shape in shapes.items()})


def _torchscript() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is old is the point
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


def _quantised() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _spoiled("fc.weight", torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8))


def _with_link() -> bytes:
    buffer = io.BytesIO(saved(weights()))
    with zipfile.ZipFile(buffer, "a") as file:
        link = zipfile.ZipInfo("archive/data/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    return buffer.getvalue()


def _twice() -> bytes:
    buffer = io.BytesIO(zipped(pickled({})))
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "a") as file:
        warnings.simplefilter("ignore")
        file.writestr("archive/data.pkl", pickled(Call(os.system, (f"touch {MARKER}",))))
    return buffer.getvalue()


def _hash_bomb() -> bytes:
    """A key whose hash takes 2^60 steps: a tuple of twice the tuple before."""
    tuples = b")" + b"q\x00h\x00\x86" * 60
    return zipped(b"\x80\x02}" + tuples + b"K\x01s.")


def _holding_itself() -> bytes:
    root: dict[str, Any] = {}
    root["state_dict"] = root
    return zipped(pickled(root))


def _one(shape: tuple[int, ...], stride: tuple[int, ...], *, said: int = 4, held: int = 4, offset: int = 0) -> bytes:
    claimed = Claimed(Record("0", said), shape, stride, offset)
    return zipped(pickled({"fc.weight": claimed}), records={"0": bytes(4 * held)})


PICKLES: dict[str, Hostile] = {
    "os.system": Hostile("unsafe_file", lambda: zipped(pickled(Call(os.system, (f"touch {MARKER}",))))),
    "eval": Hostile("unsafe_file", lambda: zipped(pickled(Call(builtins.eval, (f"open('{MARKER}', 'w')",))))),
    "code beside sound weights": Hostile(
        "unsafe_file", lambda: saved({"state_dict": weights(), "epoch": Call(os.system, (f"touch {MARKER}",))})
    ),
    "import of a module by its class": Hostile("unsafe_file", lambda: saved({"x": Call(__import__, ("antigravity",))})),
    "whole module": Hostile("unsafe_file", lambda: saved(nn.Linear(2, 2))),
    "memory by bytearray": Hostile("unsafe_file", lambda: zipped(pickled(Call(bytearray, (10**12,))))),
    "memory by a class of tensors": Hostile("unsafe_file", lambda: zipped(pickled(Call(torch.Tensor, (10**6, 10**6))))),
    "lists in lists": Hostile("unsafe_file", lambda: zipped(b"\x80\x02" + b"]" * 400_000 + b"a" * 399_999 + b".")),
    "lists in lists, fewer": Hostile(
        "unsupported_format", lambda: zipped(b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b".")
    ),
    "dictionaries without end": Hostile("unsafe_file", lambda: zipped(b"\x80\x02" + b"}" * 8_000_000 + b".")),
    "names without end": Hostile("unsafe_file", lambda: zipped(b"\x80\x02" + b"ctorch\nSize\n" * 600_000 + b".")),
    "key that hashes for ever": Hostile("unsafe_file", _hash_bomb),
    "dictionary that holds itself": Hostile("unsupported_format", _holding_itself),
    "place 2^32 in the memo": Hostile("unsupported_format", lambda: zipped(b"\x80\x02}r\xff\xff\xff\xff.")),
    "attributes of a dictionary": Hostile(
        "unsafe_file", lambda: zipped(b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.")
    ),
    "another protocol": Hostile("unsupported_format", lambda: zipped(pickled({"w": [1]}, protocol=4))),
    "pickle cut short": Hostile("upload_corrupt", lambda: zipped(pickled({"w": [1]})[:-3])),
    "pickle of nonsense": Hostile("upload_corrupt", lambda: zipped(b"\x80\x02}" + b"\x85" * 5 + b"s.")),
    "pickle of nine megabytes": Hostile("unsafe_file", lambda: zipped(pickled({"w": "x" * 9 * 2**20}))),
    "compressed entries": Hostile(
        "unsafe_file", lambda: zipped(pickled({"w": 1}), records={"0": bytes(64 * 2**20)}, packed=True)
    ),
    "storage smaller than its shape": Hostile("unsafe_file", lambda: _one((8, 8), (8, 1))),
    "record smaller than its storage": Hostile("unsafe_file", lambda: _one((8, 8), (8, 1), said=64)),
    "10^12 elements by stride": Hostile("unsafe_file", lambda: _one((10**6, 10**6), (0, 0))),
    "offset behind the storage": Hostile("unsafe_file", lambda: _one((2,), (1,), offset=3)),
    "stride out of the storage": Hostile("unsafe_file", lambda: _one((2,), (2**40,))),
    "empty tensor of 2^62": Hostile("unsafe_file", lambda: _one((2**62, 0), (1, 1))),
    "negative size": Hostile("upload_corrupt", lambda: _one((-1,), (1,))),
    "record that is not there": Hostile(
        "upload_corrupt", lambda: zipped(pickled({"w": Claimed(Record("7", 4), (4,), (1,))}))
    ),
    "record outside of the archive": Hostile(
        "upload_corrupt", lambda: zipped(pickled({"w": Claimed(Record("../../../../etc/passwd", 4), (4,), (1,))}))
    ),
    "name that leads out": Hostile("unsafe_file", lambda: zipped(pickled({}), more={"../../" + MARKER: b"x"})),
    "absolute name": Hostile("unsafe_file", lambda: zipped(pickled({}), more={"/tmp/" + MARKER: b"x"})),
    "link": Hostile("unsafe_file", _with_link),
    "pickle twice": Hostile("unsafe_file", _twice),
    "two roots": Hostile("unsupported_format", lambda: zipped(pickled({}), more={"other/data.pkl": pickled({})})),
    "TorchScript": Hostile("unsupported_format", _torchscript, "teacher.pt"),
    "truncated zip": Hostile("upload_corrupt", lambda: saved(weights())[:-200]),
    "zip of something else": Hostile("unsupported_format", lambda: _plain_zip()),
    "picture by another name": Hostile("unsupported_format", lambda: b"\x89PNG\r\n\x1a\n" + bytes(100)),
    "pickle called safetensors": Hostile("unsafe_file", lambda: saved(nn.Linear(2, 2)), "teacher.safetensors"),
    "legacy format": Hostile("unsupported_format", lambda: saved(weights(), _use_new_zipfile_serialization=False)),
    "bare pickle": Hostile("unsupported_format", lambda: pickle.dumps(Call(os.system, (f"touch {MARKER}",))), "t.ckpt"),
    "sparse tensor": Hostile("unsafe_file", lambda: _spoiled("fc.weight", torch.eye(4).to_sparse())),
    "quantised tensor": Hostile("unsafe_file", _quantised),
    "complex numbers": Hostile("unsafe_file", lambda: _spoiled("fc.bias", torch.zeros(4, dtype=torch.complex64))),
    "tensor without numbers": Hostile("unsafe_file", lambda: _spoiled("fc.bias", torch.empty(4, device="meta"))),
    "list of tensors": Hostile("unsupported_format", lambda: saved([torch.zeros(3)])),
    "weights of another network": Hostile("state_dict_mismatch", lambda: saved({"fc.weight": torch.zeros(4, 64)})),
    "NaN": Hostile("upload_corrupt", _nan, by_worker=True),
    "all in one storage": Hostile("unsafe_file", _all_in_one_storage, by_worker=True),
}


def _plain_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("readme.txt", "hello")
    return buffer.getvalue()
