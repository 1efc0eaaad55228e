"""Images without labels join what needs none; without any label the teacher alone tells what they show."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from distill import events, plan
from distill.data.packed import PackedDataset, pack
from distill.data.readers import read
from distill.method_specs import METHODS
from distill.registry import load_student
from distill.spec import DistillSpec
from distill.trainer import Inputs, train
from tests.fixtures.tiny import STUDENT, _images

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

TYPES: list[str] = [method.model_fields["type"].annotation.__args__[0] for method in METHODS]  # type: ignore[union-attr]
NUM_LABELLED, NUM_UNLABELLED = 64, 96


def packed(folder: Path, *, labelled: bool) -> Path:
    (x, y), (more, _), (x_test, y_test) = _images(NUM_LABELLED, 0), _images(NUM_UNLABELLED, 5), _images(96, 1)
    arrays: dict[str, Any] = {"x_train": x, "x_test": x_test}
    if labelled:
        arrays |= {"y_train": y, "y_test": y_test, "x_train_unlabeled": more}
    np.savez(folder / "data.npz", **arrays)
    pack(read(folder / "data.npz"), folder / "data.safetensors")
    return folder / "data.safetensors"


def run(
    teacher: TeacherFile, dataset: Path, folder: Path, *, method: dict[str, Any], **training: Any
) -> list[events.Event]:
    body = {
        "teacher": {"id": "t"},
        "dataset": {"id": "d"},
        "student": STUDENT,
        "method": method,
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 0.05, "precision": "fp32", **training},
    }
    labels = PackedDataset.load(dataset).train_labels
    spec = plan.resolve(DistillSpec.model_validate(body), num_images=len(labels), num_labelled=int((labels >= 0).sum()))
    seen = list(train(spec, Inputs(teacher=teacher, dataset_path=dataset, workdir=folder, device="cpu")))
    counts = {"num_images": len(labels), "num_labelled": int((labels >= 0).sum())}
    assert seen[-1] == events.Finished(step=plan.total_steps(spec, **counts))
    return seen


def report_of(seen: list[events.Event]) -> dict[str, Any]:
    return next(e for e in seen if isinstance(e, events.Report)).report


def weights(seen: list[events.Event], name: str) -> dict[str, Tensor]:
    return load_file([e for e in seen if isinstance(e, events.Artifact) and e.name == name][-1].path)


def test_unlabelled_images_join_the_method_and_not_the_baseline(tiny_teacher: TeacherFile, tmp_path: Path) -> None:
    dataset = packed(tmp_path, labelled=True)
    seen = run(tiny_teacher, dataset, tmp_path / "work", method={"type": "srrl"})

    report = report_of(seen)
    assert report["images"] == {"train": NUM_LABELLED + NUM_UNLABELLED, "test": 96}
    assert {"top1", "agreement"} <= report["student"].keys()
    assert report["baseline"]["top1"] > 0
    last = max(e.step for e in seen if isinstance(e, events.Metric) and "train/loss" in e.values)
    assert last == 2 * (NUM_LABELLED + NUM_UNLABELLED) // 16


def test_the_baseline_is_that_of_the_labelled_images_alone(tiny_teacher: TeacherFile, tmp_path: Path) -> None:
    (x, y), (x_test, y_test) = _images(NUM_LABELLED, 0), _images(96, 1)
    np.savez(tmp_path / "labelled.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    pack(read(tmp_path / "labelled.npz"), tmp_path / "labelled.safetensors")
    whole = PackedDataset.load(packed(tmp_path, labelled=True))
    mean, std = PackedDataset.load(tmp_path / "labelled.safetensors").mean_C, whole.mean_C
    assert not torch.equal(mean, std)  # normalised by what each set holds, so only the counts can be compared

    alone = run(tiny_teacher, tmp_path / "labelled.safetensors", tmp_path / "a", method={"type": "ce"})
    beside = run(tiny_teacher, tmp_path / "data.safetensors", tmp_path / "b", method={"type": "srrl"})

    steps = [e.step for e in alone if isinstance(e, events.Metric) and "train/loss" in e.values]
    own = [e.step for e in beside if isinstance(e, events.Metric) and "baseline/train/loss" in e.values]
    first = 2 * (NUM_LABELLED + NUM_UNLABELLED) // 16
    assert [step - first for step in own] == steps


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind != "ce"])
def test_a_data_set_without_any_label_is_distilled_by_every_method(
    tiny_teacher: TeacherFile, tmp_path: Path, kind: str
) -> None:
    small = {"crd": {"num_negatives": 32, "width": 8}}.get(kind, {})
    seen = run(tiny_teacher, packed(tmp_path, labelled=False), tmp_path / "work", method={"type": kind, kind: small})

    report, names = report_of(seen), {e.name for e in seen if isinstance(e, events.Artifact)}
    assert names == {"student.safetensors"}
    assert report["baseline"] is None
    assert "top1" not in report["student"]
    assert 0.0 <= report["student"]["agreement"] <= 1.0
    resolved = next(e for e in seen if isinstance(e, events.Resolved)).values["method"]
    assert [term["type"] for term in resolved["extra"]] == ([] if kind in ("kd", "dist", "simkd") else ["kd"])
    metrics = {name for e in seen if isinstance(e, events.Metric) for name in e.values}
    assert {"val/agreement", "teacher/val/agreement"} <= metrics
    assert load_student(tmp_path / "work" / "out" / "student-1.safetensors") is not None


def test_without_labels_the_students_own_head_learns_from_the_teacher(
    tiny_teacher: TeacherFile, tmp_path: Path
) -> None:
    dataset = packed(tmp_path, labelled=False)
    method = {"type": "srrl", "srrl": {"regression_weight": 0.1}}
    seen = run(tiny_teacher, dataset, tmp_path / "work", method=method, epochs=12)
    reused = {"type": "srrl", "srrl": {"head": "teacher"}}
    behind = run(tiny_teacher, dataset, tmp_path / "reused", method=reused, epochs=12)

    assert report_of(seen)["student"]["agreement"] > 0.4  # four classes
    assert report_of(behind)["student"]["agreement"] > 0.4
    resolved = next(e for e in behind if isinstance(e, events.Resolved)).values["method"]
    assert resolved["extra"] == []  # the teacher's own classifier needs no teaching
