from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data import decoding
from distill.data.decoding import check_broken
from distill.data.packed import pack
from distill.data.readers import read
from distill.errors import InputError


def picture(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (4, 4), value).save(data, "BMP")
    return data.getvalue()


GOOD = [picture(60), picture(200)]


def upload(folder: Path, *, count: int, broken: set[int]) -> Path:
    """Images 0, 1, 2, ... of two classes in turn, some of them cut short."""
    path = folder / "images.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(count):
            data = GOOD[number % 2]
            file.writestr(f"{'ab'[number % 2]}/{number:05}.bmp", data[:40] if number in broken else data)
    return path


def refused(path: Path, share: float) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path, max_broken_share=share)
    return caught.value


def test_one_in_ten_thousand_is_skipped_and_reported(tmp_path: Path) -> None:
    path = upload(tmp_path, count=10_000, broken={4711})

    report = pack(read(path), tmp_path / "packed")

    assert report["skipped_count"] == 1
    assert report["skipped"][0]["path"] == "b/04711.bmp"
    assert "truncated" in report["skipped"][0]["reason"].lower()
    assert sum(split["images"] for split in report["splits"].values()) == 9_999
    assert sum(split["per_class"]["b"] for split in report["splits"].values()) == 4_999


@pytest.mark.parametrize("share", [0.05, 0.1, 0.29, 0.5])
def test_a_share_is_met_and_not_passed(share: float, tmp_path: Path) -> None:
    allowed = round(share * 100)
    raw = read(upload(tmp_path, count=100, broken=set(range(allowed))), max_broken_share=share)
    assert len(raw.skipped) == allowed

    error = refused(upload(tmp_path, count=100, broken=set(range(allowed + 1))), share)

    assert error.code == "dataset_unreadable"
    assert f"{allowed + 1} of 100 images" in error.message
    assert error.details["skipped_count"] == allowed + 1
    assert (error.details["count"], error.details["max_broken_share"]) == (100, share)
    assert len(error.details["skipped"]) == min(10, allowed + 1)
    assert "max_broken_share" in error.hint


def test_a_share_of_zero_refuses_any(tmp_path: Path) -> None:
    assert refused(upload(tmp_path, count=1000, broken={3}), 0.0).code == "dataset_unreadable"
    assert read(upload(tmp_path, count=20, broken=set()), max_broken_share=0.0).skipped == []


def test_a_share_of_one_tolerates_all_but_an_empty_class(tmp_path: Path) -> None:
    most = upload(tmp_path, count=100, broken=set(range(4, 100)))
    assert len(read(most, max_broken_share=1.0).skipped) == 96

    one_class = upload(tmp_path, count=100, broken=set(range(1, 100, 2)))
    assert refused(one_class, 1.0).code == "dataset_class_mismatch"

    assert refused(upload(tmp_path, count=100, broken=set(range(100))), 1.0).code == "dataset_empty"


def test_it_holds_for_images_that_a_list_lacks(tmp_path: Path) -> None:
    path = tmp_path / "listed.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("manifest.csv", "file_name,label\n" + "".join(f"{n}.bmp,{n % 2}\n" for n in range(20)))
        for number in range(18):
            file.writestr(f"{number}.bmp", GOOD[number % 2])
    assert len(read(path, max_broken_share=0.1).skipped) == 2
    assert refused(path, 0.09).details["skipped_count"] == 2


def test_it_holds_for_faces(tmp_path: Path) -> None:
    path = tmp_path / "faces.npz"
    points = np.random.default_rng(0).uniform(2, 9, (20, 5, 2))
    points[:3, 0, 0] = np.nan
    np.savez(path, x_train=np.zeros((20, 12, 12), dtype=np.uint8), landmarks_train=points)
    assert len(read(path, max_broken_share=0.15).skipped) == 3
    assert "faces" in refused(path, 0.14).message


@pytest.mark.parametrize(("count", "of"), [(29, 100), (7, 100), (1, 10_000), (57, 1000)])
def test_decimal_shares_are_exact(count: int, of: int) -> None:
    skipped = [{"path": str(number), "reason": "x"} for number in range(count)]
    check_broken(skipped, of=of, max_share=float(f"{count / of:g}"))


def test_what_has_no_room_is_refused_before_it_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = upload(tmp_path, count=10, broken=set())
    monkeypatch.setattr(decoding, "_COPIES", 2**60)  # more than any disk has
    assert refused(path, 0.0).code == "storage_full"

    monkeypatch.setattr(decoding, "MAX_DECODED_BYTES", 159)
    error = refused(path, 0.0)
    assert (error.code, "160 bytes" in error.message) == ("unsafe_file", True)
