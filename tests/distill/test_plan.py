from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distill import plan
from distill.spec import DistillSpec, StudentSpec

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "fashion-mnist"
LEFT_TO_THE_TRAINER = {"training.precision", "training.device", "method.srrl.activation"}


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


# Images, size, student -> base, epochs, batch, rate, decay, schedule, milestones, Nesterov, augmentation, views.
RESOLVED: list[tuple[int, tuple[int, int] | None, str, tuple[Any, ...]]] = [
    (5_000, (28, 28), "resnet8", ("small-data", 40, 64, 0.1, 5e-4, "one_cycle", [], True, "flip", 2)),
    (300, (12, 12), "resnet8", ("small-data", 100, 64, 0.1, 5e-4, "one_cycle", [], True, "flip", 2)),
    (40, (300, 200), "mobilenetv2", ("small-data", 100, 10, 0.039528, 5e-4, "one_cycle", [], True, "flip", 2)),
    (15_000, (32, 32), "resnet8", ("small-data", 20, 64, 0.1, 5e-4, "one_cycle", [], True, "flip", 2)),
    (20_000, (32, 32), "resnet8", ("cifar", 20, 64, 0.05, 5e-4, "step", [13, 15, 18], False, "crop_flip", 10)),
    (50_000, (32, 32), "resnet8", ("cifar", 20, 64, 0.05, 5e-4, "step", [13, 15, 18], False, "crop_flip", 10)),
    (50_000, (32, 32), "mobilenetv2", ("cifar", 20, 64, 0.01, 5e-4, "step", [13, 15, 18], False, "crop_flip", 10)),
    (60_000, (28, 28), "shufflenetv1", ("cifar", 20, 64, 0.01, 5e-4, "step", [13, 15, 18], False, "crop_flip", 10)),
    (60_000, None, "resnet8", ("cifar", 20, 64, 0.05, 5e-4, "step", [13, 15, 18], False, "crop_flip", 10)),
    (
        1_281_167,
        (224, 224),
        "timm/mobilenetv1_100",
        ("imagenet", 20, 512, 0.2, 1e-4, "step", [6, 12, 18], False, "resized_crop_flip", "fresh"),
    ),
    (
        200_000,
        (256, 200),
        "resnet18",
        ("imagenet", 20, 512, 0.2, 1e-4, "step", [6, 12, 18], False, "resized_crop_flip", "fresh"),
    ),
]


@pytest.mark.parametrize(("num_images", "size", "student", "expected"), RESOLVED)
def test_every_auto_is_that_of_the_nearest_data(
    num_images: int, size: tuple[int, int] | None, student: str, expected: tuple[Any, ...]
) -> None:
    asked = spec().model_copy(update={"student": StudentSpec(architecture=student)})
    training = plan.resolve(asked, num_images=num_images, image_size=size).training
    base = plan.base_of(asked, num_images=num_images, image_size=size)
    found = (
        base.name, training.epochs, training.batch_size, training.learning_rate, training.weight_decay,
        training.schedule, training.milestones, training.nesterov, training.augmentation, training.views,
    )  # fmt: skip
    assert found == expected
    assert DistillSpec.model_validate(asked.model_dump(mode="json")) == asked
    assert (training.momentum, training.gamma) == (0.9, 0.1)


def test_the_shipped_demo_trains_as_it_was_measured() -> None:
    body = json.loads((EXAMPLE / "demo.json").read_text())
    asked = DistillSpec.model_validate(
        {"teacher": {"id": "t"}, "dataset": {"id": "d"}, **{k: body[k] for k in ("student", "method", "training")}}
    )
    training = plan.resolve(asked, num_images=5_000, image_size=(28, 28)).training
    wanted = {
        "epochs": 40, "batch_size": 64, "learning_rate": 0.1, "weight_decay": 5e-4, "optimizer": "sgd", "momentum": 0.9,
        "nesterov": True, "schedule": "one_cycle", "milestones": [], "gamma": 0.1, "augmentation": "flip", "views": 2,
        "precision": "auto", "seed": 0, "baseline": True, "max_runtime_seconds": 14400,
    }  # fmt: skip
    assert training.model_dump(include=set(wanted)) == wanted


@pytest.mark.parametrize(
    ("training", "schedule", "milestones"),
    [
        ({"schedule": "step", "epochs": 240}, "step", [150, 180, 210]),
        ({"schedule": "step", "epochs": 8}, "step", [5, 6, 7]),
        ({"schedule": "step", "epochs": 3}, "step", [2]),
        ({"schedule": "step", "epochs": 1}, "step", []),
        ({"milestones": [3, 7], "epochs": 9}, "step", [3, 7]),
        ({"milestones": [3, 70]}, "step", [3]),  # of 35 epochs, as auto has it
        ({"milestones": []}, "one_cycle", []),
        ({"schedule": "cosine"}, "cosine", []),
    ],
)
def test_milestones_are_shares_of_the_run_unless_they_are_given(
    training: dict[str, Any], schedule: str, milestones: list[int]
) -> None:
    found = plan.resolve(spec(**training), num_images=5_000 if "epochs" in training else 5_714).training
    assert (found.schedule, found.milestones) == (schedule, milestones)


def test_no_auto_asks_for_a_published_number_of_epochs() -> None:
    """A night's run is for who names its recipe."""
    for num_images in (50, 5_000, 50_000, 1_281_167):
        epochs = plan.resolve(spec(), num_images=num_images, image_size=(32, 32)).training.epochs
        assert isinstance(epochs, int)
        assert 20 <= epochs <= 100


def test_a_named_recipe_decides_what_is_left_to_auto() -> None:
    body = {"recipe": "srrl/cifar100/wrn40x4-wrn16x4", "teacher": {"id": "t"}, "dataset": {"id": "d"}}
    asked = DistillSpec.model_validate({**body, "training": {"epochs": "auto", "learning_rate": "auto"}})
    training = plan.resolve(asked, num_images=40, image_size=(8, 8)).training
    assert plan.base_of(asked, num_images=40).name == "cifar"
    assert (training.epochs, training.milestones, training.learning_rate) == (100, [63, 75, 88], 0.05)


@pytest.mark.parametrize(
    ("num_images", "epochs"), [(1, 100), (2_000, 100), (2_500, 80), (5_000, 40), (10_000, 20), (1_000_000, 20)]
)
def test_epochs_show_about_two_hundred_thousand_images(num_images: int, epochs: int) -> None:
    assert plan.resolve(spec(), num_images=num_images).training.epochs == epochs


@pytest.mark.parametrize(("batch_size", "rate"), [(16, 0.05), (64, 0.1), (256, 0.2), (8192, 1.131371)])
def test_rate_grows_with_the_root_of_the_batch(batch_size: int, rate: float) -> None:
    assert plan.resolve(spec(batch_size=batch_size), num_images=5_000).training.learning_rate == rate
    on_cifar = plan.resolve(spec(batch_size=batch_size), num_images=50_000, image_size=(32, 32))
    assert on_cifar.training.learning_rate == pytest.approx(rate / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("augmentation", "views"),
    [("none", 1), ("flip", 2), ("crop_flip", 10), ("auto", 2), ("resized_crop_flip", "fresh")],
)
def test_views_follow_the_augmentation(augmentation: str, views: int | str) -> None:
    assert plan.resolve(spec(augmentation=augmentation), num_images=100).training.views == views


@pytest.mark.parametrize(("can_flip", "augmentation"), [(True, "crop_flip"), (False, "crop")])
def test_points_are_not_cropped_to_any_scale(can_flip: bool, augmentation: str) -> None:
    data: dict[str, Any] = {"num_images": 200_000, "image_size": (256, 200), "can_flip": can_flip}

    resolved = plan.resolve(spec(), **data, normaliser=(0, 1))

    assert plan.base_of(spec(), num_images=200_000, image_size=(256, 200)).augmentation == "resized_crop_flip"
    assert resolved.training.augmentation == augmentation
    asked = plan.resolve(spec(augmentation="resized_crop_flip"), **data, normaliser=(0, 1))
    assert asked.training.augmentation == "resized_crop_flip"


@pytest.mark.parametrize("views", [3, "fresh"])
def test_given_values_are_kept(views: int | str) -> None:
    asked: dict[str, Any] = {
        "epochs": 7,
        "batch_size": 33,
        "learning_rate": 0.37,
        "weight_decay": 0.0,
        "momentum": 0.5,
        "nesterov": False,
        "schedule": "constant",
        "milestones": [],
        "gamma": 0.3,
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


def test_methods_that_grow_their_weight_are_told_over_how_many_epochs() -> None:
    method = {"type": "dkd", "extra": [{"type": "reviewkd"}, {"type": "kd"}]}
    body = {"teacher": {"id": "t"}, "dataset": {"id": "d"}, "student": {"architecture": "resnet8"}, "method": method}
    spec = DistillSpec.model_validate({**body, "training": {"epochs": 50}})

    resolved = plan.resolve(spec, num_images=5000).method.model_dump(mode="json")

    assert resolved["dkd"]["warmup_epochs"] == 5  # a twelfth of 50, rounded up
    assert resolved["extra"][0]["reviewkd"]["warmup_epochs"] == 5
    asked = DistillSpec.model_validate({**body, "method": {"type": "dkd", "dkd": {"warmup_epochs": 0}}})
    assert plan.resolve(asked, num_images=5000).method.model_dump(mode="json")["dkd"]["warmup_epochs"] == 0


@pytest.mark.parametrize(
    ("num_images", "num_negatives"), [(5_000, 1_638), (50_000, 16_384), (1_281_167, 16_384), (40, 13)]
)
def test_crd_draws_the_published_share_of_the_images(num_images: int, num_negatives: int) -> None:
    body = {"teacher": {"id": "t"}, "dataset": {"id": "d"}, "student": {"architecture": "resnet8"}}
    for method in ({"type": "crd"}, {"type": "kd", "extra": [{"type": "crd"}]}):
        spec = DistillSpec.model_validate({**body, "method": method})
        resolved = plan.resolve(spec, num_images=num_images).method.model_dump(mode="json")
        assert (resolved if "crd" in resolved else resolved["extra"][0])["crd"]["num_negatives"] == num_negatives
    asked = DistillSpec.model_validate({**body, "method": {"type": "crd", "crd": {"num_negatives": 7}}})
    assert plan.resolve(asked, num_images=num_images).method.model_dump(mode="json")["crd"]["num_negatives"] == 7


@pytest.mark.parametrize(("labelled", "steps"), [(None, 2 * 30), (1000, 30 + 15), (0, 30)])
def test_the_baseline_sees_labelled_images_alone(labelled: int | None, steps: int) -> None:
    body = {"teacher": {"id": "t"}, "dataset": {"id": "d"}, "student": {"architecture": "resnet8"}}
    spec = DistillSpec.model_validate({**body, "training": {"epochs": 3, "batch_size": 200}})

    resolved = plan.resolve(spec, num_images=2000, num_labelled=labelled)

    assert resolved.training.baseline == (labelled != 0)
    assert plan.total_steps(resolved, num_images=2000, num_labelled=labelled) == steps
