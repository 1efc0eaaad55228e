"""Tars and compressed tars, written by tarfile: whole ones are read as zips are, hostile ones refused at once."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data import archive, inspect
from distill.data.inspect import inspect_dataset
from distill.data.readers import read
from distill.errors import InputError

MODES = ["w", "w:gz"]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
RANDOM = np.random.default_rng(0)


def png(side: int = 4) -> bytes:
    data = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (side, side), dtype=np.uint8)).save(data, "PNG")
    return data.getvalue()


def folders(wrapper: str = "") -> dict[str, bytes]:
    return {
        f"{wrapper}{split}/{name}/{i}.png": png() for split in ("train", "val") for name in ("b", "a") for i in "123"
    }


def tarred(members: dict[str, bytes], *, mode: str = "w", format: int = tarfile.PAX_FORMAT) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=mode, format=format) as file:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return data.getvalue()


def with_member(kind: bytes, name: str = "train/a/x.png", *, linkname: str = "/etc/passwd", size: int = 0) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size = kind, linkname, size
        file.addfile(info)
    return data.getvalue()


def refused(path: Path, data: bytes) -> InputError:
    """The error of both doors, which agree, come at once, and leave nothing behind."""
    path.write_bytes(data)
    errors: list[InputError] = []
    for door in (inspect_dataset, read):
        start = time.process_time()
        with pytest.raises(InputError) as caught:
            door(path)
        assert time.process_time() - start < 5
        errors.append(caught.value)
    assert errors[0].as_json() == errors[1].as_json()
    assert errors[0].hint
    assert list(path.parent.iterdir()) == [path]
    return errors[0]


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wrapper", ["", "./", "./my photos/", "my photos/" + "long " * 30 + "/"])
def test_folders_are_read_as_those_of_a_zip(upload: Path, mode: str, format: int, wrapper: str) -> None:
    if wrapper.count("/") > 1 and "long" in wrapper:
        wrapper = wrapper.replace("my photos/", "")
        if format == tarfile.USTAR_FORMAT:
            wrapper = wrapper[:120] + "/"
    members = folders(wrapper)
    upload.write_bytes(tarred(members, mode=mode, format=format))
    found = inspect_dataset(upload)
    assert (found.format, found.summary["classes"]) == ("imagefolder", ["a", "b"])
    raw = read(upload)
    assert raw.classes == ["a", "b"]
    expected = [np.asarray(Image.open(io.BytesIO(members[f"{wrapper}train/{c}/{i}.png"]))) for c in "ab" for i in "123"]
    assert np.array_equal(np.asarray(raw.train_images)[:, 0], np.stack(expected))
    assert raw.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert list(upload.parent.iterdir()) == [upload]


def test_a_folder_packed_from_disk(upload: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name, data in folders().items():
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        (photos / name).write_bytes(data)
    (photos / "train/a/.DS_Store").write_bytes(b"x")
    (photos / "train/a/._1.png").write_bytes(b"x")
    (photos / ".ipynb_checkpoints").mkdir()
    (photos / ".ipynb_checkpoints/1.png").write_bytes(b"x")
    (photos / "train/a/Thumbs.db").write_bytes(b"x")
    (photos / "train/notes.txt").write_bytes(b"x")
    with tarfile.open(upload, "w:gz") as file:
        file.add(photos, arcname=".")
    raw = read(upload)
    assert raw.classes == ["a", "b"]
    assert raw.ignored == {".DS_Store": 1, "._*": 1, ".ipynb_checkpoints": 1, "Thumbs.db": 1}
    assert [entry["path"] for entry in raw.skipped] == ["train/notes.txt"]


def test_other_formats_lie_in_tars_too(upload: Path) -> None:
    rows = np.concatenate([RANDOM.integers(0, 256, (20, 3073), dtype=np.uint8)])
    rows[:, 0] = np.arange(20) % 10
    names = "\n".join("abcdefghij").encode()
    members = {f"cifar/{name}.bin": rows.tobytes() for name in ("data_batch_1", "test_batch")}
    upload.write_bytes(tarred(members | {"cifar/batches.meta.txt": names}, mode="w:gz"))
    assert inspect_dataset(upload).format == "cifar"
    assert len(read(upload).train_labels) == 20


def test_a_tar_from_before_posix(upload: Path) -> None:
    blocks = []
    for name, content in folders().items():
        info = tarfile.TarInfo(name)
        info.size = len(content)
        header = bytearray(info.tobuf())
        header[156:157], header[257:265], header[148:156] = b"\0", bytes(8), b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        blocks += [bytes(header), content.ljust(-(-len(content) // 512) * 512, b"\0")]
    whole = b"".join(blocks) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(whole)) as file:
        assert file.getnames() == list(folders())
    for data in (whole, gzip.compress(whole)):
        upload.write_bytes(data)
        assert read(upload).classes == ["a", "b"]


def test_gzip_in_parts_as_pigz_and_cat_make_it(upload: Path) -> None:
    whole = tarred(folders())
    upload.write_bytes(gzip.compress(whole[:3000]) + gzip.compress(b"") + gzip.compress(whole[3000:]) + bytes(512))
    assert len(read(upload).train_labels) == 6


def test_a_large_tar_gz_is_left_to_the_worker(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upload.write_bytes(tarred(folders(), mode="w:gz"))
    monkeypatch.setattr(inspect, "_OUTLINE_BYTES", 2000)
    found = inspect_dataset(upload)
    assert (found.format, found.summary["splits"]) == ("auto", {"train": None, "test": None})
    assert inspect_dataset(upload, format="imagefolder").format == "imagefolder"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "..\\x.png", "C:\\x.png", "a" * 2000])
def test_names_that_lead_elsewhere(upload: Path, name: str, mode: str) -> None:
    error = refused(upload, tarred({**folders(), name: png()}, mode=mode))
    assert error.code == "unsafe_file"
    assert len(error.message) < 300


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z"]
)
def test_links_and_devices(upload: Path, kind: bytes) -> None:
    error = refused(upload, with_member(kind))
    assert (error.code, "link or a device" in error.message) == ("unsafe_file", True)


def test_a_link_with_a_long_target(upload: Path) -> None:
    assert refused(upload, with_member(tarfile.SYMTYPE, linkname="x" * 5000)).code == "unsafe_file"


def test_a_sparse_file(upload: Path) -> None:
    assert "sparse" in refused(upload, with_member(tarfile.GNUTYPE_SPARSE)).message
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo("train/a/x.png")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.realsize": "999999999999"}
        file.addfile(info)
    assert refused(upload, data.getvalue()).code == "unsafe_file"


def test_a_name_that_comes_twice(upload: Path) -> None:
    once = tarred(folders())
    info = tarfile.TarInfo("train/a/1.png")
    assert "twice" in refused(upload, info.tobuf() + once).message


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_cut_short(upload: Path, mode: str, keep: float) -> None:
    whole = tarred(folders(), mode=mode)
    whole = whole if mode == "w:gz" else whole[: 12 * 1024]  # without the padding behind the end mark
    assert refused(upload, whole[: int(keep * len(whole))]).code == "upload_corrupt"


def test_sizes_beyond_the_file(upload: Path) -> None:
    for size in (10**6, 8**11 - 1, 2**80):  # the last ones are told in GNU's own way
        info = tarfile.TarInfo("train/a/x.png")
        info.size = size
        header = info.tobuf(tarfile.GNU_FORMAT)
        assert refused(upload, header + tarred(folders())).code == "upload_corrupt"


def test_sizes_in_pax_records(upload: Path) -> None:
    for size in ("999999999999", "-1", "9" * 5000, "x"):
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as file:
            info = tarfile.TarInfo("train/a/x.png")
            info.pax_headers = {"size": size}
            file.addfile(info)
        assert refused(upload, data.getvalue()).code in ("upload_corrupt", "unsafe_file")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_descriptions_without_an_end(upload: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 8**10
    assert refused(upload, header.tobuf(tarfile.GNU_FORMAT) + bytes(4096)).code == "unsafe_file"
    header.size = 512
    assert refused(upload, header.tobuf(tarfile.GNU_FORMAT) + b"99999 path=x\n").code == "upload_corrupt"


def test_a_million_empty_members(upload: Path) -> None:
    """As a gzip file of 3 MB; a quarter of them as a tar. The API leaves to the worker what begins well."""
    one = tarfile.TarInfo("a").tobuf()
    error = refused(upload, one * 250_000)
    assert (error.code, "members" in error.message or "twice" in error.message) == ("unsafe_file", True)
    folder = tarfile.TarInfo("a/")
    folder.type = tarfile.DIRTYPE
    for data in (folder.tobuf() * 250_000, gzip.compress(folder.tobuf() * 1_000_000, 1)):
        upload.write_bytes(data)
        assert inspect_dataset(upload).format == "auto"
        with pytest.raises(InputError, match="more than 200,000 members") as caught:
            read(upload)
        assert caught.value.code == "unsafe_file"


def test_more_members_than_are_allowed(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.data.tarball.MAX_MEMBERS", 5)
    assert "more than 5 members" in refused(upload, tarred(folders())).message


def test_more_bytes_than_are_allowed(upload: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.data.tarball.MAX_TOTAL_BYTES", 500)
    monkeypatch.setattr("distill.data.spool.MAX_TOTAL_BYTES", 500)
    for mode in MODES:
        assert "more than 500 bytes" in refused(upload, tarred(folders(), mode=mode)).message
    assert archive.MAX_TOTAL_BYTES > 500


def test_a_gzip_bomb(upload: Path) -> None:
    """4 GB of zeros in 4 MB, the first member of a tar."""
    info = tarfile.TarInfo("train/a/x.bmp")
    info.size = 4_000_000_000
    packer = zlib.compressobj(9, wbits=31)
    data = packer.compress(info.tobuf(tarfile.GNU_FORMAT))
    data += b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()
    error = refused(upload, data)
    assert (error.code, "unpack to" in error.message) == ("unsafe_file", True)


def test_gzip_parts_without_end(upload: Path) -> None:
    upload_bytes = gzip.compress(tarred(folders())) + gzip.compress(b"") * 200_000
    assert refused(upload, upload_bytes).code == "unsafe_file"


def test_gzip_in_gzip_and_tar_in_tar(upload: Path) -> None:
    assert refused(upload, gzip.compress(tarred(folders(), mode="w:gz"))).code == "unsupported_format"
    nested = tarred({"inner.tar": tarred({"innermost.tar": tarred(folders())})})
    upload.write_bytes(nested)
    assert inspect_dataset(upload).format == "webdataset"
    with pytest.raises(InputError) as caught:
        read(upload)
    assert caught.value.code == "dataset_empty"


@pytest.mark.parametrize("mode", MODES)
def test_no_damage_brings_anything_but_an_input_error(upload: Path, mode: str) -> None:
    sound = tarred(folders(), mode=mode, format=tarfile.PAX_FORMAT)
    make: Callable[[int], int] = random.Random(5).randrange
    outcomes = set()
    for _ in range(300):
        data = bytearray(sound)
        for _ in range(1 + make(2)):
            at = make(len(data)) if mode == "w:gz" else 1024 * make(12) + make(512)
            data[at] = make(256)
        upload.write_bytes(data)
        for door in (inspect_dataset, read):
            try:
                door(upload)
                outcomes.add("ok")
            except InputError as error:
                outcomes.add(error.code)
    assert "upload_corrupt" in outcomes
