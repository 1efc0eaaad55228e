"""A budget in place of an architecture: estimated, taken, refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

Body = dict[str, Any]


def within(body: Body, **limits: int) -> Body:
    return body | {"student": {"budget": limits}}


def estimate(client: httpx.Client, body: Body) -> dict[str, Any]:
    return dict(client.post("/distill/estimate", json=body).raise_for_status().json())


def flaws(answer: httpx.Response) -> list[tuple[str, str]]:
    assert answer.status_code == 422, answer.text
    return [(flaw["pointer"], flaw["code"]) for flaw in answer.json()["errors"]]


def test_three_networks_are_proposed_with_their_figures(client: httpx.Client, body: Body) -> None:
    """The teacher is a resnet8 of 77,754 parameters, for three classes and grey images of 8 x 8."""
    found = estimate(client, within(body, parameters=50_000, macs=2_000_000))
    assert found["object"] == "distill.estimate"
    assert len(found["students"]) == 3
    for student in found["students"]:
        assert student["parameters"] <= 50_000
        assert student["macs"] <= 2_000_000
        assert student["file_bytes"] > 4 * student["parameters"]
        assert student["used"]["parameters"] == pytest.approx(student["parameters"] / 50_000, abs=1e-4)
        assert student["used"]["macs"] == pytest.approx(student["macs"] / 2_000_000, abs=1e-4)
        assert student["stages"]
    best = found["students"][0]
    assert best["name"].startswith("resnet")
    assert found["config_resolved"]["student"]["architecture"] == best["name"]
    assert "seconds" not in str(found.keys())
    assert client.get("/distill").json()["data"] == []


def test_the_job_takes_the_best_one_and_says_so(client: httpx.Client, body: Body) -> None:
    asked = within(body, parameters=50_000)
    best = estimate(client, asked)["students"][0]
    job = client.post("/distill", json=asked).raise_for_status().json()
    assert job["config"]["student"]["budget"]["parameters"] == 50_000
    resolved = job["config_resolved"]["student"]
    assert (resolved["architecture"], resolved["options"], resolved["budget"]) == (best["name"], best["options"], None)
    assert (job["student"]["architecture"], job["student"]["parameters"]) == (best["name"], best["parameters"])
    assert job["student"]["budget"]["asked"] == {"parameters": 50_000}
    assert job["student"]["budget"]["proposed"][0] == best
    again = client.post("/distill", json=body | {"student": resolved}).raise_for_status().json()
    assert again["student"]["budget"] is None


def test_a_job_that_waits_for_its_inputs_chooses_when_they_are_ready(
    client: httpx.Client, teacher_id: str, dataset_id: str, prepare: Callable[[], None]
) -> None:
    body = within({"teacher": {"id": teacher_id}, "dataset": {"id": dataset_id}}, parameters=50_000)
    assert estimate(client, body) | {"waiting_for": ""} == {
        "object": "distill.estimate",
        "students": [],
        "config_resolved": None,
        "total_steps": None,
        "memory": None,
        "warnings": [],
        "waiting_for": "",
    }
    job = client.post("/distill", json=body).raise_for_status().json()
    assert job["config_resolved"] is None
    assert client.get(f"/jobs/{job['id']}").status_code == 200
    prepare()
    job = client.get(f"/distill/{job['id']}").json()
    assert job["config_resolved"]["student"]["architecture"] == job["student"]["architecture"]
    assert job["student"]["parameters"] <= 50_000


def test_an_estimate_of_a_named_student_has_its_figures_steps_and_memory(client: httpx.Client, body: Body) -> None:
    body["training"] |= {"augmentation": "flip"}
    found = estimate(client, body)
    (student,) = found["students"]
    assert (student["name"], student["options"]["width"], student["used"]) == ("resnet8", 0.5, {})
    assert found["total_steps"] == 2 * 4 * 3
    # 18 images of 8 x 8; the 64 features of 12 of them in two views.
    assert found["memory"] == {"images_bytes": 18 * 64, "teacher_features_bytes": 12 * 2 * 64 * 4}
    assert found["warnings"] == []
    assert estimate(client, body | {"method": {"type": "at"}})["memory"]["teacher_features_bytes"] is None
    assert estimate(client, body | {"method": {"type": "ce"}})["memory"]["teacher_features_bytes"] == 0
    for method in ({"type": "simkd"}, {"type": "srrl", "srrl": {"head": "teacher"}}):
        (warning,) = estimate(client, body | {"method": method})["warnings"]
        assert "on top of" in warning


def test_a_budget_that_is_too_small_tells_what_would_do(client: httpx.Client, body: Body) -> None:
    answer = client.post("/distill", json=within(body, parameters=50))
    assert flaws(answer) == [("/student/budget", "invalid_value")]
    assert "parameters" in answer.json()["errors"][0]["hint"]
    assert client.get("/distill").json()["data"] == []


@pytest.mark.parametrize(
    ("student", "pointer", "code"),
    [
        ({"budget": {}}, "/student/budget", "invalid_value"),
        ({"budget": {"parameters": 0}}, "/student/budget/parameters", "invalid_value"),
        ({"budget": {"latency_ms": 5}}, "/student/budget/latency_ms", "unknown_field"),
        ({"budget": {"parameters": 9}, "architecture": "resnet8"}, "/student", "invalid_value"),
        ({"budget": {"parameters": 9}, "options": {"width": 0.5}}, "/student", "invalid_value"),
        ({"budget": {"parameters": 9}, "init": {"upload_id": "up"}}, "/student", "invalid_value"),
        ({}, "/student/architecture", "missing_field"),
        ({"budget": None}, "/student/architecture", "missing_field"),
    ],
)
def test_what_no_budget_is(client: httpx.Client, body: Body, student: Body, pointer: str, code: str) -> None:
    for path in ("/distill", "/distill/estimate"):
        assert flaws(client.post(path, json=body | {"student": student})) == [(pointer, code)]


def test_networks_that_the_method_cannot_use_are_passed_over(client: httpx.Client, body: Body) -> None:
    method = {"type": "srrl", "srrl": {"stages": ["stage3"]}}
    for student in estimate(client, within(body, parameters=50_000) | {"method": method})["students"]:
        assert len(student["stages"]) >= 3


def test_a_method_that_no_network_can_use_is_what_is_refused(client: httpx.Client, body: Body) -> None:
    method = {"type": "srrl", "srrl": {"stages": ["stage9"]}}
    answer = client.post("/distill", json=within(body, parameters=50_000) | {"method": method})
    assert {pointer for pointer, _ in flaws(answer)} == {"/method/srrl/stages/0"}


def test_a_recipe_leaves_the_student_to_the_budget(client: httpx.Client, body: Body) -> None:
    asked = within(body, parameters=50_000) | {"recipe": "srrl/cifar100/wrn40x4-wrn16x4"}
    found = client.post("/distill", params={"dry_run": "true"}, json=asked).raise_for_status().json()
    assert "/student/architecture" in found["facts"]["published"]["departures"]


def test_a_sweep_varies_the_budget(client: httpx.Client, sweep: Body) -> None:
    sweep["base"]["student"] = {"budget": {"parameters": 1}}
    sizes = {"path": "/student/budget/parameters", "values": [20_000, 50_000]}
    made = client.post("/distill/sweep", json=sweep | {"axes": [sizes]}).raise_for_status().json()
    jobs = [client.get(f"/distill/{child['id']}").json()["student"]["parameters"] for child in made["children"]]
    assert jobs[0] <= 20_000 < jobs[1] <= 50_000
    answer = client.post("/distill/sweep", json=sweep | {"axes": [sizes | {"values": [50, 50_000]}]})
    assert flaws(answer) == [("/base/student/budget", "invalid_value")]
