"""Images in files: chosen, joined and read in pieces as arrays in memory would be, and packed to the same bytes."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from distill.data import images as images_module
from distill.data.images import ImageFile, Images
from distill.data.packed import pack
from distill.data.readers import read

RANDOM = np.random.default_rng(7)
PIXELS = RANDOM.integers(0, 256, (23, 3, 4, 5), dtype=np.uint8)


def in_file(folder: Path, pixels: np.ndarray) -> Images:
    with ImageFile(folder, pixels.shape[1:]) as file:
        for row, image in enumerate(pixels[:5]):
            assert file.append(image) == row
        file.extend(pixels[5:])
        return Images.of(file.array())


@pytest.mark.parametrize("piece_bytes", [1, 200, 2**20])
def test_choosing_and_joining_are_those_of_arrays(
    piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "PIECE_BYTES", piece_bytes)
    first, second = in_file(tmp_path, PIXELS[:15]), in_file(tmp_path, PIXELS[15:])
    odd, third = np.arange(23) % 2 == 1, np.arange(11) % 3 == 0

    joined = first.followed_by(second)
    chosen = joined.chosen(odd).chosen(third)

    assert np.array_equal(joined, PIXELS)
    assert np.array_equal(chosen, PIXELS[odd][third])
    assert np.array_equal(chosen.first_channel(), PIXELS[odd][third][:, :1])
    assert (len(chosen), chosen.shape) == (4, (4, 3, 4, 5))
    pieces = list(joined.pieces())
    assert all(piece.flags.c_contiguous and piece.nbytes <= max(piece_bytes, 60) for piece in pieces)
    assert list(tmp_path.iterdir()) == []


def test_there_may_be_none(tmp_path: Path) -> None:
    with ImageFile(tmp_path, (1, 2, 2)) as file:
        none = Images.of(file.array())
    assert (len(none), none.shape, np.asarray(none).shape) == (0, (0, 1, 2, 2), (0, 1, 2, 2))
    assert len(none.followed_by(Images.of(PIXELS)).chosen(np.ones(23, dtype=bool))) == 23


def test_rows_may_come_in_any_order() -> None:
    rows = RANDOM.permutation(23)
    assert np.array_equal(Images([(PIXELS, rows)]), PIXELS[rows])


def in_memory(train: np.ndarray, labels: np.ndarray, extra: np.ndarray, *, seed: int) -> dict[str, np.ndarray]:
    """What is to be packed, by whole arrays: a tenth of each class held out, and images without labels behind."""
    random, taken = np.random.default_rng(seed), np.zeros(len(train), dtype=bool)
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        taken[random.permutation(members)[: max(1, round(len(members) / 10))]] = True
    return {
        "train_labels": np.concatenate([labels[~taken], np.full(len(extra), -1)]),
        "test_labels": labels[taken],
        "train_images": np.concatenate([train[~taken], extra]),
        "test_images": train[taken],
    }


def file_bytes(arrays: dict[str, np.ndarray], *, classes: list[str]) -> bytes:
    """The packed form, written at once."""
    values = arrays["train_images"] / 255
    counts = [np.bincount(channel.ravel(), minlength=256) for channel in arrays["train_images"].swapaxes(0, 1)]
    levels = np.arange(256) / 255
    share = np.stack(counts) / np.stack(counts).sum(axis=1, keepdims=True)
    mean = share @ levels
    std = np.sqrt((share * (levels - mean[:, None]) ** 2).sum(axis=1))
    np.testing.assert_allclose(mean, values.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(axis=(0, 2, 3)), rtol=1e-12)
    texts = {
        "format_version": "1",
        "classes": json.dumps(classes),
        "mean": json.dumps(mean.tolist()),
        "std": json.dumps(std.tolist()),
    }
    header, end = {"__metadata__": texts}, 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        dtype = "U8" if array.dtype == np.uint8 else "I64"
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [begin, end]}  # type: ignore[dict-item]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(array.tobytes() for array in arrays.values())


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize("kind", ["imagefolder", "npz", "floats", "columns first", "channels first"])
@pytest.mark.parametrize("piece_bytes", [1000, 2**23])
def test_packed_bytes_are_those_of_arrays_in_memory(
    kind: str, piece_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images_module, "PIECE_BYTES", piece_bytes)
    random = np.random.default_rng(3)
    train, extra = (random.integers(0, 256, (count, 8, 7, 3), dtype=np.uint8) for count in (60, 9))
    labels, path = np.repeat(np.arange(3), 20), tmp_path / "upload"
    arrays = {"x_train": train, "y_train": labels, "x_train_unlabeled": extra}
    if kind == "imagefolder":
        names = [f"train/{label}/{number:02}.png" for number, label in enumerate(labels)]
        names += [f"train_unlabeled/{number}.png" for number in range(9)]
        with zipfile.ZipFile(path, "w") as file:
            for name, image in zip(names, np.concatenate([train, extra]), strict=True):
                file.writestr(name, png(image))
    else:
        change = {
            "npz": lambda array: array,
            "floats": lambda array: (array / 255).astype(">f8"),
            "columns first": np.asfortranarray,
            "channels first": lambda array: array.transpose(0, 3, 1, 2),
        }[kind]
        images = {name: change(array) for name, array in arrays.items() if name != "y_train"}
        with path.open("wb") as file:
            np.savez_compressed(file, **images, y_train=labels)

    report = pack(read(path, seed=5), tmp_path / "packed")

    whole = [array.transpose(0, 3, 1, 2) for array in (train, extra)]
    expected = in_memory(whole[0], labels, whole[1], seed=5)
    for name, array in load_file(tmp_path / "packed").items():
        assert np.array_equal(array, expected[name]), name
    assert (tmp_path / "packed").read_bytes() == file_bytes(expected, classes=["0", "1", "2"])
    assert report["bytes"] == (tmp_path / "packed").stat().st_size
    assert {file.name for file in tmp_path.iterdir()} == {"upload", "packed"}
