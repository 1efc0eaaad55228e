"""Data sets several times larger than what the processes that read them may take of memory."""

from __future__ import annotations

import functools
import io
import json
import resource
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distill import plan, students
from distill.data.images import ImageFile, Images
from distill.data.packed import pack
from distill.data.raw import RawDataset
from distill.registry import build_network
from distill.spec import DistillSpec, NetworkOptions
from tests.fixtures.archives import tarred, zipped
from worker.children import Child, bare_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's own memory is Linux's")

SIDE, CLASSES, COUNT = 256, 4, 2100
DATA_BYTES = COUNT * 3 * SIDE * SIDE
MARGIN = 128 * 2**20
"""What a process may take beyond its libraries: less than a quarter of the images."""
TRAIN_COUNT, TRAINING_MARGIN = 4000, 240 * 2**20
"""The same of the trainer, whose networks take more at each step: less than a third."""
NETWORK = "vgg8"
OPTIONS = {"width": 0.0625, "stem_stride": 2}


@functools.cache
def baseline(modules: str) -> int:
    """Bytes that count as a process's own once it has imported what it needs."""
    code = f"import {modules}\nprint(open('/proc/self/status').read())"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return status_bytes(said, "VmData")


def status_bytes(status: str, field: str) -> int:
    line = next((line for line in status.splitlines() if line.startswith(f"{field}:")), "none: 0 kB")
    return int(line.split()[1]) * 1024


class Peaks(threading.Thread):
    """The most that a process held of memory of its own, and of mapped files beside it."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.status, self.own, self.all = Path(f"/proc/{pid}/status"), 0, 0

    def run(self) -> None:
        while True:
            try:
                text = self.status.read_text()
            except (FileNotFoundError, ProcessLookupError):
                return
            self.own = max(self.own, status_bytes(text, "RssAnon"))
            self.all = max(self.all, status_bytes(text, "VmHWM"))
            time.sleep(0.02)


def answers(child: Child) -> Iterator[dict[str, Any]]:
    while (message := child.messages.get(timeout=300)) is not None:
        yield message


def image(label: int, variant: int) -> bytes:
    """One of two pictures of a class, which compresses well."""
    pixels = np.full((SIDE, SIDE, 3), 40 + 50 * label, dtype=np.uint8)
    pixels[40 : 90 + 40 * variant, 60:200] = (200 - 40 * label, 30 + 60 * label, 20)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", compress_level=1)
    return data.getvalue()


PICTURES = {(label, variant): image(label, variant) for label in range(CLASSES) for variant in range(2)}
SAMPLES = [(number % CLASSES, PICTURES[number % CLASSES, number // CLASSES % 2]) for number in range(COUNT)]


def folder_zip() -> bytes:
    return zipped({f"{label}/{n}.png": data for n, (label, data) in enumerate(SAMPLES)}, compression=zipfile.ZIP_STORED)


def shards() -> bytes:
    members: dict[str, bytes] = {}
    for number, (label, data) in enumerate(SAMPLES):
        members |= {f"{number:05}.png": data, f"{number:05}.cls": str(label).encode()}
    return tarred(members)


def parquet() -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    table = pyarrow.table({"image": [data for _, data in SAMPLES], "label": [label for label, _ in SAMPLES]})
    data = io.BytesIO()
    write_table(table, data, row_group_size=500, use_dictionary=False)
    return data.getvalue()


def ingest(folder: Path, content: bytes, *, margin: int = MARGIN) -> tuple[dict[str, Any], Peaks]:
    """What the checker of uploads answers under a small limit."""
    upload = folder / "upload"
    upload.write_bytes(content)
    order = {
        "kind": "dataset",
        "format": "auto",
        "source": str(upload),
        "target": str(folder / "packed.safetensors"),
        "max_broken_share": 0.05,
        "memory_bytes": baseline("distill.data.overview, pyarrow.parquet") + margin,
    }
    child = Child("worker.ingest_process", order=order, cwd=folder, env=bare_environment(folder))
    peaks = Peaks(child.pid)
    peaks.start()
    said = list(answers(child))
    assert child.wait() == 0, child.log_excerpt()
    return said[-1], peaks


@pytest.mark.parametrize("make", [folder_zip, shards, parquet])
def test_a_data_set_larger_than_memory_is_packed(make: Any, tmp_path: Path) -> None:
    assert DATA_BYTES > 3 * MARGIN

    answer, peaks = ingest(tmp_path, make())

    assert peaks.own < DATA_BYTES
    report = answer["report"]
    assert report["bytes"] > DATA_BYTES
    assert report["splits"]["train"]["images"] + report["splits"]["test"]["images"] == COUNT
    assert {path.name for path in tmp_path.iterdir()} >= {"upload", "packed.safetensors"}
    (tmp_path / "packed.safetensors").unlink()


def test_what_takes_more_memory_than_the_limit_is_refused(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    Image.new("RGB", (8000, 6000)).save(bomb, "PNG")  # 144 MB decoded, and as much again on the way
    content = zipped({f"{name}/1.png": data for name, data in {"a": bomb.getvalue(), "b": image(0, 0)}.items()})

    answer, _ = ingest(tmp_path, content, margin=MARGIN)

    assert answer["error"]["code"] == "unsafe_file"
    assert "memory" in answer["error"]["message"]
    assert {path.name for path in tmp_path.iterdir()} == {"upload"}


def teacher(path: Path) -> None:
    """A random network whose last layer is fitted to tell the classes apart."""
    torch.manual_seed(0)
    network = build_network(
        NETWORK, options=NetworkOptions.model_validate(OPTIONS), num_classes=CLASSES, in_channels=3
    ).eval()
    pixels = [np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1) for data in PICTURES.values()]
    wanted = torch.tensor([label for label, _ in PICTURES])
    seen: list[torch.Tensor] = []
    head = next(module for module in network.modules() if isinstance(module, torch.nn.Linear))
    handle = head.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    with torch.no_grad():
        network(torch.from_numpy(np.stack(pixels)).float() / 255 * 2 - 1)
        handle.remove()
        ones = torch.cat([seen[0], torch.ones(len(wanted), 1)], dim=1).double()
        logits = torch.nn.functional.one_hot(wanted, CLASSES).double() * 10
        fitted = torch.linalg.lstsq(ones, logits, driver="gelsd").solution
        head.weight.copy_(fitted[:-1].T)
        head.bias.copy_(fitted[-1])
    texts = {"mean": [0.5] * 3, "std": [0.5] * 3, "classes": json.dumps([])}
    students.save(network.state_dict(), path, metadata=texts)


def packed(path: Path) -> int:
    """The packed form of many more of these images; its bytes."""
    pixels = [np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1) for data in PICTURES.values()]
    names = [label for label, _ in PICTURES]
    with ImageFile(path.parent, pixels[0].shape) as file:
        for number in range(TRAIN_COUNT):
            file.append(pixels[number % len(pixels)])
        images = Images.of(file.array())
    labels = np.resize(np.array(names), TRAIN_COUNT)
    test = np.arange(TRAIN_COUNT) < 64
    raw = RawDataset(
        train_images=images.chosen(~test),
        train_labels=labels[~test],
        test_images=images.chosen(test),
        test_labels=labels[test],
        classes=[str(label) for label in range(CLASSES)],
    )
    return int(pack(raw, path)["bytes"])


def training_order(folder: Path) -> dict[str, Any]:
    spec = DistillSpec.model_validate(
        {
            "teacher": {"id": "tch_0"},
            "dataset": {"id": "ds_0"},
            "student": {"architecture": NETWORK, "options": OPTIONS},
            "method": {"type": "kd"},
            # One view, so that the teacher is asked about every image before the first step.
            "training": {"epochs": 1, "views": 1, "batch_size": 16, "augmentation": "flip", "baseline": False},
            "outputs": ["safetensors"],
        }
    )
    resolved = plan.resolve(spec, num_images=TRAIN_COUNT - 64, image_size=(SIDE, SIDE))
    return {
        "spec": resolved.model_dump(mode="json"),
        "teacher": {
            "path": str(folder / "teacher.safetensors"),
            "architecture": NETWORK,
            "options": OPTIONS,
            "num_classes": CLASSES,
            "in_channels": 3,
        },
        "dataset_path": str(folder / "packed.safetensors"),
        "start_path": None,
        "workdir": str(folder),
        "device": "cpu",
        "recorded_step": 0,
        "threads": 1,
    }


def test_a_data_set_larger_than_memory_is_trained_on(tmp_path: Path) -> None:
    num_bytes = packed(tmp_path / "packed.safetensors")
    teacher(tmp_path / "teacher.safetensors")
    limit = baseline("distill.trainer") + TRAINING_MARGIN
    assert num_bytes > 3 * TRAINING_MARGIN

    child = Child("worker.trainer_process", order=training_order(tmp_path), cwd=tmp_path)
    resource.prlimit(child.pid, resource.RLIMIT_DATA, (limit, limit))
    peaks = Peaks(child.pid)
    peaks.start()
    events = []
    try:
        for event in answers(child):
            events.append(event)
            if event["event"] == "progress":
                break
    finally:
        child.kill()
        child.wait()
        (tmp_path / "packed.safetensors").unlink()

    assert events[-1].get("step", 0) > 0, (events[-3:], child.log_excerpt())
    assert any("teacher/val/top1" in event.get("values", {}) for event in events)
    resolved = next(event for event in events if event["event"] == "resolved")
    assert resolved["values"]["runtime"]["teacher"] == "features computed once"
    assert peaks.own < limit < num_bytes
