"""Lists of images in CSV, written by the standard library, and in JSON lines."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.data.inspect import inspect_dataset
from distill.data.raw import RawDataset
from distill.data.readers import read
from distill.errors import InputError
from tests.fixtures.archives import gzipped, zipped

RANDOM = np.random.default_rng(0)
LABELS = ["cat", "dog"] * 10
Rows = list[dict[str, Any]]


def png() -> bytes:
    data = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (6, 6), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def as_csv(rows: Rows, *, delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


def as_jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def images(count: int = 20, folder: str = "images/") -> dict[str, bytes]:
    return {f"{folder}{i}.png": png() for i in range(count)}


def rows(labels: list[Any] = LABELS, *, folder: str = "images/", column: str = "file_name") -> Rows:
    return [{column: f"{folder}{i}.png", "label": label} for i, label in enumerate(labels)]


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def reading(upload: Path, members: dict[str, bytes], archived: Any = zipped) -> RawDataset:
    upload.write_bytes(archived(members))
    assert inspect_dataset(upload).format == "manifest"
    raw = read(upload)
    assert isinstance(raw, RawDataset)
    return raw


def refused(upload: Path, members: dict[str, bytes], *, code: str = "dataset_unreadable") -> InputError:
    upload.write_bytes(zipped(members))
    with pytest.raises(InputError) as caught:
        read(upload)
    assert caught.value.code == code
    assert caught.value.hint
    assert len(caught.value.message) < 600
    return caught.value


@pytest.mark.parametrize("archived", [zipped, gzipped])
@pytest.mark.parametrize("column", ["file_name", "image", "path"])
@pytest.mark.parametrize("name", ["manifest.csv", "metadata.csv", "manifest.jsonl", "set/metadata.jsonl"])
def test_a_list_beside_a_folder(upload: Path, name: str, column: str, archived: Any) -> None:
    folder = name.rpartition("/")[0]
    members = images(folder=f"{folder}/images/".lstrip("/"))
    text = (as_jsonl if name.endswith("l") else as_csv)(rows(column=column))
    raw = reading(upload, {name: text, **members}, archived)
    assert raw.classes == ["cat", "dog"]
    assert (len(raw.train_labels), len(raw.test_labels)) == (18, 2)
    assert raw.skipped == []


def test_a_column_of_splits_and_numbers(upload: Path) -> None:
    listed = [
        row | {"split": "Train" if i < 6 else "validation", "more": 'a "quoted",\ncaption'}
        for i, row in enumerate(rows([i % 3 for i in range(9)]))
    ]
    given = images(9)
    raw = reading(upload, {"manifest.csv": as_csv(listed), **given})
    assert raw.classes == ["0", "1", "2"]
    assert (raw.train_labels.tolist(), raw.test_labels.tolist()) == ([0, 1, 2] * 2, [0, 1, 2])
    expected = [np.asarray(Image.open(io.BytesIO(given[f"images/{i}.png"]))) for i in range(6)]
    assert np.array_equal(np.asarray(raw.train_images)[:, 0], np.stack(expected))


def test_a_list_of_each_split(upload: Path) -> None:
    members = {
        "train.csv": as_csv(rows(["a", "b"] * 3, folder="x/"), delimiter=";"),
        "test.csv": as_csv(rows(["b", "a"], folder="y/"), delimiter=";"),
        **images(6, "x/"),
        **images(2, "y/"),
    }
    raw = reading(upload, members)
    assert (raw.train_labels.tolist(), raw.test_labels.tolist()) == ([0, 1] * 3, [1, 0])


def test_metadata_in_the_folder_of_each_split(upload: Path) -> None:
    """As the datasets library reads them: the paths go from the list's own folder, and are alike in both."""
    members = {}
    for split, labels in (("train", ["a", "b"] * 3), ("test", ["b", "a"])):
        members |= {f"{split}/metadata.csv": as_csv(rows(labels, folder="")), **images(len(labels), f"{split}/")}
    raw = reading(upload, members)
    assert (raw.train_labels.tolist(), raw.test_labels.tolist()) == ([0, 1] * 3, [1, 0])


def test_what_is_left_out_is_listed(upload: Path) -> None:
    listed = rows(["a", "b"] * 50)
    members = {"manifest.csv": as_csv([*listed, {"file_name": "images/no.png", "label": "a"}]), **images(100)}
    members |= {"images/9.png": b"x", "images/extra.png": png(), "readme.txt": b"x", ".DS_Store": b"x"}
    members |= {"train_unlabeled/1.png": png()}
    raw = reading(upload, members)
    assert {entry["path"]: entry["reason"] for entry in raw.skipped} == {
        "images/9.png": "not a JPEG, PNG, WebP or BMP image",
        "images/no.png": "named in manifest.csv, line 102, and not in the archive",
        "images/extra.png": "no list names it",
        "readme.txt": "not a JPEG, PNG, WebP or BMP",
    }
    assert raw.ignored == {".DS_Store": 1}
    assert (raw.train_labels == -1).sum() == 1


def test_too_many_missing_images(upload: Path) -> None:
    members = {"manifest.csv": as_csv(rows()), **images(15)}
    assert "5 of 20 images" in refused(upload, members).message


def test_rows_without_a_label(upload: Path) -> None:
    raw = reading(upload, {"manifest.csv": as_csv(rows(["a", "b", "", "a", "b", ""])), **images(6)})
    assert sorted([*raw.train_labels, *raw.test_labels]) == [-1, -1, 0, 0, 1, 1]
    assert reading(upload, {"manifest.csv": b"file_name\n0.png\n1.png\n", **images(2, "")}).classes == []


def test_class_folders_beside_a_list_of_something_else(upload: Path) -> None:
    members = {f"{name}/{i}.png": png() for name in ("a", "b") for i in range(5)} | {"train.csv": b"id,price\n1,2\n"}
    error = refused(upload, members)
    assert ("no column file_name; it has id, price" in error.message, "imagefolder" in error.hint) == (True, True)
    assert inspect_dataset(upload, format="imagefolder").format == "imagefolder"
    assert read(upload, format="imagefolder").classes == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("manifest.csv", b"file_name,image,label\n0.png,0.png,a\n", "several columns of paths: file_name, image"),
        ("manifest.csv", b"file_name,label\n0.png\n", "line 2 has not as many fields"),
        ("manifest.csv", b"file_name,label\n0.png,a,b\n", "line 2 has not as many fields"),
        ("manifest.csv", b'file_name,label\n"0.png,a\n', "cannot be read"),
        ("manifest.csv", b"file_name,label\n" + b"x" * 200_000 + b",a\n", "field larger"),
        ("manifest.csv", b"file_name,label,split\n0.png,a,holiday\n", "the split holiday"),
        ("manifest.csv", b"file_name,label\n,a\n", "names no image"),
        ("manifest.csv", b"file_name,label\n0.png," + b"n" * 300 + b"\n", "no name of a class"),
        ("manifest.csv", b"file_name,label\n0.png,a\n0.png,b\n", "named before"),
        ("manifest.csv", b"file_name,label\n0.png,1\n1.png,a\n", "some labels are numbers"),
        ("manifest.csv", b"\xff\xfe\x00", "no text in UTF-8"),
        ("manifest.jsonl", b"[1]\n", "no JSON object"),
        ("manifest.jsonl", b"[" * 100_000 + b"\n", "no JSON"),
        ("manifest.jsonl", b'{"file_name": "0.png", "label": 1' + b" " * 2**20 + b"}\n", "characters"),
        ("manifest.jsonl", b'{"file_name": 3, "label": 1}\n', "names no image"),
        ("manifest.jsonl", b'{"file_name": "0.png", "label": 0.5}\n', "is no number"),
        ("manifest.jsonl", b'{"file_name": "0.png", "label": true}\n', "is no number"),
    ],
)
def test_lists_that_cannot_be_read(upload: Path, name: str, text: bytes, said: str) -> None:
    assert said in refused(upload, {name: text, **images(2, "")}).message


@pytest.mark.parametrize(
    ("labels", "code"),
    [
        ([1, 2, 1, 2], "dataset_class_mismatch"),
        ([-1, 1, -1, 1], "dataset_unreadable"),
        (["a", "a"], "dataset_empty"),
    ],
)
def test_labels_that_do_not_fit(upload: Path, labels: list[Any], code: str) -> None:
    refused(upload, {"manifest.csv": as_csv(rows(labels)), **images(len(labels))}, code=code)


def test_a_list_in_each_of_many_folders(upload: Path) -> None:
    members = {f"{i}/train.csv": b"file_name,label\n" for i in range(101)} | images(2)
    assert "101 lists" in refused(upload, members).message


def test_a_class_that_only_the_test_split_has(upload: Path) -> None:
    listed = [row | {"split": "train" if i < 4 else "test"} for i, row in enumerate(rows(["a", "b", "a", "b", "c"]))]
    error = refused(upload, {"manifest.csv": as_csv(listed), **images(5)}, code="dataset_class_mismatch")
    assert "test has the class c" in error.message


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "images/../images/0.png"])
def test_paths_are_only_looked_up_in_the_archive(upload: Path, path: str) -> None:
    members = {"manifest.csv": as_csv([*rows(["a", "b"] * 30), {"file_name": path, "label": "a"}]), **images(60)}
    assert [entry["path"] for entry in reading(upload, members).skipped] == [path]
