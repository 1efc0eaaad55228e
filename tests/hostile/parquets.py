"""Parquet files that want to harm."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyarrow import parquet as pq

from tests.fixtures.archives import zipped
from tests.hostile.case import Hostile, dataset
from tests.hostile.images import png


def written(content: Any, **options: Any) -> bytes:
    """The table as a file."""
    data = io.BytesIO()
    pq.write_table(content, data, **options)
    return data.getvalue()


def _sound(**options: Any) -> bytes:
    return written(pa.table({"image": [png(n) for n in range(20)], "label": [0, 1] * 10}), **options)


def _zeros() -> bytes:
    content = pa.table({"image": pa.array([bytes(2**20) + bytes([i]) for i in range(64)]), "label": [0, 1] * 32})
    return written(content, compression="zstd", use_dictionary=False)


def _one_of_all() -> bytes:
    """Half a megabyte of noise that a dictionary repeats 1,000 times."""
    noise = random.Random(0).randbytes(500_000)
    data = io.BytesIO()
    with pq.ParquetWriter(data, pa.schema([("image", pa.binary()), ("label", pa.int64())])) as writer:
        batch = pa.record_batch({"image": pa.array([noise] * 100), "label": pa.array([0, 1] * 50)})
        writer.write_table(pa.Table.from_batches([batch] * 10), row_group_size=1000)
    return data.getvalue()


def _long_labels() -> bytes:
    names = ["a" * 4_000_000, "b" * 4_000_000]
    return written(pa.table({"image": [png()] * 40, "label": names * 20}), compression="none")


def _rows_said(count: int) -> bytes:
    """The number of rows in the footer, 20 in Thrift's compact form, is another one."""
    whole = _sound()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    text = whole[footer:-8]
    # After the list of the schema comes field 3, an i64: its header, then the number, its sign in the lowest bit.
    changed = text.replace(b"\x16\x28\x19", b"\x16" + _varint(2 * count if count >= 0 else -2 * count - 1) + b"\x19", 1)
    assert changed != text
    return whole[:footer] + changed + len(changed).to_bytes(4, "little") + b"PAR1"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _nested(depth: int) -> bytes:
    """A footer of groups in groups, as no library writes it: each has one child, the last none."""
    group = b"\x48\x01g\x15\x02\x00"  # SchemaElement: name "g", num_children 1
    elements = group * depth + b"\x15\x02\x38\x01x\x00"
    head = b"\x15\x04\x19\xfc" + _varint(depth + 1)
    footer = head + elements + b"\x16\x00\x19\x0c\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _lists(depth: int) -> bytes:
    kind: Any = pa.int64()
    for _ in range(depth):
        kind = pa.list_(kind)
    return written(pa.table({"image": pa.array([b"x"]), "label": pa.array([None], kind)}))


def _footer_said(length: int, *, magic: bytes = b"PAR1", hold: int = 0) -> bytes:
    return b"PAR1" + bytes(hold) + length.to_bytes(4, "little") + magic


def _parquet(code: str | None, build: Callable[[], bytes], *, by_worker: bool = False) -> Hostile:
    return dataset(code, build, "data.parquet", by_worker=by_worker)


def _unsafe(build: Callable[[], bytes]) -> Hostile:
    return _parquet("unsafe_file", build, by_worker=True)


def _corrupt(build: Callable[[], bytes]) -> Hostile:
    return _parquet("upload_corrupt", build)


PARQUETS: dict[str, Hostile] = {
    "bomb of zeros": _unsafe(_zeros),
    "bomb of one image in a dictionary": _unsafe(_one_of_all),
    "bomb within a zip": dataset(
        "unsafe_file", lambda: zipped({"train-0.parquet": b"PAR1" + bytes(50 * 2**20) + b"PAR1"}), "data.zip"
    ),
    "labels of 4 MB": _parquet("dataset_empty", _long_labels, by_worker=True),
    "10^15 rows said": _unsafe(lambda: _rows_said(10**15)),
    "fewer than no rows said": _parquet(None, lambda: _rows_said(-1), by_worker=True),
    "cut short": _corrupt(lambda: _sound()[:-20]),
    "cut to its start": _corrupt(lambda: b"PAR1"),
    "footer longer than the file": _corrupt(lambda: _footer_said(2**31 - 1, hold=100)),
    "footer of 4 GB": _corrupt(lambda: _footer_said(2**32 - 1, hold=100)),
    "footer of 20 MB": _parquet("unsafe_file", lambda: _footer_said(20 * 2**20, hold=20 * 2**20)),
    "footer of no bytes": _parquet("upload_corrupt", lambda: _footer_said(0, hold=100), by_worker=True),
    "footer of zeros": _parquet("upload_corrupt", lambda: _footer_said(1000, hold=2000), by_worker=True),
    "footer encrypted": _corrupt(lambda: _footer_said(100, magic=b"PARE", hold=200)),
    "groups 1,000 deep": _parquet("upload_corrupt", lambda: _nested(1000), by_worker=True),
    "groups 100,000 deep": _parquet("upload_corrupt", lambda: _nested(100_000), by_worker=True),
    "lists 50 deep": _parquet("upload_corrupt", lambda: _lists(50), by_worker=True),
    "pages damaged": _parquet(
        "upload_corrupt",
        lambda: (lambda whole: whole[:8] + b"\xff" * 200 + whole[208:])(_sound(compression="snappy")),
        by_worker=True,
    ),
}
