from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from distill.data.inspect import inspect_dataset
from distill.data.readers import read
from distill.errors import InputError

RANDOM = np.random.default_rng(0)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind, **options)
    return data.getvalue()


def grey(height: int = 6, width: int = 6) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width), dtype=np.uint8)


def colour(height: int = 6, width: int = 6) -> np.ndarray:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def write(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def many(count: int = 40) -> dict[str, bytes]:
    """``count`` sound images in two classes, numbered through."""
    return {f"{'cat' if i % 2 else 'dog'}/{i:03}.png": encoded(grey()) for i in range(count)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "images.zip"


def refused(path: Path, *, code: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("wrapper", ["", "my data/"])
@pytest.mark.parametrize("other", ["val", "valid", "test", "validation"])
def test_splits_classes_and_pixels(path: Path, wrapper: str, other: str) -> None:
    pixels = {
        f"{wrapper}{name}": colour(5, 8)
        for name in ("train/b/1.png", "train/a/2.png", "train/a/deep/er/1.png", f"{other}/a/x.png", f"{other}/b/x.png")
    }
    write(path, {name: encoded(value) for name, value in pixels.items()})
    found = inspect_dataset(path)
    assert found.format == "imagefolder"
    assert found.summary["classes"] == ["a", "b"]
    assert found.summary["per_class"] == {"train": {"a": 2, "b": 1}, "test": {"a": 1, "b": 1}}
    raw = read(path)
    assert raw.classes == ["a", "b"]
    assert raw.train_labels.tolist() == [0, 0, 1]
    order = ["train/a/2.png", "train/a/deep/er/1.png", "train/b/1.png"]
    expected = np.stack([pixels[wrapper + name].transpose(2, 0, 1) for name in order])
    assert np.array_equal(raw.train_images, expected)
    assert raw.test_labels.tolist() == [0, 1]
    assert raw.notes == []


def test_classes_alone_are_split(path: Path) -> None:
    raw = read(write(path, many()))
    assert (len(raw.train_labels), len(raw.test_labels)) == (36, 4)
    assert raw.classes == ["cat", "dog"]
    assert "held out" in raw.notes[0]


def test_classes_sort_by_code_point_and_may_be_called_train(path: Path) -> None:
    names = ["bus", "train", "10", "9", "Car"]
    write(path, {f"{name}/{i}.png": encoded(grey()) for name in names for i in range(2)})
    assert read(path).classes == ["10", "9", "Car", "bus", "train"]


def test_backslashes_divide_folders(path: Path) -> None:
    write(path, {name.replace("/", "\\"): data for name, data in many().items()})
    assert read(path).classes == ["cat", "dog"]


def test_junk_is_ignored_and_counted_other_files_are_listed(path: Path) -> None:
    junk = [".DS_Store", "cat/.DS_Store", "__MACOSX/cat/._1.png", "cat/Thumbs.db", ".ipynb_checkpoints/1.png"]
    write(path, many() | dict.fromkeys(junk, b"x") | {"cat/notes.txt": b"x", "loose.png": encoded(grey())})
    raw = read(path)
    assert raw.ignored == {".DS_Store": 2, ".ipynb_checkpoints": 1, "Thumbs.db": 1, "__MACOSX": 1}
    assert raw.classes == ["cat", "dog"]
    assert {entry["path"] for entry in raw.skipped} == {"cat/notes.txt", "loose.png"}
    assert (inspect_dataset(path).summary["ignored"], inspect_dataset(path).summary["skipped"]) == (5, 2)


def test_a_validation_split_beside_test_is_mentioned(path: Path) -> None:
    write(path, {f"{split}/{c}/1.png": encoded(grey()) for split in ("train", "val", "test") for c in "ab"})
    raw = read(path)
    assert len(raw.test_labels) == 2
    assert "2 images of a validation split" in raw.notes[0]


def broken_files() -> dict[str, bytes]:
    photo = encoded(colour(64, 64), "JPEG")
    return {
        "cat/cut.jpg": photo[: len(photo) // 2],
        "cat/page.png": b"<html>not found</html>",
        "dog/empty.jpg": b"",
        "dog/anim.png": encoded(grey(), "GIF"),
    }


def test_broken_images_are_left_out_and_listed(path: Path) -> None:
    write(path, many(100) | broken_files())
    raw = read(path)
    assert len(raw.train_labels) + len(raw.test_labels) == 100
    reasons = {entry["path"]: entry["reason"] for entry in raw.skipped}
    assert set(reasons) == set(broken_files())
    assert "truncated" in reasons["cat/cut.jpg"]
    assert reasons["cat/page.png"] == reasons["dog/anim.png"] == "not a JPEG, PNG, WebP or BMP image"


def test_too_many_broken_images(path: Path) -> None:
    write(path, many(70) | broken_files())
    error = refused(path, code="dataset_unreadable")
    assert "4 of 74 images" in error.message
    assert {entry["path"] for entry in error.details["skipped"]} == set(broken_files())


def test_an_image_damaged_within_the_zip_is_left_out(path: Path) -> None:
    write(path, many())
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 8] ^= 1
    path.write_bytes(data)
    raw = read(path)
    assert [entry["path"] for entry in raw.skipped] == ["dog/000.png"]
    assert len(raw.train_labels) + len(raw.test_labels) == 39


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(side: int) -> bytes:
    """A PNG of side x side grey zeros in a few hundred kB."""
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [7100, 13_000, 20_000])
def test_too_many_pixels_are_never_decoded(path: Path, side: int) -> None:
    write(path, many() | {"cat/huge.png": huge_png(13_000) if side == 13_000 else header_only(side)})
    raw = read(path)
    assert [entry["path"] for entry in raw.skipped] == ["cat/huge.png"]
    assert "pixels" in raw.skipped[0]["reason"]
    assert raw.train_images.shape[1:] == (1, 6, 6)


def header_only(side: int) -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"x") + chunk(b"IEND", b"")


def test_one_colour_image_makes_all_colour(path: Path) -> None:
    pixels = colour()
    write(path, many() | {"cat/zzz.png": encoded(pixels)})
    raw = read(path)
    everything = np.concatenate([raw.train_images, raw.test_images])
    assert everything.shape == (41, 3, 6, 6)
    assert (everything == pixels.transpose(2, 0, 1)).all(axis=(1, 2, 3)).sum() == 1


def test_modes(path: Path) -> None:
    """16-bit grey is scaled, not clipped; alpha is dropped; one bit becomes 0 and 255; palettes are colours."""
    deep = (np.arange(36, dtype=np.uint16) * 1800).reshape(6, 6)
    bits, shades, opaque = np.eye(6, dtype=bool), grey(), grey()
    write(
        path,
        {
            "a/1.png": encoded(deep),
            "a/2.png": encoded(bits),
            "b/1.png": encoded(np.dstack([shades, opaque])),
            "b/2.png": encoded(shades),
        },
    )
    raw = read(path)
    found = np.concatenate([raw.train_images, raw.test_images])[:, 0]
    for expected in (deep // 256, bits * 255, shades):
        assert (found == expected).all(axis=(1, 2)).any()


def test_photos_are_turned_upright(path: Path) -> None:
    photo = np.zeros((16, 32, 3), dtype=np.uint8)
    photo[:, :16] = 255  # as stored, the left half is white; turned a quarter to the right, the upper half is
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.rot90(photo, k=-1)
    write(
        path,
        {f"{c}/{i}.jpg": encoded(photo, "JPEG", exif=exif, quality=95) for c in "ab" for i in range(2)}
        | {"a/3.png": encoded(np.ascontiguousarray(upright))},
    )
    raw = read(path)
    assert raw.train_images.shape[1:] == (3, 32, 16)
    for image in np.concatenate([raw.train_images, raw.test_images]):
        assert np.abs(image.astype(int) - upright.transpose(2, 0, 1)).max() < 8


def test_mixed_sizes_are_scaled_by_the_shorter_side_and_cut(path: Path) -> None:
    """A smooth ramp, so that the scaled square can be told from the formula of the ramp."""
    wide = np.tile(np.arange(0, 240, 2, dtype=np.uint8), (40, 1))  # 40 x 120
    members = {f"{c}/{i}.png": encoded(wide) for c in "ab" for i in range(2)}
    members["a/small.png"] = encoded(grey(20, 20))
    raw = read(write(path, members), image_size=20)
    everything = np.concatenate([raw.train_images, raw.test_images])
    assert everything.shape == (5, 1, 20, 20)
    # Column j of the square covers source columns 40 + 2j and 40 + 2j + 1, of values 2 * column.
    expected = 2 * (40 + 2 * np.arange(20) + 0.5)
    near = np.abs(everything[:, 0].astype(float) - expected).max(axis=(1, 2)) < 3
    assert near.sum() == 4
    assert "20x20" in raw.notes[0]


def test_sizes_and_modes_of_the_files_are_told_without_those_that_cannot_be_read(path: Path) -> None:
    members = {f"cat/{i:02}.png": encoded(grey(10 + i, 30)) for i in range(41)}
    members |= {f"dog/{i}.jpg": encoded(colour(50, 20), "JPEG") for i in range(2)}
    cut = encoded(colour(300, 300))
    raw = read(write(path, members | {"dog/cut.png": cut[: len(cut) // 2], "dog/text.png": b"x"}))
    assert len(raw.skipped) == 2
    assert raw.originals == {
        "width": {"min": 20, "median": 30, "max": 30},
        "height": {"min": 10, "median": 31, "max": 50},
        "modes": {"L": 41, "RGB": 2},
    }


def test_the_usual_size_is_the_median_shorter_side(path: Path) -> None:
    sizes = [(10, 30), (12, 12), (50, 14), (16, 40), (18, 18)]
    write(path, {f"{'ab'[i % 2]}/{i}.png": encoded(grey(*size)) for i, size in enumerate(sizes)})
    assert read(path).train_images.shape[1:] == (1, 14, 14)


def test_large_images_of_one_size_are_scaled(path: Path) -> None:
    write(path, {f"{'ab'[i % 2]}/{i}.jpg": encoded(colour(300, 260), "JPEG") for i in range(4)})
    assert read(path).train_images.shape[1:] == (3, 224, 224)
    assert read(path, image_size=32).train_images.shape[1:] == (3, 32, 32)


def test_a_long_strip_does_not_grow(path: Path) -> None:
    write(path, many() | {"cat/strip.png": encoded(grey(1, 60_000))})
    raw = read(path, image_size=200)
    assert raw.train_images.shape[1:] == (1, 200, 200)
    assert raw.skipped == []


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        (["train/cat/1.png", "test/cat/2.png"], "dataset_empty", "cat"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.png"], "dataset_class_mismatch", "only in train b"),
        (
            ["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png", "val/c/1.png"],
            "dataset_class_mismatch",
            "c",
        ),
        (["train/a/1.png", "train/b/1.png", "more/a/1.png"], "dataset_unreadable", "more"),
        (["test/a/1.png", "test/b/1.png"], "dataset_empty", "leave none to test with"),
    ],
)
def test_folders_that_do_not_fit(path: Path, names: list[str], code: str, said: str) -> None:
    write(path, {name: encoded(grey()) for name in names})
    assert said in refused(path, code=code).message


def test_names_from_the_upload_are_shown_harmlessly(path: Path) -> None:
    write(path, many() | {"cat/\x1b[31mred\n" + "x" * 300 + ".png": b"x"})
    reported = read(path).skipped[0]["path"]
    assert reported.isprintable()
    assert len(reported) <= 120
