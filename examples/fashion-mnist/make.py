"""How the shipped teacher and data were made, from the original Fashion-MNIST files.

    python examples/fashion-mnist/make.py --source DIR [--epochs 30] [--seed 0]

DIR holds the four original files (Debian: package dataset-fashion-mnist). Writes, beside itself:
    fashion-mnist-5k.npz   5,000 training images, 500 of each class, and all 10,000 test images
    teacher.safetensors    a network trained on all 60,000 training images
    figures.json           what was measured on the way
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
import torch

from distill import evaluation, students
from distill.data.augment import Augmentation
from distill.events import Progress
from distill.losses import label_cross_entropy
from distill.objective import Objective
from distill.preparation import choose_device, choose_precision
from distill.registry import build_network
from distill.runs import Material, Run
from distill.spec import NetworkOptions, TrainingSpec
from distill.viewing import ImagePreparation

HERE = Path(__file__).resolve().parent
ARCHITECTURE, OPTIONS = "resnet14", NetworkOptions(width=1.5, stem_stride=2)
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
PER_CLASS = 500


def read_idx(path: Path) -> np.ndarray:
    """An IDX file, gzipped: uint8 of the shape in its header."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape.astype(int)).copy()


def read(source: Path) -> dict[str, np.ndarray]:
    """x_train, y_train, x_test, y_test."""
    return {
        f"{axis}_{split}": read_idx(source / f"{prefix}-{kind}-ubyte.gz")
        for split, prefix in (("train", "train"), ("test", "t10k"))
        for axis, kind in (("x", "images-idx3"), ("y", "labels-idx1"))
    }


def write_subset(data: dict[str, np.ndarray], *, seed: int) -> Path:
    """The few images that are left for the student, drawn class by class."""
    random = np.random.default_rng(seed)
    chosen = np.concatenate(
        [random.choice(np.flatnonzero(data["y_train"] == c), PER_CLASS, replace=False) for c in range(len(CLASSES))]
    )
    random.shuffle(chosen)
    path = HERE / "fashion-mnist-5k.npz"
    np.savez_compressed(
        path,
        x_train=data["x_train"][chosen],
        y_train=data["y_train"][chosen],
        x_test=data["x_test"],
        y_test=data["y_test"],
        classes=np.array(CLASSES),
    )
    return path


def train_teacher(data: dict[str, np.ndarray], *, epochs: int, seed: int) -> dict[str, object]:
    """Train on everything with labels alone, write the file, and return the figures."""
    torch.manual_seed(seed)
    device = choose_device("auto")
    scaled = data["x_train"].astype(np.float64) / 255.0
    mean, std = [float(scaled.mean())], [float(scaled.std())]
    network = build_network(ARCHITECTURE, options=OPTIONS, num_classes=len(CLASSES), in_channels=1)
    material = Material(
        training=TrainingSpec(
            epochs=epochs, batch_size=128, learning_rate=0.1, weight_decay=5e-4, schedule="one_cycle", seed=seed
        ),
        device=device,
        precision=choose_precision("auto", device),
        images_NCHW=torch.from_numpy(data["x_train"])[:, None].to(device),
        targets_N=torch.from_numpy(data["y_train"].astype(np.int64)).to(device),
        test_images_NCHW=torch.from_numpy(data["x_test"])[:, None],
        augmentation=Augmentation("crop_flip", image_size=(28, 28)),
        views_NV=None,
        bank=None,
        teacher=None,
        prepare=ImagePreparation(mean_C=torch.tensor(mean, device=device), std_C=torch.tensor(std, device=device)),
    )
    steps = epochs * material.steps_per_epoch
    objective = Objective(label_cross_entropy, label_part="ce")
    run = Run("student", network=network, objective=objective, material=material, first_step=0, total_steps=steps)
    labels = torch.from_numpy(data["y_test"].astype(np.int64))
    start = time.monotonic()
    while run.epoch < epochs:
        speed = [e.images_per_second for e in run.train_epoch() if isinstance(e, Progress)]
        accuracy = evaluation.top_k(run.evaluate().logits_NK, labels)
        print(f"epoch {run.epoch}: {accuracy:.2%}, {max(speed, default=0.0):,.0f} images/s", flush=True)
    metadata = {"architecture": ARCHITECTURE, "options": OPTIONS.model_dump(mode="json"), "classes": CLASSES}
    students.save(network.state_dict(), HERE / "teacher.safetensors", metadata={**metadata, "mean": mean, "std": std})
    return {
        "architecture": ARCHITECTURE,
        "options": OPTIONS.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in network.parameters()),
        "epochs": epochs,
        "seed": seed,
        "test_top1_last_epoch": accuracy,
        "seconds": round(time.monotonic() - start),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    data = read(chosen.source)
    subset = write_subset(data, seed=chosen.seed)
    figures = train_teacher(data, epochs=chosen.epochs, seed=chosen.seed)
    (HERE / "figures.json").write_text(
        json.dumps({"teacher": figures, "subset_bytes": subset.stat().st_size}, indent=1)
    )


if __name__ == "__main__":
    main()
