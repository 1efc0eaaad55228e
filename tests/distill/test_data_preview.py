from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill.data.images import Images
from distill.data.overview import pack_and_describe
from distill.data.packed_rows import PackedRows
from distill.data.preview import draw_preview, legible
from distill.data.raw import RawDataset
from distill.data.raw_landmarks import RawLandmarks
from distill.markup import Markup

Pixels = NDArray[np.uint8]
PALETTE = np.array([(200, 30, 30), (30, 160, 30), (30, 30, 200)], dtype=np.uint8)


def flat(labels: Sequence[int], *, shape: tuple[int, int, int]) -> Pixels:
    """Images of one colour each, that of the class; -1 is dark."""
    colours = np.vstack([PALETTE, [[20, 20, 20]]]).astype(np.uint8)[np.asarray(labels), : shape[0]]
    return np.broadcast_to(colours[:, :, None, None], (len(labels), *shape)).copy()


def drawn(folder: Path, raw: RawDataset | RawLandmarks) -> tuple[dict[str, Any], NDArray[np.int16]]:
    """The facts, and the sheet as (H, W, 3)."""
    pack_and_describe(raw, folder / "packed.safetensors")
    with PackedRows(folder / "packed.safetensors") as file:
        facts = draw_preview(file, folder / "sheet.webp")
    with Image.open(folder / "sheet.webp", formats=["WEBP"]) as sheet:
        assert sheet.size == (facts["width"], facts["height"])
        return facts, np.asarray(sheet.convert("RGB")).astype(np.int16)


def rows_of(sheet: NDArray[np.int16], colour: Sequence[int]) -> NDArray[np.int64]:
    """In which rows of pixels a colour is, about."""
    return np.flatnonzero((np.abs(sheet - np.array(colour)).max(axis=2) < 30).sum(axis=1) > 40)


def classified(
    train: Sequence[int],
    test: Sequence[int],
    *,
    classes: list[str],
    shape: tuple[int, int, int] = (3, 20, 20),
    images: Pixels | None = None,
) -> RawDataset:
    return RawDataset(
        train_images=Images.of(flat(train, shape=shape) if images is None else images),
        train_labels=np.array(train, dtype=np.int64),
        test_images=Images.of(flat(test, shape=shape)),
        test_labels=np.array(test, dtype=np.int64),
        classes=classes,
    )


def test_each_class_has_its_row_in_order_and_unlabelled_images_none(tmp_path: Path) -> None:
    train = [2, 0, 1, -1, 0, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    facts, sheet = drawn(tmp_path, classified(train, [1, 0, 2], classes=["red", "green", "blue"]))
    assert (facts["classes"], facts["content_type"]) == (3, "image/webp")
    places = [rows_of(sheet, colour) for colour in PALETTE.tolist()]
    assert all(len(place) >= 56 for place in places)
    assert places[0].max() < places[1].min() <= places[1].max() < places[2].min()
    assert not len(rows_of(sheet, (20, 20, 20)))
    # Two of red in train and one in test, eight of blue and one.
    reds, blues = (
        (np.abs(sheet[p[28]] - c).max(axis=1) < 30).sum() for p, c in zip(places[::2], PALETTE[::2], strict=True)
    )
    assert (round(reds / 60), round(blues / 60)) == (3, 9)


def test_names_are_pixels_and_what_the_font_lacks_stands_as_marks_behind_the_number(tmp_path: Path) -> None:
    assert legible("Käfer") == "Kafer"
    assert legible("<b>猫\u202e") == "<b>??"
    ink = []
    for number, name in enumerate(("dog", "Käfer", "猫", "x" * 200)):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, sheet = drawn(folder, classified([0, 1, 0, 1], [0, 1], classes=[name, "z"]))
        column = sheet[32:88, :175]
        ink.append(int((column.sum(axis=2) < 300).sum()))
        assert (sheet[32:88, 175:181].min()) > 200  # it stays in its column
    assert min(ink) > 20
    assert len(set(ink)) == len(ink)


def test_a_thousand_classes_stay_within_bounds_and_the_rest_is_told(tmp_path: Path) -> None:
    classes = [f"class {number}" for number in range(1000)]
    images = np.random.default_rng(0).integers(0, 256, (1000, 3, 32, 32), dtype=np.uint8)
    raw = classified(list(range(1000)), [0, 1], classes=classes, images=images, shape=(3, 32, 32))
    facts, sheet = drawn(tmp_path, raw)
    assert facts["classes"] < 1000
    assert sheet.shape[0] * sheet.shape[1] < 4_200_000
    assert facts["bytes"] < 2**21
    assert (sheet[-32:-12, :160].sum(axis=2) < 500).any()


@pytest.mark.parametrize("shape", [(1, 300, 200), (3, 2, 200), (1, 200, 1), (2, 8, 8), (1, 1, 1)])
def test_any_shape_makes_a_sheet(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    facts, sheet = drawn(tmp_path, classified([0, 1, 0, 1], [0, 1], classes=["a", "b"], shape=shape))
    assert facts["classes"] == 2
    assert sheet.shape[0] * sheet.shape[1] < 4_200_000


def test_without_labels_there_is_a_plain_grid(tmp_path: Path) -> None:
    facts, sheet = drawn(tmp_path, classified([-1] * 9, [-1] * 2, classes=[]))
    assert facts["classes"] == 0
    dark = np.abs(sheet - 20).max(axis=2) < 15
    assert dark.sum() == pytest.approx(11 * 60 * 60, rel=0.03)


def test_points_are_drawn_where_they_are(tmp_path: Path) -> None:
    points = np.tile(np.array([[0.25, 0.5], [0.75, 0.9]], dtype=np.float32), (4, 1, 1))
    raw = RawLandmarks(
        train_images=Images.of(np.zeros((4, 1, 40, 80), dtype=np.uint8)),
        train_points=points,
        test_images=Images.of(np.zeros((2, 1, 40, 80), dtype=np.uint8)),
        test_points=points[:2],
        markup=Markup(num_points=2, flip_pairs=None, normaliser="box"),
    )
    facts, sheet = drawn(tmp_path, raw)
    assert facts["classes"] == 0
    left, top = 12, 32
    for x, y in ((20, 20), (60, 36)):
        assert sheet[top + y, left + x, 0] > 150
        assert sheet[top + y, left + x, 2] < 120
    assert sheet[top + 5, left + 40].max() < 60


def test_equal_data_give_equal_sheets(tmp_path: Path) -> None:
    raw = classified([0, 1, 0, 1], [0, 1], classes=["a", "b"])
    digests = set()
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        digests.add(drawn(tmp_path / str(number), raw)[0]["sha256"])
    assert len(digests) == 1
