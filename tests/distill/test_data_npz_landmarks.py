from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.data.inspect import inspect_dataset
from distill.data.raw_landmarks import RawLandmarks
from distill.data.readers import read
from distill.errors import InputError
from distill.markup import Markup
from tests.fixtures.faces import FLIP_PAIRS, NORMALISER, faces_npz

RANDOM = np.random.default_rng(0)


def images(count: int, *shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (count, *shape), dtype=np.uint8)


def landmarks(count: int, num_points: int = 4) -> np.ndarray:
    return RANDOM.uniform(0, (8, 6), (count, num_points, 2))


def arrays(**changes: Any) -> dict[str, Any]:
    """A sound data set of 6 x 8 pixels and four points, with some arrays replaced (None: left out)."""
    sound = {
        "x_train": images(40, 6, 8),
        "landmarks_train": landmarks(40),
        "x_test": images(5, 6, 8),
        "landmarks_test": landmarks(5),
    }
    return {key: value for key, value in (sound | changes).items() if value is not None}


def read_arrays(path: Path, data: dict[str, Any]) -> RawLandmarks:
    np.savez_compressed(path, **data)
    raw = read(path)
    assert isinstance(raw, RawLandmarks)
    return raw


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data.npz"


def refused(path: Path, *, code: str = "dataset_unreadable", **changes: Any) -> InputError:
    np.savez_compressed(path, **arrays(**changes))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == code
    return caught.value


def test_pixels_become_shares_of_width_and_height(path: Path) -> None:
    """The centre of the first of eight columns is a sixteenth of the width from the left edge."""
    points = landmarks(40)
    points[0, 0], points[0, 1], points[0, 2] = (0, 0), (7, 5), (-0.5, 5.5)
    data = arrays(landmarks_train=points)
    raw = read_arrays(path, data)
    assert np.array_equal(raw.train_images, data["x_train"][:, None])
    assert raw.train_points.dtype == np.float32
    np.testing.assert_allclose(raw.train_points[0, :3], [(1 / 16, 1 / 12), (15 / 16, 11 / 12), (0, 1)], atol=1e-6)
    np.testing.assert_allclose(raw.train_points, (points + 0.5) / (8, 6), rtol=1e-6)
    np.testing.assert_allclose(raw.test_points, (data["landmarks_test"] + 0.5) / (8, 6), rtol=1e-6)
    assert raw.markup == Markup(num_points=4)
    assert raw.skipped == []


def test_pairs_and_normaliser_are_read(path: Path) -> None:
    raw = read_arrays(path, arrays(flip_pairs=np.array([[0, 3]]), normaliser=np.array([1, 2], dtype=np.uint8)))
    assert raw.markup == Markup(num_points=4, flip_pairs=((0, 3),), normaliser=(1, 2))
    assert raw.notes == []
    empty = read_arrays(path, arrays(flip_pairs=np.zeros((0, 2), dtype=np.int64)))
    assert empty.markup.flip_pairs == ()


def test_68_points_of_an_npz_are_nobodys_markup(path: Path) -> None:
    raw = read_arrays(path, arrays(landmarks_train=landmarks(40, 68), landmarks_test=landmarks(5, 68)))
    assert raw.markup == Markup(num_points=68)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float16, ">f8"])
def test_numbers_of_all_kinds(path: Path, dtype: Any) -> None:
    points = np.rint(landmarks(40)).astype(dtype)
    raw = read_arrays(path, arrays(landmarks_train=points))
    kept = 40 - len(raw.skipped)
    assert len(raw.train_points) == kept > 35


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2)])
def test_colours_first_or_last(path: Path, order: tuple[int, ...]) -> None:
    train, test = images(40, 6, 8, 3), images(5, 6, 8, 3)
    raw = read_arrays(path, arrays(x_train=train.transpose(order), x_test=test.transpose(order)))
    assert np.array_equal(raw.train_images, train.transpose(0, 3, 1, 2))


def test_the_inspection_reads_headers(path: Path) -> None:
    np.savez(path, **arrays(y_train=np.zeros(40)))
    found = inspect_dataset(path)
    assert found.format == "npz"
    assert found.summary == {
        "task": "landmarks",
        "num_points": 4,
        "splits": {"train": 40, "test": 5},
        "image": {"channels": 1, "height": 6, "width": 8},
        "classes": None,
        "per_class": None,
        "skipped": 0,
        "ignored": 0,
        "unused": 1,
    }
    raw = read(path)
    assert raw.notes[0] == "Nothing was made of the arrays y_train."


def test_a_tenth_is_held_out(path: Path) -> None:
    data = arrays(x_test=None, landmarks_test=None)
    raw = read_arrays(path, data)
    assert (len(raw.train_images), len(raw.test_images)) == (36, 4)
    kept = np.concatenate([raw.train_points, raw.test_points])[:, 0, 0]
    expected = (data["landmarks_train"][:, 0, 0] + 0.5) / 8
    np.testing.assert_allclose(np.sort(kept), np.sort(expected), rtol=1e-6)
    assert "4 of 40 faces" in raw.notes[0]


def test_a_validation_split_tests_where_there_is_no_other(path: Path) -> None:
    data = arrays(x_test=None, landmarks_test=None, x_val=images(3, 6, 8), landmarks_val=landmarks(3))
    assert len(read_arrays(path, data).test_images) == 3


def test_the_drawn_faces(path: Path) -> None:
    path.write_bytes(faces_npz(30, 10))
    raw = read(path)
    assert isinstance(raw, RawLandmarks)
    assert (raw.train_images.shape, raw.test_images.shape) == ((30, 3, 32, 32), (10, 3, 32, 32))
    assert raw.markup == Markup(num_points=8, flip_pairs=FLIP_PAIRS, normaliser=NORMALISER)


@pytest.mark.parametrize(
    ("face", "reason"),
    [
        ([[1, 1], [np.nan, 2], [3, 3], [4, 5]], "not a finite number"),
        ([[1, 1], [2, -np.inf], [3, 3], [4, 5]], "not a finite number"),
        ([[1, 1], [2, 2], [1e300, 3], [4, 5]], "point 2 lies"),
        ([[1, 1], [2, 2], [3, 3], [4, 11.6]], "point 3 lies"),
        ([[1, 1], [-8.6, 2], [3, 3], [4, 5]], "point 1 lies"),
        ([[1, 1], [2, 1], [3, 1], [4, 1]], "one line"),
        ([[1, 1], [1, 1], [1, 1], [1, 1]], "one line"),
    ],
)
def test_unsound_faces_are_left_out_and_listed(path: Path, face: list[list[float]], reason: str) -> None:
    points = landmarks(40)
    points[17] = face
    raw = read_arrays(path, arrays(landmarks_train=points))
    assert len(raw.train_images) == len(raw.train_points) == 39
    assert raw.skipped[0]["path"] == "x_train[17]"
    assert reason in raw.skipped[0]["reason"]


def test_points_up_to_one_side_outside_are_kept(path: Path) -> None:
    points = landmarks(40)
    points[0, 1:3] = (-8.4, -6.4), (15.4, 11.4)
    raw = read_arrays(path, arrays(landmarks_train=points))
    assert raw.skipped == []
    assert raw.train_points.min() < -0.95
    assert raw.train_points.max() > 1.95


def test_a_face_whose_normaliser_is_zero_is_left_out(path: Path) -> None:
    points = landmarks(40)
    points[3, 2] = points[3, 1]
    raw = read_arrays(path, arrays(landmarks_train=points, normaliser=np.array([1, 2])))
    assert [entry["path"] for entry in raw.skipped] == ["x_train[3]"]
    assert "in one place" in raw.skipped[0]["reason"]


def test_too_many_unsound_faces(path: Path) -> None:
    points = landmarks(40)
    points[:3, 0, 0] = np.nan
    error = refused(path, landmarks_train=points)
    assert "3 of 45 faces" in error.message
    refused(path, landmarks_test=np.full((5, 4, 2), np.nan))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"landmarks_train": landmarks(39)}, "39 faces in landmarks_train for 40 images"),
        ({"landmarks_test": landmarks(5, 5)}, "nothing but their length"),
        ({"x_test": images(5, 6, 9)}, "nothing but their length"),
        ({"landmarks_train": landmarks(40)[..., 0]}, "(N, L, 2)"),
        ({"landmarks_train": landmarks(40).reshape(40, 8)}, "(N, L, 2)"),
        ({"landmarks_train": landmarks(40, 1), "landmarks_test": landmarks(5, 1)}, "L from 2"),
        ({"landmarks_train": landmarks(40, 1001)}, "L from 2"),
        ({"landmarks_train": landmarks(40) > 3}, "numbers"),
        ({"landmarks_train": landmarks(40).astype("U8")}, "numbers"),
        ({"landmarks_train": None}, "must come once each"),
        ({"x_train": None, "landmarks_train": None}, "no x_train"),
        ({"train_landmarks": landmarks(40)}, "must come once each"),
        ({"flip_pairs": np.array([0, 3])}, "(P, 2)"),
        ({"flip_pairs": np.array([[0.0, 3.0]])}, "(P, 2)"),
        ({"flip_pairs": np.array([[0, 4]])}, "there are 0 to 3"),
        ({"flip_pairs": np.array([[0, 1], [1, 2]])}, "two pairs"),
        ({"normaliser": np.array([1])}, "two integers"),
        ({"normaliser": np.array([1, -1])}, "points"),
        ({"normaliser": np.array([2, 2])}, "two pairs"),
    ],
)
def test_arrays_that_do_not_fit(path: Path, changes: dict[str, Any], said: str) -> None:
    assert said in refused(path, **changes).message


def test_a_file_that_is_cut_short_and_pickles_are_refused(path: Path) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays())
    path.write_bytes(file.getvalue()[:-400])
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == "upload_corrupt"
    np.savez(path, **arrays(landmarks_train=np.array([None, {}], dtype=object)))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == "unsafe_file"


def test_one_image_leaves_none_to_test_with(path: Path) -> None:
    refused(
        path,
        code="dataset_empty",
        x_train=images(1, 6, 8),
        landmarks_train=landmarks(1),
        x_test=None,
        landmarks_test=None,
    )
