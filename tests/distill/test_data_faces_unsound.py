"""What is wrong with some faces of WFLW and 300W, and with some of their zips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.data.inspect import inspect_dataset
from distill.data.raw_landmarks import RawLandmarks
from distill.data.readers import read
from distill.errors import InputError
from tests.fixtures.face_files import pts_bytes, w300_zip, wflw_line, zip_bytes
from tests.fixtures.face_photographs import TEST_LIST, TRAIN_LIST, alike, many_300w, many_wflw, spread, wflw_members


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "faces.zip"


def read_bytes(path: Path, data: bytes) -> RawLandmarks:
    path.write_bytes(data)
    raw = read(path)
    assert isinstance(raw, RawLandmarks)
    return raw


def refused(path: Path, members: dict[str, bytes], *, code: str) -> InputError:
    path.write_bytes(zip_bytes(members))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == code
    return caught.value


def changed(fields: dict[int, str], *, image: str = "a/000.png") -> str:
    """The line of WFLW that all others are like, with some of its fields replaced."""
    line = wflw_line(alike(98)[0], image).split()
    for place, value in fields.items():
        line[place] = value
    return " ".join(line)


# A line and a word of the reason why its face is left out.
WRONG_LINES = {
    "NaN": (changed({3: "nan"}), "not finite"),
    "infinite": (changed({4: "1e999"}), "not finite"),
    "huge": (changed({4: "-1e300"}), "not finite, or beyond"),
    "NaN in the box": (changed({197: "nan"}), "not finite"),
    "far from its box": (changed({20: "1500"}), "point 10 lies"),
    "box upside down": (changed({198: "0"}), "its box is"),
    "box of a point": (changed(dict.fromkeys(range(196, 200), "9")), "its box is"),
    "enormous box": (changed({198: "900000"}), "its box is"),
    "outside": (wflw_line(alike(98)[0] + 5000, "a/000.png"), "outside of its photograph"),
    "eyes in one place": (changed({120: "70", 121: "80", 144: "70", 145: "80"}), "in one place"),
    "image not there": (changed({}, image="a/none.png"), "not there"),
    "image broken": (changed({}, image="broken.png"), "not a JPEG"),
}


@pytest.mark.parametrize("kind", WRONG_LINES)
def test_unsound_faces_are_left_out_and_listed(path: Path, kind: str) -> None:
    lines, images = many_wflw()
    line, reason = WRONG_LINES[kind]
    lines["train"].insert(7, line)
    raw = read_bytes(path, zip_bytes(wflw_members(lines, images | {"broken.png": b"<html>"})))
    assert (len(raw.train_images), len(raw.test_images)) == (40, 2)
    assert len(raw.skipped) == 1
    assert reason in raw.skipped[0]["reason"]
    assert "line 8 of list_98pt_rect_attr_train.txt" in raw.skipped[0]["reason"]


def test_too_many_unsound_faces(path: Path) -> None:
    lines, images = many_wflw()
    lines["train"] += [WRONG_LINES["NaN"][0]] * 3
    error = refused(path, wflw_members(lines, images), code="dataset_unreadable")
    assert "3 of 45 faces" in error.message
    assert len(error.details["skipped"]) == 3


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut short"),
        (b"version: 1\nn_points: 68\n{\n1 2\n3", "cut short"),
        (pts_bytes(spread(68, seed=0)).replace(b"n_points:  68", b"n_points:  67"), "n_points is 67"),
        (pts_bytes(spread(68, seed=0)).replace(b"}", b"7 7 }"), "138 numbers"),
        (pts_bytes(spread(68, seed=0)).replace(b"{\n", b"{\nx", 1), "could not convert"),
        (pts_bytes(np.full((68, 2), np.nan)), "not finite"),
        (pts_bytes(np.full((68, 2), 50.0)), "its box is"),
        (pts_bytes(spread(68, seed=0) / 400), "its box is"),
        (b"\xff\xfe" + bytes(range(256)), "cut short"),
        (b"version: 1\nn_points: 1\n{1 1}" + b" " * 2**20, "bytes"),
    ],
)
def test_unsound_pts_files_are_left_out_and_listed(path: Path, data: bytes, reason: str) -> None:
    members = many_300w() | {"train/030.pts": data}
    raw = read_bytes(path, zip_bytes(members))
    assert len(raw.train_images) == 39
    assert [entry["path"] for entry in raw.skipped] == ["train/030.png"]
    assert reason in raw.skipped[0]["reason"]
    assert raw.skipped[0]["reason"].startswith("train/030.pts: ")


def test_a_broken_first_pts_file_does_not_hide_the_others(path: Path) -> None:
    path.write_bytes(zip_bytes(many_300w() | {"train/000.pts": b"x"}))
    assert inspect_dataset(path).summary["num_points"] == 68


@pytest.mark.parametrize("fields", [1, 206, 150])
def test_a_list_that_is_cut_short_is_refused(path: Path, fields: int) -> None:
    lines, images = many_wflw(30)
    lines["train"][-1] = " ".join(lines["train"][-1].split()[:fields])
    error = refused(path, wflw_members(lines, images), code="dataset_unreadable")
    assert f"line 30 of list_98pt_rect_attr_train.txt has {fields} fields; 207 are needed" in error.message


def test_a_coordinate_that_is_no_number_is_refused(path: Path) -> None:
    lines, images = many_wflw(30)
    lines["train"][4] = lines["train"][4].replace(" ", " x", 1)
    assert "line 5 of" in refused(path, wflw_members(lines, images), code="dataset_unreadable").message


def test_wflw_zips_that_do_not_fit(path: Path) -> None:
    lines, images = many_wflw(5)
    full = wflw_members(lines, images)
    only_test = {name: data for name, data in full.items() if name != TRAIN_LIST}
    assert "no list_98pt_rect_attr_train" in refused(path, only_test, code="dataset_unreadable").message
    twice = full | {f"more/{TRAIN_LIST}": full[TRAIN_LIST]}
    assert "both" in refused(path, twice, code="dataset_unreadable").message
    refused(path, full | {TRAIN_LIST: b"\xff\xfe\x00"}, code="dataset_unreadable")
    refused(path, full | {TRAIN_LIST: b"\n"}, code="dataset_empty")
    refused(path, full | {TEST_LIST: b""}, code="dataset_empty")
    without_images = {TRAIN_LIST: full[TRAIN_LIST], TEST_LIST: full[TEST_LIST]}
    refused(path, without_images, code="dataset_empty")


def test_300w_zips_that_do_not_fit(path: Path) -> None:
    members = many_300w(4)
    image, marks = members["train/000.png"], members["train/000.pts"]
    other = pts_bytes(spread(67, seed=0))
    error = refused(path, members | {"train/002.pts": other}, code="dataset_unreadable")
    assert "train/002.pts has 67 points, others have 68" in error.message
    refused(path, {"a.pts": marks}, code="dataset_empty")
    refused(path, {"a.pts": marks, "b.png": image}, code="dataset_empty")
    refused(path, members | {"test.txt": b"test/0.png"}, code="dataset_unreadable")
    refused(path, members | {"train.txt": b"train/none.png"}, code="dataset_empty")
    refused(path, members | {"train.txt": b"train/000.png", "test.txt": b"train/none.png"}, code="dataset_empty")
    twice = members | {"train.txt": b"train/000.png\ntrain/001.png", "test.txt": b"train/001.png"}
    assert "twice" in refused(path, twice, code="dataset_unreadable").message
    both = members | {"a/train.txt": b"train/000.png", "b/train.txt": b"train/000.png"}
    assert "both" in refused(path, both, code="dataset_unreadable").message
    refused(
        path,
        {name: b"x" if name.endswith(".pts") else data for name, data in members.items()},
        code="dataset_unreadable",
    )
    missing = members | {"train.txt": b"train/000.png\ntrain/none.png", "test.txt": b"test/0.png"}
    assert "1 of 3 faces" in refused(path, missing, code="dataset_unreadable").message


def test_a_single_photograph_leaves_none_to_test_with(path: Path) -> None:
    points, image = alike(68)
    refused(path, {"0.png": image, "0.pts": pts_bytes(points)}, code="dataset_empty")


def test_a_format_that_was_asked_for_must_be_there(path: Path) -> None:
    path.write_bytes(w300_zip(2, 1))
    with pytest.raises(InputError, match="looks like 300w") as caught:
        read(path, format="wflw")
    assert caught.value.code == "unsupported_format"


def test_names_of_paths_are_shown_harmlessly(path: Path) -> None:
    lines, images = many_wflw()
    lines["train"].append(wflw_line(spread(98, seed=0), "\x1b[31m/" + "x" * 500))
    reported = read_bytes(path, zip_bytes(wflw_members(lines, images))).skipped[0]
    assert reported["path"].isprintable()
    assert len(reported["path"]) <= 120
