"""Students that start from a file."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill import architectures, events, plan
from distill.errors import InputError
from distill.registry import build_network, load_start
from distill.spec import DistillSpec, NetworkOptions, StudentSpec
from distill.trainer import Inputs, train
from tests.fixtures.tiny import CLASSES, STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

OPTIONS = NetworkOptions.model_validate(STUDENT["options"])


def spec(**training: Any) -> DistillSpec:
    body = {
        "teacher": {"id": "t"},
        "dataset": {"id": "d"},
        "student": STUDENT | {"init": {"upload_id": "up"}},
        "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.05, **training},
    }
    return plan.resolve(DistillSpec.model_validate(body), num_images=128)


def weights_for(num_classes: int) -> dict[str, Tensor]:
    """Weights that no seed of a job would draw."""
    torch.manual_seed(77)
    network = build_network("resnet8", options=OPTIONS, num_classes=num_classes, in_channels=1)
    return {name: value * 1.5 if value.is_floating_point() else value for name, value in network.state_dict().items()}


@pytest.fixture
def inputs(tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path) -> Inputs:
    start = tmp_path / "start.safetensors"
    save_file({f"module.{name}": value for name, value in weights_for(CLASSES).items()}, start)
    return Inputs(
        teacher=tiny_teacher, dataset_path=tiny_dataset, start_path=start, workdir=tmp_path / "work", device="cpu"
    )


def result(seen: list[events.Event], name: str) -> dict[str, Tensor]:
    made = [e for e in seen if isinstance(e, events.Artifact) and e.name == f"{name}.safetensors"]
    return load_file(made[-1].path)


def said(seen: list[events.Event]) -> str:
    return "\n".join(e.message for e in seen if isinstance(e, events.Log))


def barely_trained(inputs: Inputs) -> list[events.Event]:
    """A run whose steps are too small to lead away from where it starts."""
    return list(train(spec(epochs=1, learning_rate=1e-9, weight_decay=0.0), inputs))


def is_near(found: dict[str, Tensor], start: dict[str, Tensor], name: str) -> bool:
    return torch.allclose(found[name], start[name], atol=1e-6)


def test_student_and_baseline_start_from_the_same_file(inputs: Inputs) -> None:
    seen, start = barely_trained(inputs), weights_for(CLASSES)
    trained = [name for name in start if name.endswith(("weight", "bias"))]
    for run in ("student", "baseline"):
        assert all(is_near(result(seen, run), start, name) for name in trained)
    assert "start from the uploaded weights, their own classifier included" in said(seen)


def test_a_head_of_other_classes_starts_at_random_alike_in_both_runs(inputs: Inputs) -> None:
    assert inputs.start_path is not None
    start = weights_for(7)
    save_file(start, inputs.start_path)
    seen = barely_trained(inputs)
    student, baseline = result(seen, "student"), result(seen, "baseline")
    assert is_near(student, start, "layer3.0.conv1.weight")
    assert student["fc.weight"].shape[0] == CLASSES
    for name in ("fc.weight", "fc.bias"):
        assert torch.allclose(student[name], baseline[name], atol=1e-6)
    assert "for 7 classes and not 4" in said(seen)


def test_a_stopped_run_goes_on_to_the_same_weights(inputs: Inputs, tmp_path: Path) -> None:
    whole = list(train(spec(), inputs))
    there = replace(inputs, workdir=tmp_path / "interrupted")
    with contextlib.closing(train(spec(), there)) as stream:
        for event in stream:
            if isinstance(event, events.Metric) and event.step == 3:
                break
    rest = list(train(spec(), there))
    assert any(isinstance(event, events.Resumed) and event.step == 3 for event in rest)
    for run in ("student", "baseline"):
        expected, found = result(whole, run), result(rest, run)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("flaw", "code"),
    [("nan", "upload_corrupt"), ("missing", "state_dict_mismatch"), ("cut", "upload_corrupt")],
)
def test_a_file_of_no_use_is_refused_at_the_start(inputs: Inputs, flaw: str, code: str) -> None:
    assert inputs.start_path is not None
    start = weights_for(CLASSES)
    if flaw == "nan":
        start["bn1.weight"][0] = torch.nan
    elif flaw == "missing":
        del start["bn1.weight"]
    save_file(start, inputs.start_path)
    if flaw == "cut":
        inputs.start_path.write_bytes(inputs.start_path.read_bytes()[:-1])
    with pytest.raises(InputError) as caught:
        list(train(spec(), inputs))
    assert (caught.value.code, caught.value.param) == (code, "/student/init")
    assert caught.value.hint or caught.value.details


def test_all_classifiers_of_a_network_of_timm_are_left_out(tmp_path: Path) -> None:
    student = StudentSpec(architecture="timm/deit_tiny_distilled_patch16_224")
    torch.manual_seed(5)
    theirs, mine = (
        build_network(student.architecture, options=student.options, num_classes=n, in_channels=3) for n in (7, 4)
    )
    fresh = {name: value.clone() for name, value in mine.state_dict().items()}
    save_file(theirs.state_dict(), tmp_path / "start.safetensors")
    found = load_start(mine, tmp_path / "start.safetensors", student=student, num_classes=4, in_channels=3)
    assert (found.num_classes, found.keeps_head) == (7, False)
    assert len(architectures.blueprint(student.architecture, options=student.options).classifiers) == 2
    for name, value in mine.state_dict().items():
        expected = fresh if name.startswith(("head.", "head_dist.")) else theirs.state_dict()
        assert torch.equal(value, expected[name])
