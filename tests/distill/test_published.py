from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distill import events, plan
from distill.published import in_words, published
from distill.spec import DistillSpec
from distill.trainer import Inputs, train
from tests.fixtures.tiny import STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

WRN = "srrl/cifar100/wrn40x4-wrn16x4"
FASHION = "srrl/fashion-mnist-5k/resnet14-resnet8"


def resolved(recipe: str | None, *, num_images: int = 50_000, **more: Any) -> DistillSpec:
    body = {"recipe": recipe, "teacher": {"id": "t"}, "dataset": {"id": "d"}, **more}
    return plan.resolve(DistillSpec.model_validate(body), num_images=num_images, image_size=(32, 32))


def test_the_figures_of_the_row_stand_beside_a_run_as_the_recipe_has_it() -> None:
    assert published(resolved(WRN), teacher="wrn_40_4", num_classes=100) == {
        "recipe": WRN,
        "title": "SRRL: WRN-40-4 → WRN-16-4 on CIFAR-100",
        "top1": 0.7958,
        "teacher_top1": 0.7950,
        "baseline_top1": 0.7697,
        "rivals": {"kd": 0.7835, "at": 0.7806, "ofd": 0.7929, "rkd": 0.7838, "crd": 0.7883},
        "source": "[paper] Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021",
        "departures": [],
    }


def test_without_a_recipe_nothing_was_published() -> None:
    spec = resolved(None, student={"architecture": "resnet8"})
    assert published(spec, teacher="wrn_40_4", num_classes=100) is None
    assert in_words(None) == []


@pytest.mark.parametrize(
    ("more", "departures"),
    [
        ({"training": {"seed": 7, "precision": "fp32", "baseline": False, "max_runtime_seconds": 99}}, []),
        ({"training": {"epochs": 240}, "method": {"type": "srrl", "srrl": {"activation": "auto"}}}, []),
        ({"training": {"epochs": 24}}, ["/training/epochs", "/training/milestones"]),
        ({"training": {"batch_size": 128, "learning_rate": 0.1}}, ["/training/batch_size", "/training/learning_rate"]),
        ({"training": {"schedule": "cosine"}}, ["/training/schedule", "/training/milestones"]),
        ({"training": {"views": 10}}, ["/training/views"]),
        ({"method": {"srrl": {"head": "teacher"}}}, ["/method/srrl/head"]),
        ({"method": {"type": "ce"}}, ["/method/type"]),
        ({"student": {"architecture": "wrn_16_2"}}, ["/student/architecture"]),
        ({"student": {"options": {"width": 0.5}}}, ["/student/options/width"]),
    ],
)
def test_what_is_otherwise_than_in_the_recipe_is_named(more: dict[str, Any], departures: list[str]) -> None:
    found = published(resolved(WRN, **more), teacher="wrn_40_4", num_classes=100)
    assert found is not None
    assert found["departures"] == departures


def test_another_teacher_and_other_data_are_named_too() -> None:
    found = published(resolved(WRN), teacher="wrn_40_2", num_classes=10)
    assert found is not None
    assert found["departures"] == ["/teacher/architecture", "/dataset"]


def test_what_the_trainer_decides_is_no_departure() -> None:
    spec = resolved(WRN)
    method = spec.method.model_copy(update={"srrl": spec.method.srrl.model_copy(update={"activation": "relu"})})  # type: ignore[union-attr]
    training = spec.training.model_copy(update={"precision": "bf16"})
    ready = spec.model_copy(update={"method": method, "training": training})
    found = published(ready, teacher="wrn_40_4", num_classes=100)
    assert found is not None
    assert found["departures"] == []


def test_the_figures_in_words() -> None:
    found = published(resolved(WRN, training={"epochs": 24}), teacher="wrn_40_4", num_classes=100)
    assert in_words(found) == [
        "SRRL: WRN-40-4 → WRN-16-4 on CIFAR-100: published with 79.58 % "
        "([paper] Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021).",
        "Other methods on the same pair: KD 78.35 %, AT 78.06 %, OFD 79.29 %, RKD 78.38 %, CRD 78.83 %.",
        "This run departs from the recipe in /training/epochs, /training/milestones.",
    ]


def test_a_report_shows_published_against_measured(
    tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path
) -> None:
    spec = resolved(FASHION, num_images=128, student=STUDENT, training={"epochs": 1, "batch_size": 32})
    inputs = Inputs(teacher=tiny_teacher, dataset_path=tiny_dataset, workdir=tmp_path / "work", device="cpu")
    report = next(event.report for event in train(spec, inputs) if isinstance(event, events.Report))
    assert 0 <= report["student"]["top1"] <= 1
    assert report["published"]["recipe"] == FASHION
    assert (report["published"]["top1"], report["published"]["baseline_top1"]) == (0.8933, 0.8656)
    assert report["published"]["departures"] == [
        "/teacher/architecture",  # resnet8
        "/dataset",  # of four classes
        "/student/options/width",
        "/training/epochs",
        "/training/batch_size",
    ]
