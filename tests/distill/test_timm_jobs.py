"""Whole jobs with networks of timm, on both sides: a CNN, a vision transformer, a MobileNet; random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from distill import events, plan
from distill.architectures import match_state
from distill.data.packed import PackedDataset, pack
from distill.data.readers import read
from distill.registry import build_network, load_student
from distill.spec import DistillSpec, NetworkOptions
from distill.teacher_files import TeacherFile, check_teacher_file
from distill.trainer import Inputs, train
from tests.fixtures.tiny import CLASSES, STUDENT, _images

NAMES = ["timm/test_resnet", "timm/test_vit", "timm/mobilenetv3_small_050"]
PLAIN = NetworkOptions()


def run(teacher: TeacherFile, dataset: Path, folder: Path, **body: Any) -> list[events.Event]:
    training = {"epochs": 2, "batch_size": 32, "learning_rate": 0.02, "precision": "fp32", "baseline": False}
    spec = plan.resolve(
        DistillSpec.model_validate(
            {"teacher": {"id": "t"}, "dataset": {"id": "d"}, "student": STUDENT, "training": training, **body}
        ),
        num_images=len(PackedDataset.load(dataset).train_images),
        num_labelled=int((PackedDataset.load(dataset).train_labels >= 0).sum()),
    )
    return list(train(spec, Inputs(teacher=teacher, dataset_path=dataset, workdir=folder, device="cpu")))


def report_of(seen: list[events.Event]) -> dict[str, Any]:
    return next(e for e in seen if isinstance(e, events.Report)).report


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random teacher is no better than chance, and without labels nobody can say so."""
    folder = tmp_path_factory.mktemp("unlabelled")
    np.savez(folder / "data.npz", x_train=_images(64, 0)[0], x_test=_images(32, 1)[0])
    pack(read(folder / "data.npz"), folder / "data.safetensors")
    return folder / "data.safetensors"


def random_teacher(name: str, folder: Path) -> tuple[TeacherFile, nn.Module]:
    torch.manual_seed(0)
    network = build_network(name, options=PLAIN, num_classes=CLASSES, in_channels=1)
    path = folder / "teacher.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    file = TeacherFile(path=path, architecture=name, options=PLAIN, num_classes=CLASSES, in_channels=1)
    return file, network


@pytest.mark.parametrize("name", NAMES)
def test_it_is_distilled_as_a_student_and_its_file_answers_as_reported(
    tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path, name: str
) -> None:
    seen = run(tiny_teacher, tiny_dataset, tmp_path, student={"architecture": name})

    report = report_of(seen)["student"]
    path = Path([e for e in seen if isinstance(e, events.Artifact)][-1].path)
    student = load_student(path)
    assert report["parameters"] == sum(p.numel() for p in student.parameters())
    assert 0.0 <= report["top1"] <= 1.0
    assert np.isfinite(report["kl_to_teacher"])
    losses = [e.values for e in seen if isinstance(e, events.Metric) and "train/sr" in e.values]
    assert all(np.isfinite(list(values.values())).all() for values in losses)


@pytest.mark.parametrize("name", NAMES)
def test_it_teaches(unlabelled: Path, tmp_path: Path, name: str) -> None:
    teacher, _ = random_teacher(name, tmp_path)

    found = check_teacher_file(teacher)
    seen = run(teacher, unlabelled, tmp_path / "work")

    assert "W p + b are the logits" in found["checks"]
    report = report_of(seen)
    assert 0.0 <= report["student"]["agreement"] <= 1.0
    assert report["teacher"]["parameters"] > report["student"]["parameters"]


@pytest.mark.parametrize("name", NAMES)
def test_its_weights_are_known_again_by_their_head(tmp_path: Path, name: str) -> None:
    _, network = random_teacher(name, tmp_path)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}

    facts = match_state(name, shapes, options=PLAIN, param="/architecture")

    assert (facts.num_classes, facts.in_channels) == (CLASSES, 1)


def test_stages_of_two_cnns_are_matched(unlabelled: Path, tmp_path: Path) -> None:
    teacher, _ = random_teacher("timm/test_resnet", tmp_path)
    method = {"type": "at", "extra": [{"type": "srrl", "srrl": {"stages": ["stage2", "last"]}}]}
    seen = run(teacher, unlabelled, tmp_path / "work", method=method)

    names = {name for e in seen if isinstance(e, events.Metric) for name in e.values}
    assert {"train/at", "train/fm", "train/sr", "train/kd"} <= names


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
