from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from distill import plan, recipes
from distill.errors import InputError
from distill.spec import DistillSpec


def request(id: str, **more: Any) -> dict[str, Any]:
    return {"recipe": id, "teacher": {"id": "tch_1"}, "dataset": {"id": "ds_1"}, **more}


class TestCompletion:
    ID = "srrl/fashion-mnist-5k/resnet14-resnet8/teacher-head"

    def test_the_request_goes_first(self) -> None:
        body = request(
            self.ID,
            student={"options": {"width": 0.25}},
            method={"srrl": {"feature_weight": 2.0}},
            training={"batch_size": 32, "seed": 4},
        )
        spec = DistillSpec.model_validate(body)
        assert spec.student.model_dump(include={"architecture", "options"}) == {
            "architecture": "resnet8",
            "options": {"width": 0.25, "stem_stride": 2},
        }
        assert spec.method.model_dump(exclude_unset=True) == {
            "type": "srrl",
            "srrl": {"feature_weight": 2.0, "head": "teacher"},
        }
        assert (spec.training.batch_size, spec.training.seed, spec.training.epochs) == (32, 4, 40)
        assert body["training"] == {"batch_size": 32, "seed": 4}

    def test_another_method_is_not_given_this_one_s_settings(self) -> None:
        done = recipes.complete(request(self.ID, method={"type": "ce"}))
        assert done["method"] == {"type": "ce"}
        assert done["training"]["epochs"] == 40

    def test_another_student_is_not_given_this_one_s_options(self) -> None:
        done = recipes.complete(request(self.ID, student={"architecture": "resnet20"}))
        assert done["student"] == {"architecture": "resnet20"}

    @pytest.mark.parametrize(
        ("training", "gone"),
        [
            ({"epochs": 30}, {"milestones"}),
            ({"epochs": "auto"}, {"milestones"}),
            ({"epochs": 240}, set()),
            ({"schedule": "cosine"}, {"milestones", "gamma"}),
            ({"augmentation": "flip"}, {"views"}),
            ({"epochs": 30, "milestones": [20]}, set()),
        ],
    )
    def test_what_belongs_together_is_left_out_together(self, training: dict[str, Any], gone: set[str]) -> None:
        id = "srrl/cifar100/wrn40x4-wrn16x4"
        done = recipes.complete(request(id, training=training))["training"]
        assert recipes.find(id).training.keys() - done.keys() == gone
        assert done == {**{k: v for k, v in recipes.find(id).training.items() if k not in gone}, **training}
        DistillSpec.model_validate(request(id, training=training))

    def test_a_shortened_recipe_keeps_its_shape(self) -> None:
        spec = DistillSpec.model_validate(request("srrl/cifar100/wrn40x4-wrn16x4", training={"epochs": 24}))
        assert plan.resolve(spec, num_images=50_000).training.milestones == [15, 18, 21]

    def test_an_uploaded_teacher_is_taken_for_the_recipe_s(self) -> None:
        options = {"width": 1.5, "stem_stride": 2}
        done = recipes.complete(request(self.ID, teacher={"upload_id": "up_1"}))
        assert done["teacher"] == {"upload_id": "up_1", "architecture": "resnet14", "options": options}
        other = {"upload_id": "up_1", "architecture": "resnet20"}
        assert recipes.complete(request(self.ID, teacher=other))["teacher"] == other
        assert recipes.complete(request(self.ID))["teacher"] == {"id": "tch_1"}

    @pytest.mark.parametrize("part", ["student", "method", "training", "teacher"])
    @pytest.mark.parametrize("value", [None, 5, "x", []])
    def test_what_is_no_object_is_left_to_be_refused(self, part: str, value: object) -> None:
        assert recipes.complete(request(self.ID, **{part: value}))[part] == value
        with pytest.raises(ValidationError):
            DistillSpec.model_validate(request(self.ID, **{part: value}))

    def test_without_a_recipe_nothing_is_added(self) -> None:
        assert recipes.complete({"student": {}}) == {"student": {}}
        assert recipes.complete({"recipe": None}) == {"recipe": None}

    def test_completing_does_not_change_the_recipe(self) -> None:
        before = recipes.find(self.ID).as_json()
        spec = DistillSpec.model_validate(request(self.ID))
        assert isinstance(spec.training.milestones, list | str)
        assert recipes.find(self.ID).as_json() == before


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("srrl/cifar100/wrn40x4-wrn16x3", "srrl/cifar100/wrn40x4-wrn16x4"),
        ("SRRL/cifar-100/wrn40x4-wrn16x4", "srrl/cifar100/wrn40x4-wrn16x4"),
        ("crd/imagenet/resnet34-resnet1", "crd/imagenet/resnet34-resnet18"),
    ],
)
def test_an_unknown_recipe_is_told_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        recipes.find(asked)
    assert (caught.value.code, caught.value.param) == ("recipe_unknown", "/recipe")
    assert near in caught.value.did_you_mean
    with pytest.raises(ValidationError) as refused:
        DistillSpec.model_validate(request(asked))
    (error,) = refused.value.errors()
    assert (error["type"], error["loc"]) == ("recipe_unknown", ("recipe",))


def test_braces_in_an_id_stay_what_they_are() -> None:
    with pytest.raises(ValidationError) as refused:
        DistillSpec.model_validate(request("{hint} {0}"))
    assert "no recipe '{hint} {0}'" in refused.value.errors()[0]["msg"]
