from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.plain_loop import PerImage, PlainLoop, Task
from benchmarks.train_speed import material, our_run
from distill.batch import Batch
from distill.data.augment import Augmentation, normalize
from distill.spec import NetworkOptions

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def task() -> Task:
    random = np.random.default_rng(0)
    return Task(
        images_NCHW=random.integers(0, 256, (40, 3, 16, 16), dtype=np.uint8),
        labels_N=random.integers(0, 4, 40),
        mean=[0.4, 0.5, 0.6],
        std=[0.2, 0.25, 0.3],
        num_classes=4,
        source="random",
        batch_size=20,
        teacher=("resnet8", NetworkOptions(width=0.5, stem_stride=2)),
        student=("resnet8", NetworkOptions(width=0.25, stem_stride=2)),
        device=torch.device("cpu"),
    )


def test_both_loops_see_the_same_kind_of_images(task: Task) -> None:
    images = PerImage(task)
    ours = Augmentation("crop_flip", image_size=(16, 16))
    views = torch.arange(ours.num_views)
    seen = set()

    for index in range(len(images)):
        image, label = images[index]
        same = torch.from_numpy(task.images_NCHW[index]).expand(ours.num_views, -1, -1, -1)
        every = normalize(ours.apply(same, views), torch.tensor(task.mean), torch.tensor(task.std))
        gaps = (every - image).abs().amax(dim=(1, 2, 3))
        assert float(gaps.min()) < 1e-5
        assert label == task.labels_N[index]
        seen.add(int(gaps.argmin()))

    assert len(seen) > ours.num_views / 3


def test_both_loops_descend_on_the_same_loss(task: Task) -> None:
    plain = PlainLoop(task, num_workers=0)
    ours = our_run(task, material(task)).objective.train()
    connector = ours.get_submodule("methods.0.connectors.last.conv")
    connector.weight.data.copy_(plain.connector.get_submodule("0").weight)  # type: ignore[operator, union-attr]
    images, labels = torch.randn(20, 3, 16, 16), torch.from_numpy(task.labels_N[:20])

    losses = plain.losses(images, labels)
    with torch.no_grad():
        teacher = plain.teacher(images)
    expected = ours(Batch(plain.student(images), teacher, labels, torch.arange(20)))

    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)


def test_it_prints_a_ratio(tmp_path: Path) -> None:
    small = ["--teacher", "resnet8", "--teacher-width", "0.5", "--student", "resnet8", "--student-width", "0.25"]
    tiny = ["--images", "64", "--batch-size", "16", "--seconds", "0.05", "--rounds", "2", "--views", "2"]
    arguments = [*small, *tiny, "--threads", "1", "--workers", "0", "1", "--device", "cpu", "--json", "figures.json"]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "train_speed.py"), *arguments, "--data", "none"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "ratio x " in ended.stdout
    loops = json.loads((tmp_path / "figures.json").read_text())["loops"]
    assert list(loops) == ["plain, 0 workers", "plain, 1 workers", "ours, fresh views", "ours, kept features"]
    assert all(len(loop["ratio"]) == 2 and min(loop["images_per_second"]) > 0 for loop in loops.values())
