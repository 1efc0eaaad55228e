"""Public data sets by name, from folders as their archives, packages and torchvision leave them."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distill.data import archive, file_tree, known, presets
from distill.data.packed import pack
from distill.data.presets import PRESETS, by_name, digest, is_in_place, open_preset
from distill.data.readers import read_preset
from distill.errors import InputError

RANDOM = np.random.default_rng(0)


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def mnist_like(prefix: str = "", test: str = "t10k", *, first: int = 0) -> dict[str, bytes]:
    images = RANDOM.integers(0, 256, (20, 6, 6), dtype=np.uint8)
    labels = (np.arange(20) % 10 + first).astype(np.uint8)
    return {
        f"{prefix}train-images-idx3-ubyte": idx(images),
        f"{prefix}train-labels-idx1-ubyte": idx(labels),
        f"{prefix}{test}-images-idx3-ubyte": idx(images[:10]),
        f"{prefix}{test}-labels-idx1-ubyte": idx(labels[:10]),
    }


def cifar(num_labels: int, *, count: int = 10) -> bytes:
    """Records whose last label byte is the number of the image."""
    pictures = RANDOM.integers(0, 256, (count, 3072), dtype=np.uint8)
    return b"".join(bytes([0] * (num_labels - 1) + [i]) + picture.tobytes() for i, picture in enumerate(pictures))


def photo(side: int = 8) -> bytes:
    data = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(data, "JPEG")
    return data.getvalue()


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def refused(root: Path, name: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read_preset(root, name=name)
    return caught.value


IMAGENET = {f"train/n0{c}/n0{c}_{i}.JPEG": photo() for c in "12" for i in range(3)} | {
    f"val/n0{c}/ILSVRC2012_val_{i}.JPEG": photo() for c in "12" for i in range(2)
}
FILES = {
    "fashion-mnist": mnist_like(),
    "mnist": mnist_like(),
    "emnist-letters": mnist_like("emnist-letters-", "test", first=1),
    "emnist-balanced": mnist_like("emnist-balanced-", "test"),
    "cifar-10": {f"data_batch_{n}.bin": cifar(1) for n in range(1, 6)}
    | {"test_batch.bin": cifar(1), "batches.meta.txt": "\n".join("abcdefghij").encode()},
    "cifar-100": {
        "train.bin": cifar(2),
        "test.bin": cifar(2),
        "fine_label_names.txt": "\n".join("abcdefghij").encode(),
    },
    "imagenet": IMAGENET,
}
SHAPES = dict.fromkeys(FILES, (1, 6, 6)) | {"cifar-10": (3, 32, 32), "cifar-100": (3, 32, 32), "imagenet": (3, 8, 8)}
CLASSES = {
    "fashion-mnist": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
    "mnist": list("0123456789"),
    "emnist-letters": list("ABCDEFGHIJ"),
    "emnist-balanced": list("0123456789"),
    "cifar-10": list("abcdefghij"),
    "cifar-100": list("abcdefghij"),
    "imagenet": ["n01", "n02"],
}


def test_there_are_these_presets() -> None:
    assert set(PRESETS) == set(FILES)


@pytest.mark.parametrize("name", list(FILES))
def test_each_is_read_from_the_folder_of_its_name(tmp_path: Path, name: str) -> None:
    assert not is_in_place(by_name(name), tmp_path)
    put(tmp_path / name, FILES[name])
    assert is_in_place(by_name(name), tmp_path)
    raw = read_preset(tmp_path, name=name)
    assert raw.train_images.shape[1:] == SHAPES[name]
    assert raw.classes == CLASSES[name]
    assert len(raw.test_labels) > 0


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("fashion-mnist", "FashionMNIST/raw"),
        ("fashion-mnist", "fashion-mnist/data/fashion"),
        ("fashion-mnist", "dataset-fashion-mnist"),
        ("mnist", "MNIST/raw"),
        ("emnist-letters", "EMNIST/raw"),
        ("emnist-balanced", "gzip"),
        ("emnist-balanced", "emnist"),
        ("cifar-10", "cifar-10-batches-bin"),
        ("cifar-10", "cifar-10/cifar-10-batches-bin"),
        ("cifar-100", "cifar-100-binary"),
        ("imagenet", "ILSVRC/Data/CLS-LOC"),
    ],
)
def test_folders_as_others_leave_them(tmp_path: Path, name: str, folder: str) -> None:
    put(tmp_path / folder, FILES[name])
    assert read_preset(tmp_path, name=name).classes == CLASSES[name]


def test_the_root_may_be_the_folder_itself_when_its_name_tells_which(tmp_path: Path) -> None:
    put(tmp_path / "fashion-mnist", FILES["fashion-mnist"])
    assert is_in_place(by_name("fashion-mnist"), tmp_path / "fashion-mnist")
    assert not is_in_place(by_name("mnist"), tmp_path / "fashion-mnist")


def test_gzipped_files_and_both_kinds_side_by_side(tmp_path: Path) -> None:
    """torchvision unpacks its downloads beside them."""
    packed = {f"{name}.gz": gzip.compress(data) for name, data in FILES["mnist"].items()}
    put(tmp_path / "mnist", packed)
    expected = read_preset(tmp_path, name="mnist")
    put(tmp_path / "mnist", FILES["mnist"] | {"readme.txt": b"x"})
    raw = read_preset(tmp_path, name="mnist")
    assert np.array_equal(raw.train_images, expected.train_images)


def test_splits_of_emnist_may_share_a_folder(tmp_path: Path) -> None:
    put(tmp_path / "gzip", FILES["emnist-letters"] | FILES["emnist-balanced"])
    assert read_preset(tmp_path, name="emnist-letters").classes == CLASSES["emnist-letters"]
    assert read_preset(tmp_path, name="emnist-balanced").classes == CLASSES["emnist-balanced"]


def test_imagenet_is_normalised_as_papers_do(tmp_path: Path) -> None:
    put(tmp_path / "imagenet", IMAGENET)
    report = pack(read_preset(tmp_path, name="imagenet"), tmp_path / "packed")
    assert (report["mean"], report["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert "ImageNet" in report["notes"][-1]
    assert report["splits"]["test"]["images"] == 4


def test_other_presets_are_normalised_by_their_own_images(tmp_path: Path) -> None:
    put(tmp_path / "mnist", FILES["mnist"])
    raw = read_preset(tmp_path, name="mnist")
    report = pack(raw, tmp_path / "packed")
    np.testing.assert_allclose(report["mean"], [(np.asarray(raw.train_images) / 255).mean()], rtol=1e-12)
    assert report["notes"] == []


def test_what_papers_use_for_colours_is_not_used_for_grey(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.new("L", (8, 8), 40).save(data, "PNG")
    put(tmp_path / "imagenet", {name.replace(".JPEG", ".png"): data.getvalue() for name in IMAGENET})
    raw = read_preset(tmp_path, name="imagenet")
    assert (raw.train_images.shape[1], raw.mean) == (1, None)


def test_classes_linked_from_elsewhere_are_followed_and_other_files_are_not_read(tmp_path: Path) -> None:
    """A part of ImageNet is often a folder of links."""
    whole = put(tmp_path / "whole", IMAGENET | {"train/n09/1.JPEG": photo(), "train/n01/notes.txt": b"x"})
    for split in ("train", "val"):
        (tmp_path / "imagenet" / split).mkdir(parents=True)
        for name in ("n01", "n02"):
            (tmp_path / "imagenet" / split / name).symlink_to(whole / split / name)
    assert sorted(open_preset(by_name("imagenet"), tmp_path).files) == sorted(IMAGENET)


def test_an_unknown_name_gets_near_ones() -> None:
    with pytest.raises(InputError) as caught:
        by_name("Fashion_MNIST")
    assert (caught.value.code, caught.value.did_you_mean[0]) == ("not_found", "fashion-mnist")
    assert "cifar-100" in by_name_error("cifar100").did_you_mean
    assert len(by_name_error("x" * 500).message) < 300


def by_name_error(name: str) -> InputError:
    with pytest.raises(InputError) as caught:
        by_name(name)
    return caught.value


@pytest.mark.parametrize("name", list(FILES))
def test_files_that_are_not_in_place_are_named_with_the_setting(tmp_path: Path, name: str) -> None:
    error = refused(tmp_path, name)
    assert error.code == "dataset_unreadable"
    assert "LIMBECK_PRESETS_DIR" in error.hint
    wanted = PRESETS[name].files or ("imagenet/train/",)
    assert all(file in error.hint for file in wanted)


@pytest.mark.parametrize("name", [name for name in FILES if name != "imagenet"])
def test_one_file_that_is_missing_is_enough_to_be_out_of_place(tmp_path: Path, name: str) -> None:
    files = dict(FILES[name])
    del files[PRESETS[name].files[-1]]
    put(tmp_path / name, files)
    assert not is_in_place(by_name(name), tmp_path)
    refused(tmp_path, name)


def test_files_that_are_cut_short_are_refused_as_an_upload_is(tmp_path: Path) -> None:
    put(tmp_path / "cifar-100", FILES["cifar-100"] | {"train.bin": cifar(2)[:-5]})
    assert "no multiple" in refused(tmp_path, "cifar-100").message
    zipped = gzip.compress(FILES["mnist"]["train-images-idx3-ubyte"])[:-20]
    others = {name: data for name, data in FILES["mnist"].items() if "train-images" not in name}
    put(tmp_path / "mnist", others | {"train-images-idx3-ubyte.gz": zipped})
    assert refused(tmp_path, "mnist").code == "upload_corrupt"


def test_validation_images_that_lie_flat_are_not_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "imagenet", {name: data for name, data in IMAGENET.items() if name.startswith("train")})
    put(tmp_path / "imagenet", {"val/ILSVRC2012_val_1.JPEG": photo()})
    error = refused(tmp_path, "imagenet")
    assert (error.code, "val/" in error.message) == ("dataset_unreadable", True)


def test_more_than_an_upload_may_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "imagenet", IMAGENET)
    monkeypatch.setattr(file_tree, "MAX_TOTAL_BYTES", 100)
    assert refused(tmp_path, "imagenet").code == "unsafe_file"
    monkeypatch.setattr(file_tree, "MAX_MEMBERS", 5)
    monkeypatch.setattr(presets, "MAX_MEMBERS", 5)
    assert "more than 5 files" in refused(tmp_path, "imagenet").message
    assert archive.MAX_MEMBERS > 5


class TestDigest:
    def test_of_named_files_their_contents_count_and_not_their_times(self, tmp_path: Path) -> None:
        put(tmp_path / "mnist", FILES["mnist"])
        before = self.digest("mnist", tmp_path)
        os.utime(tmp_path / "mnist" / "train-images-idx3-ubyte", (1, 1))
        assert self.digest("mnist", tmp_path) == before
        put(tmp_path / "mnist", {"t10k-labels-idx1-ubyte": idx(np.arange(10, dtype=np.uint8)[::-1].copy())})
        assert self.digest("mnist", tmp_path) != before

    def test_it_is_that_of_the_list_that_sha256sum_makes(self, tmp_path: Path) -> None:
        put(tmp_path / "mnist", FILES["mnist"])
        lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(FILES["mnist"].items())]
        assert self.digest("mnist", tmp_path) == hashlib.sha256("".join(lines).encode()).hexdigest()

    def test_of_images_sizes_and_times_count(self, tmp_path: Path) -> None:
        put(tmp_path / "imagenet", IMAGENET)
        before = self.digest("imagenet", tmp_path)
        assert self.digest("imagenet", tmp_path) == before
        os.utime(tmp_path / "imagenet" / "train" / "n01" / "n01_1.JPEG", (1, 1))
        assert self.digest("imagenet", tmp_path) != before

    def test_files_that_have_changed_since_are_refused(self, tmp_path: Path) -> None:
        put(tmp_path / "mnist", FILES["mnist"])
        expected = self.digest("mnist", tmp_path)
        read_preset(tmp_path, name="mnist", sha256=expected)
        put(tmp_path / "mnist", {"train-labels-idx1-ubyte": idx(np.arange(20, dtype=np.uint8) % 2)})
        with pytest.raises(InputError, match="not those that were there"):
            read_preset(tmp_path, name="mnist", sha256=expected)

    def digest(self, name: str, root: Path) -> str:
        preset = by_name(name)
        return digest(preset, open_preset(preset, root))


def test_the_names_of_known_classes_are_each_used_once() -> None:
    for names in (known.FASHION, known.DIGITS, *known.EMNIST.values()):
        assert len(set(names)) == len(names)


def test_finding_files_needs_the_standard_library_alone(tmp_path: Path) -> None:
    put(tmp_path / "mnist", FILES["mnist"])
    program = (
        "import sys\n"
        "for name in ('numpy', 'PIL', 'torch', 'safetensors'): sys.modules[name] = None\n"
        "from pathlib import Path\n"
        "from distill.data.inspect import inspect_source\n"
        "from distill.data.presets import by_name, open_preset\n"
        "print(inspect_source(open_preset(by_name('mnist'), Path(sys.argv[1]))).summary['splits'])"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout == "{'train': 20, 'test': 10}\n"
