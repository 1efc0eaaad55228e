"""Each format as its own public library writes it, or reads the same bytes; our own writers are not asked."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from distill.data.packed import PackedDataset, pack
from distill.data.readers import read

NAMES = ["ant", "bee", "cat"]
Pixels = NDArray[np.uint8]


def pictures(count: int, *, seed: int, side: int = 32) -> tuple[Pixels, NDArray[np.int64]]:
    """Colour images (N, H, W, 3) and their classes."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (count, side, side, 3), dtype=np.uint8), np.arange(count) % len(NAMES)


TRAIN, TEST = pictures(30, seed=0), pictures(9, seed=1)


def packed(path: Path) -> PackedDataset:
    target = path.parent / "packed.safetensors"
    pack(read(path), target)
    return PackedDataset.load(target)


def assert_same(found: PackedDataset, *, in_order: bool = True, is_named: bool = True) -> None:
    """The very pixels and labels of TRAIN and TEST; where files decide the order, as a set of pairs."""
    assert found.classes == (NAMES if is_named else ["0", "1", "2"])
    splits = {"train": (TRAIN, found.train_images, found.train_labels)}
    splits["test"] = (TEST, found.test_images, found.test_labels)
    for (images, labels), got_images, got_labels in splits.values():
        got = got_images.numpy().transpose(0, 2, 3, 1)
        assert got.shape == images.shape
        if in_order:
            np.testing.assert_array_equal(got, images)
            np.testing.assert_array_equal(got_labels.numpy(), labels)
        pairs = zip(images, labels, strict=True), zip(got, got_labels.numpy(), strict=True)
        expected, seen = ({(image.tobytes(), int(label)) for image, label in each} for each in pairs)
        assert seen == expected


def test_parquet_by_hugging_faces_datasets(tmp_path: Path) -> None:
    """As ``Dataset.to_parquet`` writes images and named classes, and ``push_to_hub`` names the files."""
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    with zipfile.ZipFile(tmp_path / "hub.zip", "w") as archive:
        for split, (images, labels) in (("train", TRAIN), ("test", TEST)):
            rows = {"image": [Image.fromarray(image) for image in images], "label": labels.tolist()}
            name = f"{split}-00000-of-00001.parquet"
            datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / name)
            archive.write(tmp_path / name, f"data/{name}")
    assert_same(packed(tmp_path / "hub.zip"))


@pytest.mark.parametrize("part", ["cls", "json"])
def test_shards_by_webdatasets_writer(tmp_path: Path, part: str) -> None:
    import webdataset

    def sample(label: int) -> dict[str, Any]:
        return {"cls": label} if part == "cls" else {"json": {"label": NAMES[label], "caption": "a photo"}}

    with zipfile.ZipFile(tmp_path / "shards.zip", "w") as archive:
        for split, (images, labels) in (("train", TRAIN), ("test", TEST)):
            with webdataset.ShardWriter(str(tmp_path / f"{split}-%03d.tar"), maxcount=16, verbose=0) as writer:
                for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                    writer.write({"__key__": f"{number:05d}", "png": Image.fromarray(image)} | sample(int(label)))
            for shard in sorted(tmp_path.glob(f"{split}-*.tar")):
                archive.write(shard, shard.name)
    assert_same(packed(tmp_path / "shards.zip"), is_named=part == "json")


def test_a_folder_of_photos_as_a_desktop_zips_it(tmp_path: Path) -> None:
    """``shutil.make_archive`` writes what file managers write: one folder around all, with entries of folders."""
    for split, (images, labels) in (("train", TRAIN), ("val", TEST)):
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            folder = tmp_path / "photos" / split / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"IMG_{number:04d}.png")
    (tmp_path / "photos" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    for kind in ("zip", "tar", "gztar"):
        file = Path(shutil.make_archive(str(tmp_path / kind), kind, tmp_path, "photos"))
        assert_same(packed(file), in_order=False)


def test_arrays_by_numpy(tmp_path: Path) -> None:
    arrays = {"x_train": TRAIN[0], "y_train": TRAIN[1], "x_test": TEST[0], "y_test": TEST[1]}
    np.savez_compressed(tmp_path / "arrays.npz", classes=np.array(NAMES), **arrays)
    assert_same(packed(tmp_path / "arrays.npz"))


def test_cifars_binary_files_hold_what_torchvision_reads_of_its_pickles(tmp_path: Path) -> None:
    """Nobody writes the binary version any more. Its records are the rows of the pickled version, each behind its
    label; torchvision reads the latter, and must see the same pictures."""
    from distill.networks.torchvision_shim import import_torchvision

    import_torchvision()
    from torchvision.datasets import CIFAR10

    class Unchecked(CIFAR10):
        """Without the sums of the one true CIFAR-10."""

        def _check_integrity(self) -> bool:
            return True

    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    random = np.random.default_rng(5)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    with zipfile.ZipFile(tmp_path / "cifar.zip", "w") as archive:
        for batch in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
            rows, labels = random.integers(0, 256, (20, 3072), dtype=np.uint8), [n % 10 for n in range(20)]
            (folder / batch).write_bytes(pickle.dumps({"data": rows, "labels": labels}))
            records = b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, rows, strict=True))
            archive.writestr(f"cifar-10-batches-bin/{batch}.bin", records)
        archive.writestr("cifar-10-batches-bin/batches.meta.txt", "\n".join(names) + "\n")
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    Unchecked.meta = {"filename": "batches.meta", "key": "label_names", "md5": None}  # type: ignore[dict-item]

    ours = packed(tmp_path / "cifar.zip")

    for train, images, labels in (
        (True, ours.train_images, ours.train_labels),
        (False, ours.test_images, ours.test_labels),
    ):
        theirs: Any = Unchecked(str(tmp_path), train=train)
        np.testing.assert_array_equal(images.numpy().transpose(0, 2, 3, 1), theirs.data)
        assert labels.tolist() == theirs.targets
        assert ours.classes == theirs.classes


def test_idx_files_hold_what_torchvision_reads_of_them(tmp_path: Path) -> None:
    from distill.networks.torchvision_shim import import_torchvision

    import_torchvision()
    from torchvision.datasets.mnist import read_image_file, read_label_file

    names = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")}
    names["test"] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    with zipfile.ZipFile(tmp_path / "idx.zip", "w") as archive:
        for split, (images, labels) in (("train", TRAIN), ("test", TEST)):
            grey = images[:, :28, :28, 0]
            for name, values in zip(names[split], (grey, labels.astype(np.uint8)), strict=True):
                header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
                (tmp_path / name).write_bytes(header + values.tobytes())
                archive.write(tmp_path / name, name)

    ours = packed(tmp_path / "idx.zip")

    for split, images, labels in (
        ("train", ours.train_images, ours.train_labels),
        ("test", ours.test_images, ours.test_labels),
    ):
        image_file, label_file = (str(tmp_path / name) for name in names[split])
        assert images[:, 0].equal(read_image_file(image_file))
        assert labels.equal(read_label_file(label_file))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_lists_by_pandas(tmp_path: Path, suffix: str) -> None:
    import pandas

    rows = []
    with zipfile.ZipFile(tmp_path / "list.zip", "w") as archive:
        for split, (images, labels) in (("train", TRAIN), ("test", TEST)):
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                Image.fromarray(image).save(tmp_path / "one.png")
                archive.write(tmp_path / "one.png", f"images/{split}{number}.png")
                rows.append({"path": f"images/{split}{number}.png", "label": NAMES[label], "split": split})
        table = pandas.DataFrame(rows)
        if suffix == ".csv":
            table.to_csv(tmp_path / "manifest.csv", index=False)
        else:
            table.to_json(tmp_path / "manifest.jsonl", orient="records", lines=True)
        archive.write(tmp_path / f"manifest{suffix}", f"manifest{suffix}")
    assert_same(packed(tmp_path / "list.zip"), in_order=False)
