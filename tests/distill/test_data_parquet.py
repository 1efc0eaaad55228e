"""Parquet files written by pyarrow in the form of Hugging Face's data sets."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.data.inspect import inspect_dataset
from distill.data.readers import read
from distill.errors import InputError
from tests.fixtures.archives import gzipped, zipped

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RANDOM = np.random.default_rng(0)
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def pixels(side: int = 6) -> np.ndarray:
    return RANDOM.integers(0, 256, (side, side), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(array).save(data, "PNG")
    return data.getvalue()


def features(image: str = "image", label: str = "label", names: list[str] | None = None) -> dict[bytes, bytes]:
    described: dict[str, Any] = {image: {"_type": "Image"}}
    if names is not None:
        described[label] = {"names": names, "_type": "ClassLabel"}
    return {b"huggingface": json.dumps({"info": {"features": described}}).encode()}


def table(
    images: list[np.ndarray],
    labels: Any,
    *,
    image: str = "image",
    label: str = "label",
    names: list[str] | None = None,
    kind: Any = None,
) -> Any:
    rows = [{"bytes": png(array), "path": f"{i}.png"} for i, array in enumerate(images)]
    columns = {image: pa.array(rows, IMAGE), label: pa.array(labels, kind)}
    return pa.table(columns).replace_schema_metadata(features(image, label, names))


def written(content: Any, **options: Any) -> bytes:
    data = io.BytesIO()
    pq.write_table(content, data, **options)
    return data.getvalue()


def sound(count: int = 20, **options: Any) -> Any:
    return table([pixels() for _ in range(count)], [i % 2 for i in range(count)], **options)


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def refused(upload: Path, data: bytes) -> InputError:
    """What the worker says, soon, with nothing left behind."""
    upload.write_bytes(data)
    start = time.process_time()
    with pytest.raises(InputError) as caught:
        read(upload)
    assert time.process_time() - start < 5
    assert caught.value.hint
    assert list(upload.parent.iterdir()) == [upload]
    return caught.value


@pytest.mark.parametrize("archived", [zipped, gzipped])
@pytest.mark.parametrize("other", ["test", "validation"])
def test_splits_names_and_pixels(upload: Path, archived: Any, other: str) -> None:
    images = [pixels() for _ in range(8)]
    names = ["zebra", "ant"]
    upload.write_bytes(
        archived(
            {
                "data/train-00000-of-00002.parquet": written(
                    table(images[:3], [0, 1, 0], names=names), row_group_size=2
                ),
                "data/train-00001-of-00002.parquet": written(table(images[3:6], [1, 1, 0], names=names)),
                f"data/{other}-00000-of-00001.parquet": written(table(images[6:], [1, 0], names=names)),
                "README.md": b"x",
                ".gitattributes": b"x",
            }
        )
    )
    found = inspect_dataset(upload)
    assert (found.format, found.summary["splits"]) == ("parquet", {"train": None, "test": None})
    raw = read(upload)
    assert raw.classes == names
    assert np.array_equal(np.asarray(raw.train_images)[:, 0], np.stack(images[:6]))
    assert raw.train_labels.tolist() == [0, 1, 0, 1, 1, 0]
    assert np.array_equal(np.asarray(raw.test_images)[:, 0], np.stack(images[6:]))
    assert raw.test_labels.tolist() == [1, 0]
    assert ([entry["path"] for entry in raw.skipped], raw.ignored) == (["README.md"], {".*": 1})
    assert list(upload.parent.iterdir()) == [upload]


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("kind", [pa.int64(), pa.int32(), pa.uint8()])
def test_one_file_alone(upload: Path, compression: str, kind: Any) -> None:
    upload.write_bytes(written(sound(kind=kind), compression=compression))
    assert inspect_dataset(upload).format == "parquet"
    raw = read(upload)
    assert raw.classes == ["0", "1"]
    assert (len(raw.train_labels), len(raw.test_labels)) == (18, 2)
    assert "held out" in raw.notes[0]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_labels_that_are_names(upload: Path, kind: Any) -> None:
    upload.write_bytes(written(table([pixels() for _ in range(6)], ["ox", "bee", "ox", "ox", "bee", "bee"], kind=kind)))
    raw = read(upload)
    assert raw.classes == ["bee", "ox"]
    assert sorted([*raw.train_labels, *raw.test_labels]) == [0, 0, 0, 1, 1, 1]


def test_bytes_without_a_struct(upload: Path) -> None:
    images = [png(pixels()) for _ in range(6)]
    upload.write_bytes(written(pa.table({"img": pa.array(images), "fine_label": [0, 1] * 3, "coarse_label": [0] * 6})))
    assert len(read(upload).train_labels) == 4


def test_columns_of_other_names_are_told_by_the_features(upload: Path) -> None:
    upload.write_bytes(written(sound(image="scan", label="diagnosis", names=["ill", "well"])))
    assert read(upload).classes == ["ill", "well"]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [b"x"], "img": [b"x"], "label": [0]}, "several columns of images: image, img"),
        ({"image": [b"x"], "label": [0], "labels": [0]}, "several columns of labels: label, labels"),
        ({"image": [b"x"], "species": ["ox"]}, "no column label; it has species"),
        ({"x": [b"x"], "label": [0]}, "no column image; it has x, label"),
        ({"image": ["a.png"], "label": [0]}, "holds string, not encoded images"),
        ({"image": [b"x"], "label": [0.5]}, "holds double, not numbers"),
        ({"image": [b"x"], "label": [[0, 1]]}, "holds list"),
    ],
)
def test_columns_that_are_not_clear(upload: Path, columns: dict[str, Any], said: str) -> None:
    error = refused(upload, written(pa.table(columns)))
    assert error.code == "dataset_unreadable"
    assert said in error.message


def test_labels_that_are_kept_secret(upload: Path) -> None:
    """Minus one, or null: without a label in train, and a test split of such images is not used."""
    names = ["a", "b"]
    members = {
        "train-0.parquet": written(table([pixels() for _ in range(6)], [0, 1, 0, 1, -1, None], names=names)),
        "validation-0.parquet": written(table([pixels() for _ in range(2)], [0, 1], names=names)),
        "test-0.parquet": written(table([pixels() for _ in range(3)], [-1, -1, -1], names=names)),
    }
    upload.write_bytes(zipped(members))
    raw = read(upload)
    assert raw.train_labels.tolist() == [0, 1, 0, 1, -1, -1]
    assert raw.test_labels.tolist() == [0, 1]
    assert "Nothing was made of 3 images" in raw.notes[0]


def test_no_column_of_labels(upload: Path) -> None:
    upload.write_bytes(written(pa.table({"image": pa.array([{"bytes": png(pixels()), "path": ""}] * 5, IMAGE)})))
    assert read(upload).classes == []


@pytest.mark.parametrize(
    ("labels", "names", "code"),
    [
        ([1, 2, 1, 2], None, "dataset_class_mismatch"),
        ([-1, 1, -1, 1], None, "dataset_unreadable"),
        ([0, 1, 2, 0], ["a", "b"], "dataset_unreadable"),
        ([0, 1, 0, 1], ["a", "b", "c"], "dataset_class_mismatch"),
        ([0, 0, 0, 0], ["a"], "dataset_empty"),
    ],
)
def test_labels_that_do_not_fit(upload: Path, labels: list[int], names: list[str] | None, code: str) -> None:
    assert refused(upload, written(table([pixels() for _ in labels], labels, names=names))).code == code


def test_rows_that_cannot_be_read_are_listed(upload: Path) -> None:
    rows = [{"bytes": png(pixels()), "path": ""} for _ in range(60)]
    rows[3], rows[5] = {"bytes": None, "path": "/etc/passwd"}, {"bytes": b"no image", "path": ""}
    labels = [0, 1] * 30
    upload.write_bytes(written(pa.table({"image": pa.array(rows, IMAGE), "label": labels})))
    raw = read(upload)
    assert {entry["path"]: entry["reason"] for entry in raw.skipped} == {
        "data.parquet/3": "the row has no bytes of an image",
        "data.parquet/5": "not a JPEG, PNG, WebP or BMP image",
    }
    rows[7:10] = [rows[3]] * 3
    error = refused(upload, written(pa.table({"image": pa.array(rows, IMAGE), "label": labels})))
    assert (error.code, "5 of 60" in error.message) == ("dataset_unreadable", True)


def test_cut_short(upload: Path) -> None:
    whole = written(sound())
    for keep in (4, 30, len(whole) - 20, len(whole) - 1):
        assert refused(upload, whole[:keep]).code == "upload_corrupt"
        with pytest.raises(InputError) as caught:
            inspect_dataset(upload)
        assert caught.value.code == "upload_corrupt"


def test_a_footer_that_is_too_long(upload: Path) -> None:
    length = 20 * 2**20
    assert refused(upload, b"PAR1" + bytes(length) + length.to_bytes(4, "little") + b"PAR1").code == "unsafe_file"


def test_a_bomb_of_equal_images(upload: Path) -> None:
    """Half a megabyte of noise that a dictionary repeats 1,000 times."""
    noise = random.Random(0).randbytes(500_000)
    data = io.BytesIO()
    with pq.ParquetWriter(data, pa.schema([("image", pa.binary()), ("label", pa.int64())])) as writer:
        batch = pa.record_batch({"image": pa.array([noise] * 100), "label": pa.array([0, 1] * 50)})
        writer.write_table(pa.Table.from_batches([batch] * 10), row_group_size=1000)
    assert len(data.getvalue()) < 2_000_000
    error = refused(upload, data.getvalue())
    assert (error.code, "unpack to" in error.message) == ("unsafe_file", True)


def test_a_bomb_of_zeros(upload: Path) -> None:
    content = pa.table({"image": pa.array([bytes(2**20) + bytes([i]) for i in range(64)]), "label": [0, 1] * 32})
    data = written(content, compression="zstd", use_dictionary=False)
    assert len(data) < 2**20
    error = refused(upload, data)
    assert (error.code, "unpack to" in error.message) == ("unsafe_file", True)


def test_a_bomb_within_a_zip(upload: Path) -> None:
    error = refused(upload, zipped({"train-0.parquet": b"PAR1" + bytes(50 * 2**20) + b"PAR1"}))
    assert (error.code, "unpack to" in error.message) == ("unsafe_file", True)
    with pytest.raises(InputError, match="unpack to"):
        inspect_dataset(upload)


def test_a_bomb_of_strings(upload: Path) -> None:
    names = ["a" * 10_000_000, "b" * 10_000_000]
    error = refused(upload, written(table([pixels() for _ in range(40)], names * 20), compression="zstd"))
    assert error.code in ("unsafe_file", "dataset_unreadable")
    assert len(error.message) < 500


def test_sizes_that_lie(upload: Path) -> None:
    """The file's own description claims other numbers of rows and bytes than there are."""
    whole = bytearray(written(sound(200), compression="none"))
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    codes = set()
    randomness = random.Random(1)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(3):
            data[randomness.randrange(footer, len(data) - 8)] = randomness.randrange(256)
        upload.write_bytes(data)
        try:
            read(upload)
            codes.add("ok")
        except InputError as error:
            codes.add(error.code)
    assert "upload_corrupt" in codes


def test_a_schema_nested_deeply(upload: Path) -> None:
    kind: Any = pa.int64()
    for _ in range(50):
        kind = pa.list_(kind)
    content = pa.table({"image": pa.array([b"x"]), "label": pa.array([None], kind)})
    assert refused(upload, written(content)).code in ("dataset_unreadable", "upload_corrupt")


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"{", b'{"info": []}', b'{"info": {"features": {"label": {"names": 3}}}}']
)
def test_features_that_make_no_sense_are_passed_over(upload: Path, text: bytes) -> None:
    upload.write_bytes(written(sound().replace_schema_metadata({b"huggingface": text})))
    assert read(upload).classes == ["0", "1"]


def test_a_large_file_needs_little_memory(upload: Path) -> None:
    """300 MB of images, read by a process that may take 250 MB beside what its libraries take."""
    noise = random.Random(0)
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    with pq.ParquetWriter(upload, schema, compression="none", use_dictionary=False) as writer:
        head = png(pixels())
        for _ in range(3):
            images = [head + noise.randbytes(100_000) for _ in range(1000)]
            writer.write_table(pa.table({"image": images, "label": [0, 1] * 500}, schema=schema), row_group_size=1000)
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "import pyarrow.parquet\n"
        "from distill.data.readers import read\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "raw = read(Path(sys.argv[1]))\n"
        "print(len(raw.train_labels), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(upload)], capture_output=True, text=True, check=True, env=os.environ
    )
    count, kilobytes = map(int, result.stdout.split())
    assert count == 2700
    assert kilobytes < 250_000


def test_no_damage_brings_anything_but_an_input_error(upload: Path) -> None:
    whole = written(sound(), compression="zstd")
    randomness = random.Random(5)
    outcomes = set()
    for _ in range(200):
        data = bytearray(whole)
        data[randomness.randrange(len(data))] = randomness.randrange(256)
        upload.write_bytes(data)
        try:
            read(upload)
            outcomes.add("ok")
        except InputError as error:
            outcomes.add(error.code)
    assert {"ok", "upload_corrupt"} <= outcomes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20
