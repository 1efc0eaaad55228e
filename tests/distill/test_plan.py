from __future__ import annotations

import json
from typing import Any

import pytest

from distill import plan
from distill.spec import DistillSpec

LEFT_TO_THE_TRAINER = {"training.precision", "method.srrl.activation"}


def spec(method: str = "srrl", **training: object) -> DistillSpec:
    return DistillSpec.model_validate(
        {
            "teacher": {"id": "tch_1"},
            "student": {"architecture": "resnet8"},
            "dataset": {"id": "ds_1", "format": "idx"},
            "method": {"type": method},
            "training": training,
        }
    )


def autos(value: Any, at: str = "") -> set[str]:
    """Where in a JSON value "auto" stands."""
    if isinstance(value, dict):
        return {place for key, child in value.items() for place in autos(child, f"{at}.{key}".lstrip("."))}
    return {at} if value == "auto" else set()


def steps_counted(*, epochs: int, batch_size: int, num_images: int) -> int:
    """Whole batches taken one after the other; a batch larger than the set is the set."""
    count = 0
    for _ in range(epochs):
        left = num_images
        while left >= min(batch_size, num_images):
            left -= min(batch_size, num_images)
            count += 1
    return count


def test_only_what_device_and_teacher_decide_stays_auto() -> None:
    assert autos(spec().model_dump(mode="json")) > LEFT_TO_THE_TRAINER
    assert autos(plan.resolve(spec(), num_images=60_000).model_dump(mode="json")) == LEFT_TO_THE_TRAINER


def test_defaults_for_sixty_thousand_images() -> None:
    training = plan.resolve(spec(), num_images=60_000).training
    assert (training.batch_size, training.epochs, training.learning_rate) == (64, 20, 0.1)
    assert (training.weight_decay, training.schedule) == (5e-4, "one_cycle")
    assert (training.augmentation, training.views) == ("flip", 2)


@pytest.mark.parametrize(
    ("num_images", "epochs"), [(1, 100), (2_000, 100), (2_500, 80), (5_000, 40), (10_000, 20), (1_000_000, 20)]
)
def test_epochs_show_about_two_hundred_thousand_images(num_images: int, epochs: int) -> None:
    assert plan.resolve(spec(), num_images=num_images).training.epochs == epochs


@pytest.mark.parametrize(("batch_size", "rate"), [(16, 0.05), (64, 0.1), (256, 0.2), (8192, 1.131371)])
def test_rate_grows_with_the_root_of_the_batch(batch_size: int, rate: float) -> None:
    assert plan.resolve(spec(batch_size=batch_size), num_images=60_000).training.learning_rate == rate


@pytest.mark.parametrize(("augmentation", "views"), [("none", 1), ("flip", 2), ("crop_flip", 10), ("auto", 2)])
def test_views_follow_the_augmentation(augmentation: str, views: int) -> None:
    assert plan.resolve(spec(augmentation=augmentation), num_images=100).training.views == views


@pytest.mark.parametrize("views", [3, "fresh"])
def test_given_values_are_kept(views: int | str) -> None:
    asked: dict[str, Any] = {
        "epochs": 7,
        "batch_size": 33,
        "learning_rate": 0.37,
        "weight_decay": 0.0,
        "schedule": "constant",
        "augmentation": "crop_flip",
        "views": views,
        "precision": "fp32",
        "seed": 5,
        "baseline": False,
        "max_runtime_seconds": 99,
    }
    before = spec(**asked)
    after = plan.resolve(before, num_images=50)
    assert after == before
    assert after.training.model_dump(include=set(asked)) == asked


@pytest.mark.parametrize("num_images", range(1, 11))
def test_tiny_data_sets_get_a_plan_that_a_request_could_ask_for(num_images: int) -> None:
    resolved = plan.resolve(spec(), num_images=num_images)

    assert DistillSpec.model_validate_json(resolved.model_dump_json()) == resolved
    assert resolved.training.batch_size == 2
    assert plan.total_steps(resolved, num_images=num_images) == 2 * 100 * max(1, num_images // 2)


def test_small_sets_have_at_least_four_batches() -> None:
    for num_images in range(8, 600):
        batch_size = plan.resolve(spec(), num_images=num_images).training.batch_size
        assert isinstance(batch_size, int)
        assert num_images // batch_size >= 4
        assert batch_size <= 64


@pytest.mark.parametrize("num_images", [1, 2, 7, 64, 65, 127, 128, 1000])
@pytest.mark.parametrize("batch_size", [2, 3, 64, 1000])
@pytest.mark.parametrize(("method", "baseline", "runs"), [("srrl", True, 2), ("srrl", False, 1), ("ce", True, 1)])
def test_total_steps_are_those_of_all_runs(
    num_images: int, batch_size: int, method: str, baseline: bool, runs: int
) -> None:
    resolved = plan.resolve(spec(method, epochs=3, batch_size=batch_size, baseline=baseline), num_images=num_images)

    counted = runs * steps_counted(epochs=3, batch_size=batch_size, num_images=num_images)

    assert plan.total_steps(resolved, num_images=num_images) == counted
    assert plan.has_baseline(resolved) == (runs == 2)


def test_resolving_again_changes_nothing() -> None:
    once = plan.resolve(spec(), num_images=300)
    assert plan.resolve(once, num_images=10**6) == once
    assert json.loads(once.model_dump_json())["teacher"] == spec().model_dump(mode="json")["teacher"]
