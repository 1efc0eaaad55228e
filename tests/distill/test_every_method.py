"""Whatever all methods must do: learn, leave the teacher alone, stop and go on to the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from distill import events, plan
from distill.data.packed import PackedDataset
from distill.evaluation import top_k
from distill.method_specs import METHODS
from distill.registry import load_student
from distill.spec import DistillSpec
from distill.trainer import Inputs, train
from tests.fixtures.tiny import STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

TYPES: list[str] = [method.model_fields["type"].annotation.__args__[0] for method in METHODS]  # type: ignore[union-attr]
# The published weights are for runs of hundreds of epochs; these let a run of 32 steps see the labels, too.
SMALL: dict[str, dict[str, Any]] = {
    "crd": {"num_negatives": 64, "width": 16, "weight": 0.1},
    "cc": {"width": 16},
    "at": {"weight": 10},
    "rkd": {"weight": 0.1},
    "pkt": {"weight": 300},
    "reviewkd": {"weight": 0.5},
}
STAGES = [
    {"stages": ["stage1"], "regression_weight": 0.1},
    {"stages": ["stage2"], "regression_weight": 0},
    {"feature_stages": ["last"], "regression_stages": ["stage2"], "regression_weight": 0.1},
    {"stages": ["stage1", "stage2", "stage3", "last"], "reduction": "sum", "regression_loss": "kl"},
]
CASES = [{"type": kind, **({kind: SMALL[kind]} if kind in SMALL else {})} for kind in TYPES]
CASES += [{"type": "srrl", "srrl": settings} for settings in STAGES]
CASES += [{"type": "srrl", "extra": [{"type": "kd"}, {"type": "at", "at": {"weight": 10}}]}]


def spec(method: dict[str, Any], **training: Any) -> DistillSpec:
    body = {
        "teacher": {"id": "t"},
        "dataset": {"id": "d"},
        "student": STUDENT,
        "method": method,
        "training": {
            "epochs": 3, "batch_size": 32, "learning_rate": 0.05, "baseline": False, "precision": "fp32", **training,
        },
    }  # fmt: skip
    return plan.resolve(DistillSpec.model_validate(body), num_images=128)


def inputs(teacher: TeacherFile, dataset: Path, folder: Path) -> Inputs:
    return Inputs(teacher=teacher, dataset_path=dataset, workdir=folder, device="cpu")


def student_file(seen: list[events.Event]) -> Path:
    return Path([e for e in seen if isinstance(e, events.Artifact) and e.name == "student.safetensors"][-1].path)


def name_of(method: dict[str, Any]) -> str:
    return "-".join(str(value) for value in method.values()).translate(str.maketrans("", "", "'{}[]: "))


@pytest.mark.parametrize("method", CASES, ids=name_of)
def test_a_stopped_run_ends_with_the_weights_of_an_undisturbed_one(
    tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path, method: dict[str, Any]
) -> None:
    whole = list(train(spec(method), inputs(tiny_teacher, tiny_dataset, tmp_path / "whole")))
    stream = train(spec(method), inputs(tiny_teacher, tiny_dataset, tmp_path / "stopped"))
    metrics = 0
    for event in stream:
        metrics += isinstance(event, events.Metric) and "train/loss" in event.values
        if metrics == 6:  # in the middle of the second epoch
            break
    stream.close()

    after = list(train(spec(method), inputs(tiny_teacher, tiny_dataset, tmp_path / "stopped")))

    assert any(isinstance(event, events.Resumed) for event in after)
    expected, found = load_file(student_file(whole)), load_file(student_file(after))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("method", CASES, ids=name_of)
def test_a_student_is_better_than_at_its_start_and_its_file_answers_as_reported(
    tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path, method: dict[str, Any]
) -> None:
    seen = list(train(spec(method, epochs=8), inputs(tiny_teacher, tiny_dataset, tmp_path)))

    losses = [e.values["train/loss"] for e in seen if isinstance(e, events.Metric) and "train/loss" in e.values]
    report = next(e for e in seen if isinstance(e, events.Report)).report
    data = PackedDataset.load(tiny_dataset)
    student = load_student(student_file(seen))
    seen_images, new_images = (
        (images.float() / 255 - data.mean_C[:, None, None]) / data.std_C[:, None, None]
        for images in (data.train_images, data.test_images)
    )
    with torch.no_grad():
        accuracies = [
            top_k(student(seen_images), data.train_labels),
            top_k(student(new_images), data.test_labels),
        ]
    assert min(losses[-4:]) < losses[0]
    assert accuracies[0] > 0.4  # of 128 images in four classes: four deviations above the 0.25 that it starts at
    assert report["student"]["top1"] == pytest.approx(accuracies[1], abs=1.01 / len(new_images))
