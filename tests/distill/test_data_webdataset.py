"""Shards written by the webdataset library itself."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.data.inspect import inspect_dataset
from distill.data.raw import RawDataset
from distill.data.readers import read
from distill.errors import InputError
from tests.fixtures.archives import tarred, zipped

webdataset = pytest.importorskip("webdataset")

RANDOM = np.random.default_rng(0)


def pixels() -> np.ndarray:
    return RANDOM.integers(0, 256, (6, 6), dtype=np.uint8)


def shard(samples: list[dict[str, Any]]) -> bytes:
    data = io.BytesIO()
    with webdataset.TarWriter(data) as writer:
        for sample in samples:
            writer.write(sample)
    return data.getvalue()


def samples(count: int, *, start: int = 0, **fields: Any) -> list[dict[str, Any]]:
    return [{"__key__": f"{i:06}", "png": pixels(), "cls": i % 2} | fields for i in range(start, start + count)]


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def readings(upload: Path, data: bytes) -> RawDataset:
    upload.write_bytes(data)
    assert inspect_dataset(upload).format == "webdataset"
    raw = read(upload)
    assert isinstance(raw, RawDataset)
    assert list(upload.parent.iterdir()) == [upload]
    return raw


def refused(upload: Path, data: bytes) -> InputError:
    upload.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(upload, format="webdataset")
    assert caught.value.hint
    return caught.value


def test_one_tar(upload: Path) -> None:
    given = samples(20)
    raw = readings(upload, shard(given))
    assert raw.classes == ["0", "1"]
    assert (len(raw.train_labels), len(raw.test_labels)) == (18, 2)
    label_of = {sample["png"].tobytes(): sample["cls"] for sample in given}
    images, labels = (
        np.concatenate(pair) for pair in ((raw.train_images, raw.test_images), (raw.train_labels, raw.test_labels))
    )
    assert [label_of[image.tobytes()] for image in images] == labels.tolist()


@pytest.mark.parametrize("archived", [zipped, tarred])
def test_shards_in_an_archive(upload: Path, archived: Any) -> None:
    train, test = samples(6), samples(4)
    members = {
        "set/cifar10-train-000000.tar": shard(train[:3]),
        "set/cifar10-train-000001.tar": shard(train[3:]),
        "set/cifar10-test-000000.tar": shard(test),
        "set/.DS_Store": b"x",
    }
    raw = readings(upload, archived(members))
    assert np.array_equal(np.asarray(raw.train_images)[:, 0], np.stack([sample["png"] for sample in train]))
    assert raw.train_labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert raw.test_labels.tolist() == [0, 1, 0, 1]


def test_compressed_shards(upload: Path, tmp_path: Path) -> None:
    packed = tmp_path / "train-0.tar.gz"
    with webdataset.TarWriter(str(packed)) as writer:
        for sample in samples(6):
            writer.write(sample)
    data = zipped({"train-0.tar.gz": packed.read_bytes()})
    packed.unlink()
    assert len(readings(upload, data).train_labels) == 4


def test_labels_in_json_and_as_names(upload: Path) -> None:
    as_json = [
        {"__key__": f"{i}", "png": pixels(), "json": {"label": name, "width": 6}} for i, name in enumerate("xyxyxy")
    ]
    assert readings(upload, shard(as_json)).classes == ["x", "y"]
    as_text = [{"__key__": f"dir/{i}", "png": pixels(), "cls": name} for i, name in enumerate(["ox", "bee"] * 3)]
    assert readings(upload, shard(as_text)).classes == ["bee", "ox"]


def test_what_is_left_out_is_listed(upload: Path) -> None:
    given = samples(100)
    del given[3]["cls"]
    given[4]["jpg"] = pixels()
    given[5]["txt"] = "a caption"
    raw = readings(upload, shard(given))
    reasons = {entry["path"]: entry["reason"] for entry in raw.skipped}
    assert reasons == {
        "000003.png": "there is no .cls and no .json of its name",
        "000004": "a sample of 2 images",
        "000005.txt": "no image and no label",
    }
    assert len(raw.train_labels) + len(raw.test_labels) == 98


def test_too_many_without_a_label(upload: Path) -> None:
    given = samples(20)
    for sample in given[:5]:
        del sample["cls"]
    error = refused(upload, shard(given))
    assert (error.code, "5 of 20 images" in error.message) == ("dataset_unreadable", True)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"{}", b"\xff", b'{"label": [1]}', b'{"label": ' + b"9" * 5000 + b"}"]
)
def test_labels_that_cannot_be_read(upload: Path, text: bytes) -> None:
    members = {f"{i}.png": next(iter(tiny())) for i in range(40)}
    members |= {f"{i}.json": json.dumps({"label": i % 2}).encode() for i in range(40)}
    upload.write_bytes(tarred(members | {"7.json": text}))
    raw = read(upload)
    assert [entry["path"] for entry in raw.skipped] == ["7.png"]


def tiny() -> list[bytes]:
    data = io.BytesIO()
    Image.fromarray(pixels()).save(data, "PNG")
    return [data.getvalue()]


def test_shards_that_are_none(upload: Path) -> None:
    assert refused(upload, zipped({"train-0.tar": b"x" * 1000})).code == "dataset_unreadable"
    assert refused(upload, zipped({"train-0.tar": shard(samples(4))[:1000]})).code == "upload_corrupt"


@pytest.mark.parametrize("name", ["../0.png", "/0.png"])
def test_names_in_shards_that_lead_elsewhere(upload: Path, name: str) -> None:
    assert refused(upload, zipped({"train-0.tar": tarred({name: b"x"})})).code == "unsafe_file"


def test_links_in_shards(upload: Path) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        info = tarfile.TarInfo("0.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    assert refused(upload, tarred({"train-0.tar": data.getvalue()})).code == "unsafe_file"


def test_a_bomb_of_a_shard(upload: Path) -> None:
    assert "unpack to" in refused(upload, zipped({"train-0.tar": shard(samples(1)) + bytes(50 * 2**20)})).message


def test_all_shards_together_are_bounded(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.data.webdataset_layout.MAX_MEMBERS", 10)
    members = {f"train-{i}.tar": shard(samples(3)) for i in range(2)}
    assert refused(upload, zipped(members)).code == "unsafe_file"
    monkeypatch.setattr("distill.data.spool.MAX_TOTAL_BYTES", 15_000)
    assert "15,000 bytes" in refused(upload, zipped(members)).message
