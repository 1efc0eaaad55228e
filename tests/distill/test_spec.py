from __future__ import annotations

import json
import math
from typing import Any

import pytest
from pydantic import ValidationError

from distill.method_specs import CEMethod, SRRLMethod, method_schemas
from distill.spec import DistillSpec

SHORTEST: dict[str, Any] = {
    "teacher": {"id": "tch_1"},
    "student": {"architecture": "resnet8"},
    "dataset": {"id": "ds_1"},
}
FULL: dict[str, Any] = {
    "name": "a run",
    "priority": "high",
    "teacher": {
        "upload_id": "upl_1",
        "architecture": "wrn_40_2",
        "options": {"width": 2.0, "stem_stride": 2},
        "classes": ["cat", "dog"],
        "preprocessing": {"mean": [0.5], "std": [0.25], "channels": "rgb"},
    },
    "student": {"architecture": "wrn_16_1", "options": {"width": 0.5, "stem_stride": 1}},
    "dataset": {"upload_id": "upl_2", "format": "imagefolder"},
    "method": {
        "type": "srrl",
        "srrl": {
            "feature_weight": 0.5,
            "regression_weight": 2.0,
            "label_weight": 0.0,
            "regression_loss": "kl",
            "reduction": "sum",
            "activation": "none",
            "head": "teacher",
            "stages": ["stage1", "last"],
            "feature_stages": ["stage2"],
        },
        "extra": [{"type": "kd", "kd": {"label_weight": 0.1, "weight": 0.5, "temperature": 2.0}, "extra": []}],
    },
    "training": {
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 0.05,
        "weight_decay": 0.0001,
        "optimizer": "sgd",
        "momentum": 0.8,
        "nesterov": False,
        "schedule": "cosine",
        "milestones": [],
        "gamma": 0.2,
        "augmentation": "crop_flip",
        "views": "fresh",
        "precision": "bf16",
        "device": "cpu",
        "seed": 7,
        "baseline": False,
        "max_runtime_seconds": 600,
    },
    "outputs": ["safetensors", "connector"],
    "metadata": {"project": "x"},
}


def changed(pointer: str, value: object) -> dict[str, Any]:
    """The full request with the value at a JSON pointer replaced or added."""
    body: dict[str, Any] = json.loads(json.dumps(FULL))
    *parents, last = pointer.strip("/").split("/")
    place = body
    for parent in parents:
        place = place[parent]
    place[last] = value
    return body


def errors(body: dict[str, Any]) -> list[dict[str, Any]]:
    with pytest.raises(ValidationError) as caught:
        DistillSpec.model_validate(body)
    return [dict(error) for error in caught.value.errors()]


def test_full_request_survives_json_unchanged() -> None:
    spec = DistillSpec.model_validate(FULL)
    assert DistillSpec.model_validate_json(spec.model_dump_json()) == spec
    assert DistillSpec.model_validate(spec.model_dump(mode="json")) == spec
    assert spec.model_dump(mode="json", exclude_none=True) == FULL


def test_shortest_request_gets_the_published_defaults() -> None:
    spec = DistillSpec.model_validate(SHORTEST)
    assert DistillSpec.model_validate_json(spec.model_dump_json()) == spec
    assert spec.model_dump(mode="json", exclude_none=True) == {
        "name": "",
        "priority": "normal",
        "teacher": {"id": "tch_1", "options": {"width": 1.0, "stem_stride": 1}, "preprocessing": {"channels": "rgb"}},
        "student": {"architecture": "resnet8", "options": {"width": 1.0, "stem_stride": 1}},
        "dataset": {"id": "ds_1", "format": "auto"},
        "method": {
            "type": "srrl",
            "srrl": {
                "feature_weight": 1.0,
                "regression_weight": 1.0,
                "label_weight": 1.0,
                "regression_loss": "l2",
                "reduction": "mean",
                "activation": "auto",
                "head": "own",
                "stages": ["last"],
            },
            "extra": [],
        },
        "training": {
            "epochs": "auto",
            "batch_size": "auto",
            "learning_rate": "auto",
            "weight_decay": "auto",
            "optimizer": "sgd",
            "momentum": 0.9,
            "nesterov": "auto",
            "schedule": "auto",
            "milestones": "auto",
            "gamma": 0.1,
            "augmentation": "auto",
            "views": "auto",
            "precision": "auto",
            "device": "auto",
            "seed": 0,
            "baseline": True,
            "max_runtime_seconds": 14400,
        },
        "outputs": ["safetensors"],
        "metadata": {},
    }


@pytest.mark.parametrize(
    "place", ["", "/teacher", "/teacher/options", "/student", "/dataset", "/method", "/method/srrl", "/training"]
)
def test_misspelt_field_is_refused_wherever_it_stands(place: str) -> None:
    (error,) = errors(changed(f"{place}/epoch", 3))
    assert error["type"] == "extra_forbidden"
    assert error["loc"][-1] == "epoch"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize(
    "pointer",
    [
        "/student/options/width",
        "/method/srrl/feature_weight",
        "/method/srrl/regression_weight",
        "/method/srrl/label_weight",
        "/training/learning_rate",
        "/training/weight_decay",
        "/training/epochs",
    ],
)
def test_numbers_must_be_finite(pointer: str, value: float) -> None:
    assert errors(changed(pointer, value))
    with pytest.raises(ValidationError):
        DistillSpec.model_validate_json(json.dumps(changed(pointer, value)))  # Python writes NaN and reads it


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("/training/epochs", 0),
        ("/training/epochs", 1001),
        ("/training/epochs", 1.5),
        ("/training/epochs", "often"),
        ("/training/batch_size", 1),
        ("/training/batch_size", 8193),
        ("/training/learning_rate", 0),
        ("/training/learning_rate", 10.5),
        ("/training/weight_decay", -0.1),
        ("/training/optimizer", "adam"),
        ("/training/momentum", 1),
        ("/training/nesterov", "yes"),
        ("/training/gamma", 0),
        ("/training/milestones", [0]),
        ("/training/milestones", "late"),
        ("/recipe", 5),
        ("/training/views", 0),
        ("/training/seed", -1),
        ("/training/seed", 2**32),
        ("/training/max_runtime_seconds", 9),
        ("/student/options/width", 0),
        ("/student/options/width", 17),
        ("/student/options/stem_stride", 3),
        ("/method/srrl/feature_weight", -1),
        ("/method/srrl/head", "both"),
        ("/outputs", ["onnx"]),
        ("/outputs", ["safetensors"] * 3),
        ("/name", "x" * 201),
        ("/metadata", {"k" * 65: "v"}),
        ("/metadata", {"k": "v" * 513}),
        ("/metadata", {str(number): "v" for number in range(17)}),
    ],
)
def test_values_outside_their_range_are_refused(pointer: str, value: object) -> None:
    assert errors(changed(pointer, value))


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"milestones": [2, 2]}, "must rise"),
        ({"milestones": [3, 1]}, "must rise"),
        ({"milestones": [1, 4], "epochs": 4}, "the milestone 4 is not before the end, after 4 epochs"),
        ({"milestones": [1], "epochs": 4, "schedule": "cosine"}, "schedule step, not to cosine"),
    ],
)
def test_milestones_rise_within_a_stepped_run(training: dict[str, Any], words: str) -> None:
    (error,) = errors({**SHORTEST, "training": training})
    assert error["loc"] == ("training", "milestones")
    assert words in error["msg"]


@pytest.mark.parametrize(
    "training",
    [
        {"milestones": [1, 3], "epochs": 4},
        {"milestones": [1, 300], "schedule": "step"},
        {"milestones": [], "schedule": "one_cycle"},
        {"nesterov": True, "momentum": 0.5},
        {"nesterov": False, "momentum": 0},
    ],
)
def test_schedules_and_momenta_that_can_be(training: dict[str, Any]) -> None:
    spec = DistillSpec.model_validate({**SHORTEST, "training": training})
    assert spec.training.model_dump(include=set(training)) == training


def test_nesterov_needs_momentum() -> None:
    (error,) = errors({**SHORTEST, "training": {"nesterov": True, "momentum": 0}})
    assert error["loc"][:2] == ("training", "nesterov")


def test_specs_cannot_be_changed() -> None:
    spec = DistillSpec.model_validate(FULL)
    with pytest.raises(ValidationError, match="frozen"):
        spec.training.seed = 1  # type: ignore[misc]


def test_defaults_are_not_shared() -> None:
    first, second = DistillSpec.model_validate(SHORTEST), DistillSpec.model_validate(SHORTEST)
    first.metadata["seen"] = "yes"
    first.outputs.append("connector")
    assert (second.metadata, second.outputs) == ({}, ["safetensors"])


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({}, "exactly one of id, upload_id and hub"),
        ({"id": "tch_1", "upload_id": "upl_1", "architecture": "resnet8"}, "exactly one of id, upload_id and hub"),
        ({"upload_id": "upl_1", "hub": "hf-hub:owner/name"}, "exactly one of id, upload_id and hub"),
        ({"architecture": "resnet8"}, "exactly one of id, upload_id and hub"),
        ({"upload_id": "upl_1", "revision": "main"}, "revision belongs to hub"),
        ({"hub": "hf-hub:owner/name", "architecture": "resnet8"}, "says its architecture itself"),
    ],
)
def test_teacher_is_named_in_one_way(reference: dict[str, str], message: str) -> None:
    (error,) = errors({**SHORTEST, "teacher": reference})
    assert message in error["msg"]
    assert error["loc"] == ("teacher",)


@pytest.mark.parametrize(
    "reference",
    [{}, {"id": "ds_1", "upload_id": "upl_1"}, {"format": "npz"}, {"preset": "mnist", "upload_id": "upl_1"}],
)
def test_data_set_is_named_in_one_way(reference: dict[str, str]) -> None:
    (error,) = errors({**SHORTEST, "dataset": reference})
    assert "exactly one of id, upload_id, preset and url" in error["msg"]


def test_data_set_may_be_a_preset() -> None:
    assert DistillSpec.model_validate({**SHORTEST, "dataset": {"preset": "cifar-100"}}).dataset.preset == "cifar-100"


def test_type_chooses_the_method() -> None:
    def method(body: dict[str, Any]) -> object:
        return DistillSpec.model_validate({**SHORTEST, "method": body}).method

    assert isinstance(method({"type": "ce"}), CEMethod)
    assert isinstance(method({"type": "srrl"}), SRRLMethod)
    assert isinstance(method({"type": "srrl", "srrl": {"head": "teacher"}}), SRRLMethod)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ({"type": "ofd"}, "union_tag_invalid"),
        ({}, "union_tag_not_found"),
        ({"type": "ce", "srrl": {}}, "extra_forbidden"),
    ],
)
def test_other_methods_are_refused_with_one_error(method: dict[str, Any], kind: str) -> None:
    (error,) = errors({**SHORTEST, "method": method})
    assert error["type"] == kind


@pytest.mark.parametrize(
    ("settings", "is_taught"),
    [
        ({"stages": ["stage2", "last"]}, True),
        ({"feature_stages": ["stage2"]}, True),
        ({"stages": ["stage2"]}, False),
        ({"feature_stages": ["stage2"], "regression_weight": 0.0}, False),
        ({"regression_weight": 0.0, "feature_weight": 0.0}, False),
    ],
)
def test_the_teachers_head_needs_a_loss_at_the_layer_before_it(settings: dict[str, Any], is_taught: bool) -> None:
    SRRLMethod.model_validate({"type": "srrl", "srrl": settings})  # the student's own head does not
    reused = {"type": "srrl", "srrl": {**settings, "head": "teacher"}}
    if is_taught:
        SRRLMethod.model_validate(reused)
        return
    with pytest.raises(ValidationError, match="the connector before it would learn nothing"):
        SRRLMethod.model_validate(reused)


def test_schemas_describe_every_method_of_the_union() -> None:
    schemas = {entry["type"]: entry for entry in method_schemas()}

    union = DistillSpec.model_json_schema()["properties"]["method"]["discriminator"]["mapping"]
    logits_and_features = {"srrl", "ce", "kd", "dkd", "dist", "rkd", "crd", "pkt", "cc"}
    maps = {"fitnet", "at", "sp", "vid", "nst", "reviewkd", "simkd"}
    assert schemas.keys() == union.keys() == logits_and_features | maps
    assert all(entry["summary"] and json.dumps(entry["schema"]) for entry in schemas.values())
    settings = schemas["srrl"]["schema"]["$defs"]["SRRLSettings"]["properties"]
    defaults = DistillSpec.model_validate(SHORTEST).model_dump(mode="json")["method"]["srrl"]
    assert {name: field["default"] for name, field in settings.items()} == defaults
    assert all(field["description"] for field in settings.values())


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"type": "srrl", "srrl": {"feature_weight": 0, "regression_weight": 0, "label_weight": 0}}, "nothing would"),
        ({"type": "kd", "kd": {"weight": 0, "label_weight": 0}}, "nothing would"),
        ({"type": "rkd", "rkd": {"distance_weight": 0, "angle_weight": 0, "label_weight": 0}}, "nothing would"),
        ({"type": "simkd", "simkd": {"weight": 0}}, "nothing would"),
        ({"type": "kd", "kd": {"weight": -0.1}}, "greater than or equal to 0"),
        ({"type": "srrl", "srrl": {"stages": []}}, "at least 1"),
        ({"type": "srrl", "srrl": {"stages": ["conv4"]}}, "match pattern"),
        ({"type": "srrl", "extra": [{"type": "srrl"}]}, "once"),
        ({"type": "srrl", "extra": [{"type": "kd", "extra": [{"type": "at"}]}]}, "no extra of its own"),
        ({"type": "srrl", "extra": [{"type": "kd", "kd": {"label_weight": 0.5}}]}, "main method alone"),
        ({"type": "srrl", "extra": [{"type": "ce"}]}, "does not match any of the expected tags"),
    ],
)
def test_methods_that_make_no_sense_are_refused(method: dict[str, Any], words: str) -> None:
    (error,) = errors({**SHORTEST, "method": method})
    assert words in error["msg"]


def test_labels_may_weigh_nothing_where_something_else_is_learnt() -> None:
    spec = DistillSpec.model_validate({**SHORTEST, "method": {"type": "at", "at": {"label_weight": 0}}})
    assert spec.method.type == "at"
