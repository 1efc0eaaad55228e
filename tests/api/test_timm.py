from __future__ import annotations

from typing import Any

import httpx
import pytest


def refused(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(error["code"], error["pointer"]) for error in answer.json()["errors"]]


def test_a_network_of_timm_is_planned_without_being_built(client: httpx.Client, body: dict[str, Any]) -> None:
    planned = client.post("/distill?dry_run=true", json={**body, "student": {"architecture": "timm/test_resnet"}})

    facts = planned.raise_for_status().json()["facts"]["student"]
    assert 300_000 < facts["parameters"] < 600_000
    assert facts["num_classes"] == 3


def test_a_misspelt_network_of_timm_is_refused_with_the_nearest(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/distill?dry_run=true", json={**body, "student": {"architecture": "timm/test_resnett"}})

    assert refused(answer) == [("architecture_unknown", "/student/architecture")]
    assert "timm/test_resnet" in answer.json()["errors"][0]["did_you_mean"]


@pytest.mark.parametrize(
    ("method", "pointer"),
    [
        ({"type": "simkd"}, "/method/type"),
        ({"type": "srrl", "srrl": {"stages": ["stage9"]}}, "/method/srrl/stages/0"),
        (
            {"type": "kd", "extra": [{"type": "srrl", "srrl": {"stages": ["last", "stage8"]}}]},
            "/method/extra/0/srrl/stages/1",
        ),
    ],
)
def test_what_a_vision_transformer_cannot_do_is_refused_before_anything_is_queued(
    client: httpx.Client, body: dict[str, Any], method: dict[str, Any], pointer: str
) -> None:
    asked = {**body, "student": {"architecture": "timm/test_vit"}, "method": method}
    answer = client.post("/distill", json=asked)

    assert {("invalid_value", pointer)} <= set(refused(answer))
    assert client.get("/distill").json()["data"] == []


def test_networks_of_timm_are_found_by_a_part_of_their_name(client: httpx.Client) -> None:
    found = {n["name"]: n for n in client.get("/networks", params={"q": "timm/test_"}).json()["data"]}

    vit = found["timm/test_vit"]
    assert vit["family"] == "timm"
    assert vit["input"]["fixed"]
    assert len(vit["preprocessing"]["mean"]) == 3
    assert vit["roles"] == ["teacher", "student"]
    assert not vit["pools"]
    assert not any(n["name"].startswith("timm/") for n in client.get("/networks").json()["data"])
