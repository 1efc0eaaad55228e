"""Methods that cannot be used between two networks are refused before anything is queued, and with a way out."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

Body = dict[str, Any]


@pytest.mark.parametrize(
    ("method", "pointer"),
    [
        ({"type": "srrl", "srrl": {"stages": ["stage1", "stage4"]}}, "/method/srrl/stages/1"),
        ({"type": "srrl", "srrl": {"regression_stages": ["stage9"]}}, "/method/srrl/regression_stages/0"),
        ({"type": "fitnet", "fitnet": {"stage": "stage4"}}, "/method/fitnet/stage"),
        (
            {"type": "kd", "extra": [{"type": "srrl", "srrl": {"feature_stages": ["last", "stage5"]}}]},
            "/method/extra/0/srrl/feature_stages/1",
        ),
    ],
)
def test_a_stage_that_is_not_there(client: httpx.Client, body: Body, method: Body, pointer: str) -> None:
    answer = client.post("/distill", json=body | {"method": method})

    assert answer.status_code == 422
    flaws = answer.json()["errors"]
    assert {(flaw["pointer"], flaw["code"]) for flaw in flaws} == {(pointer, "invalid_value")}
    assert flaws[0]["did_you_mean"] == ["stage1", "stage2", "stage3", "last"]
    assert "it has 3 stages" in flaws[0]["detail"]
    assert client.get("/distill").json()["data"] == []


@pytest.mark.parametrize(
    ("method", "pointer"),
    [
        ({"type": "kd", "kd": {"weight": 0, "label_weight": 0}}, "/method/kd"),
        (
            {"type": "srrl", "srrl": {"feature_weight": 0, "regression_weight": 0, "label_weight": 0}},
            "/method/srrl",
        ),
        ({"type": "dist", "dist": {"inter_weight": 0, "intra_weight": 0, "label_weight": 0}}, "/method/dist"),
    ],
)
def test_nothing_that_could_be_learnt(client: httpx.Client, body: Body, method: Body, pointer: str) -> None:
    answer = client.post("/distill", json=body | {"method": method})

    assert answer.status_code == 422
    (flaw,) = answer.json()["errors"]
    assert (flaw["pointer"], flaw["code"]) == (pointer, "invalid_value")
    assert "nothing would be learnt" in flaw["detail"]


def test_a_connector_of_a_method_without_one(client: httpx.Client, body: Body) -> None:
    outputs = {"outputs": ["safetensors", "connector"]}

    answer = client.post("/distill", json=body | outputs | {"method": {"type": "kd"}})

    assert answer.status_code == 422
    (flaw,) = answer.json()["errors"]
    assert (flaw["pointer"], flaw["code"]) == ("/outputs/1", "invalid_value")
    assert "kd has none" in flaw["detail"]
    with_srrl = {"method": {"type": "kd", "extra": [{"type": "srrl"}]}}
    for able in ({}, with_srrl):
        assert client.post("/distill?dry_run=true", json=body | outputs | able).status_code == 200


@pytest.mark.parametrize(
    ("architecture", "near"), [("resnett8", "resnet8"), ("binary_resnet", "binary_resnet8"), ("wrn16_2", "wrn_16_2")]
)
def test_a_student_of_an_unknown_name(client: httpx.Client, body: Body, architecture: str, near: str) -> None:
    answer = client.post("/distill", json=body | {"student": {"architecture": architecture}})

    assert answer.status_code == 422
    (flaw,) = answer.json()["errors"]
    assert (flaw["pointer"], flaw["code"]) == ("/student/architecture", "architecture_unknown")
    assert near in flaw["did_you_mean"]
