"""WFLW and 300W from small zips of the same form: which faces they give, and where the points lie."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data.inspect import inspect_dataset
from distill.data.raw_landmarks import RawLandmarks
from distill.data.readers import read
from distill.markup import IBUG_68, WFLW_98, Markup
from tests.fixtures.face_files import png_bytes, pts_bytes, w300_zip, wflw_line, wflw_zip, zip_bytes
from tests.fixtures.face_photographs import alike, many_300w, photograph, spread, wflw_members


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "faces.zip"


def read_bytes(path: Path, data: bytes, *, image_size: int | None = None, format: str = "auto") -> RawLandmarks:
    path.write_bytes(data)
    raw = read(path, format=format, image_size=image_size)
    assert isinstance(raw, RawLandmarks)
    return raw


def check_places(images: np.ndarray, points: np.ndarray) -> None:
    """Every point lies on the centre of a spot of light, and none systematically beside it."""
    side = images.shape[2]
    beside = []
    for image, points_LD in zip(np.asarray(images), points, strict=True):
        light = image[0].astype(np.float64)
        for x, y in points_LD.astype(np.float64) * side - 0.5:
            left, top = round(x) - 3, round(y) - 3
            window = light[top : top + 7, left : left + 7]
            rows, columns = np.mgrid[top : top + 7, left : left + 7]
            found = np.array([(window * columns).sum(), (window * rows).sum()]) / window.sum()
            beside.append(found - (x, y))
    assert np.abs(beside).max() < 0.3
    assert np.abs(np.mean(beside, axis=0)).max() < 0.04


@pytest.mark.parametrize("side", [96, 160])
def test_points_of_wflw_lie_on_their_light(path: Path, side: int) -> None:
    faces = [spread(98, seed=i, offset=(60 + 20 * i, 90)) for i in range(3)]
    lines = {"train": [wflw_line(face, f"p {i}.png") for i, face in enumerate(faces)]}
    lines["test"] = [lines["train"].pop()]
    images = {f"p {i}.png": photograph(face) for i, face in enumerate(faces)}
    raw = read_bytes(path, zip_bytes(wflw_members(lines, images)), image_size=side)
    assert raw.markup is WFLW_98
    assert raw.train_images.shape == (2, 3, side, side)
    assert (raw.train_points.shape, raw.train_points.dtype) == ((2, 98, 2), np.float32)
    assert raw.test_images.shape == (1, 3, side, side)
    check_places(raw.train_images, raw.train_points)
    check_places(raw.test_images, raw.test_points)


def test_points_of_300w_lie_on_their_light_counted_from_1(path: Path) -> None:
    members: dict[str, bytes] = {}
    for i, folder in enumerate(("a/trainset", "b/trainset", "a/testset")):
        points = spread(68, seed=i)
        members |= {f"{folder}/{i}.png": photograph(points), f"{folder}/{i}.pts": pts_bytes(points)}
    raw = read_bytes(path, zip_bytes(members), image_size=128)
    assert raw.markup is IBUG_68
    assert (len(raw.train_images), len(raw.test_images)) == (2, 1)
    check_places(raw.train_images, raw.train_points)
    check_places(raw.test_images, raw.test_points)


def test_the_piece_is_a_square_a_quarter_larger_than_the_box(path: Path) -> None:
    """A photograph whose levels are the columns' numbers tells from where each column of the piece is taken."""
    ramp = png_bytes(np.tile(np.arange(200, dtype=np.uint8), (200, 1)))
    points = spread(98, seed=0, spacing=6, offset=(70, 60))
    line = wflw_line(points, "ramp.png").split()
    line[196:200] = ["60", "50", "140", "130"]  # a box of 80 x 80: a piece of 100 x 100 about (100, 90)
    lines = {"train": [" ".join(line)] * 2, "test": [" ".join(line)]}
    raw = read_bytes(path, zip_bytes(wflw_members(lines, {"ramp.png": ramp})), image_size=50)
    assert raw.train_images.shape == (2, 1, 50, 50)
    # Column j covers columns 50 + 2j and 51 + 2j, half a pixel to the right since the centre of pixel 100 is 100.5.
    columns = np.asarray(raw.train_images)[0, 0].astype(float)
    assert np.abs(columns[:, 1:-1] - (50.5 + 2 * np.arange(1, 49))).max() <= 1
    np.testing.assert_allclose(raw.train_points[0], (points + 0.5 - (50, 40)) / 100, atol=0.006)


def test_beyond_the_photograph_it_is_black_and_points_stay(path: Path) -> None:
    white = png_bytes(np.full((100, 100, 3), 255, dtype=np.uint8))
    points = spread(98, seed=0, spacing=8, offset=(-30, 20))
    line = wflw_line(points, "w.png")
    raw = read_bytes(path, zip_bytes(wflw_members({"train": [line, line], "test": [line]}, {"w.png": white})))
    assert raw.skipped == []
    image, places = np.asarray(raw.train_images)[0, 0], raw.train_points[0]
    side = np.ptp(points, axis=0).max() * 1.25
    edge = places[:, 0].min() - (points[:, 0].min() + 0.5) / side  # where the photograph's left edge lies
    assert 0.2 < edge < 0.6
    column = edge * image.shape[1]
    assert (image[10:-10, : int(column) - 1] == 0).all()
    assert (image[10:-10, int(column) + 2 : -12] == 255).all()
    assert places.min() > 0


def test_a_wflw_zip_of_drawn_faces(path: Path) -> None:
    path.write_bytes(wflw_zip(12, 5, side=48))
    found = inspect_dataset(path)
    assert found.format == "wflw"
    assert found.summary["task"] == "landmarks"
    assert found.summary["num_points"] == 98
    assert found.summary["splits"] == {"train": 12, "test": 5}
    raw = read_bytes(path, path.read_bytes())
    assert raw.train_images.shape == (12, 3, 64, 64)
    assert raw.test_images.shape == (5, 3, 64, 64)
    assert raw.skipped == []
    assert "1.25 times the longer side of their box" in raw.notes[0]
    # Pupils lie in the dark of the eyes, darker than the skin between them.
    for image, points in zip(np.asarray(raw.train_images), raw.train_points, strict=True):
        left, right = (points[96] * 64).astype(int), (points[97] * 64).astype(int)
        middle = (left + right) // 2 - (0, 6)
        levels = [int(image[:, y, x].sum()) for x, y in (left, right, middle)]
        assert max(levels[:2]) < levels[2]


def test_a_300w_zip_of_drawn_faces(path: Path) -> None:
    path.write_bytes(w300_zip(12, 4, side=48))
    found = inspect_dataset(path)
    assert found.format == "300w"
    assert (found.summary["num_points"], found.summary["splits"]) == (68, {"train": 12, "test": 4})
    raw = read_bytes(path, path.read_bytes(), format="300w")
    assert (raw.train_images.shape, raw.test_images.shape) == ((12, 3, 64, 64), (4, 3, 64, 64))
    assert "the box about their points" in raw.notes[0]
    assert 0.05 < raw.train_points.min() < raw.train_points.max() < 0.95


@pytest.mark.parametrize(("box", "side"), [(20, 64), (66, 80), (300, 112)])
def test_the_usual_side_follows_the_faces(path: Path, box: int, side: int) -> None:
    """1.25 times the box, in steps of 16 between 64 and 112."""
    points = spread(68, seed=0, spacing=box / 10)
    points = (points - points.min(axis=0)) / np.ptp(points, axis=0).max() * box + 10
    pair = {"png": photograph(points), "pts": pts_bytes(points)}
    members = {f"{s}/{i}.{kind}": data for s in ("train", "test") for i in range(2) for kind, data in pair.items()}
    assert read_bytes(path, zip_bytes(members)).train_images.shape[2] == side


def test_grey_photographs_give_one_channel(path: Path) -> None:
    points = spread(68, seed=0)
    members: dict[str, bytes] = {}
    for stem in ("train/0", "train/1", "test/0"):
        members |= {f"{stem}.png": photograph(points, colour=False), f"{stem}.pts": pts_bytes(points)}
    assert read_bytes(path, zip_bytes(members)).train_images.shape == (2, 1, 112, 112)
    members["test/0.png"] = photograph(points)
    assert read_bytes(path, zip_bytes(members)).train_images.shape == (2, 3, 112, 112)


def test_points_belong_to_the_pixels_as_stored(path: Path) -> None:
    """A photograph that says it should be turned is not: its points were marked on what is stored."""
    points = spread(68, seed=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    Image.open(io.BytesIO(photograph(points))).save(turned, "PNG", exif=exif)
    members: dict[str, bytes] = {}
    for stem in ("train/0", "train/1", "test/0"):
        members |= {f"{stem}.png": turned.getvalue(), f"{stem}.pts": pts_bytes(points)}
    raw = read_bytes(path, zip_bytes(members))
    check_places(raw.train_images, raw.train_points)


def test_faces_of_one_photograph_are_held_out_together(path: Path) -> None:
    data = wflw_zip(30, 2)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {n: archive.read(n) for n in archive.namelist() if not n.endswith("_test.txt")}
    path.write_bytes(zip_bytes(members))
    assert inspect_dataset(path).summary["splits"] == {"train": 30, "test": None}
    raw = read(path)
    assert isinstance(raw, RawLandmarks)
    # Fifteen photographs of two faces: a tenth are two of them, with four faces.
    assert (len(raw.train_images), len(raw.test_images)) == (26, 4)
    assert "4 of 30 faces were held out" in raw.notes[-1]
    again = read(path)
    assert isinstance(again, RawLandmarks)
    assert np.array_equal(raw.test_images, again.test_images)


@pytest.mark.parametrize("lists", [{"train": "300w/train.txt", "test": "300w/test.txt"}, {"train": "x/Train.txt"}])
def test_300w_by_lists(path: Path, lists: dict[str, str]) -> None:
    points, image = alike(68)
    members: dict[str, bytes] = {}
    for i in range(20):
        stem = f"300w/data/{i % 2}/{i:02}.jpg"
        members |= {f"{stem}.png": image, f"{stem}.pts": pts_bytes(points)}
    members[lists["train"]] = "".join(f"./data/{i % 2}/{i:02}.jpg.png\r\n" for i in range(10)).encode()
    if "test" in lists:
        members[lists["test"]] = b"\xef\xbb\xbfdata/0/10.jpg.png\n\ndata\\1\\11.jpg.png"
    path.write_bytes(zip_bytes(members))
    summary = inspect_dataset(path).summary
    assert summary["splits"] == {"train": 10, "test": 2 if "test" in lists else None}
    assert summary["unused"] == (8 if "test" in lists else 10)
    raw = read_bytes(path, path.read_bytes())
    assert (len(raw.train_images), len(raw.test_images)) == ((10, 2) if "test" in lists else (9, 1))


def test_other_counts_of_points_have_no_pairs(path: Path) -> None:
    raw = read_bytes(path, zip_bytes(many_300w(2, num_points=19, suffix=".PTS")))
    assert raw.markup == Markup(num_points=19)
    assert "cannot be flipped" in raw.notes[-1]


def test_files_of_no_pair_are_listed(path: Path) -> None:
    members = many_300w(3) | {
        "train/alone.png": alike(68)[1],
        "train/alone2.pts": pts_bytes(alike(68)[0]),
        "train/000.jpg.bmp": b"",
        "elsewhere/0.png": alike(68)[1],
        "elsewhere/0.pts": pts_bytes(alike(68)[0]),
        "train/.DS_Store": b"x",
        "README": b"x",
    }
    path.write_bytes(zip_bytes(members))
    summary = inspect_dataset(path).summary
    assert (summary["skipped"], summary["ignored"], summary["unused"]) == (4, 1, 1)
    reasons = {entry["path"]: entry["reason"] for entry in read_bytes(path, path.read_bytes()).skipped}
    assert reasons == {
        "train/000.jpg.bmp": "no .pts file beside it",
        "train/alone.png": "no .pts file beside it",
        "train/alone2.pts": "no image beside it",
        "elsewhere/0.png": "neither in train nor in test",
    }


def test_a_second_image_of_a_name_is_listed(path: Path) -> None:
    raw = read_bytes(path, zip_bytes(many_300w(3) | {"train/000.bmp": alike(68)[1]}))
    assert len(raw.train_images) == 3
    assert raw.skipped == [{"path": "train/000.png", "reason": "another image of its name comes before it"}]
