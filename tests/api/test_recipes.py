from __future__ import annotations

from typing import Any

import httpx
import pytest

from distill import events, recipes

Body = dict[str, Any]
FASHION = "srrl/fashion-mnist-5k/resnet14-resnet8"
WRN = "srrl/cifar100/wrn40x4-wrn16x4"


def inputs_of(body: Body) -> Body:
    return {name: body[name] for name in ("teacher", "dataset")}


def dry_run(client: httpx.Client, body: Body) -> httpx.Response:
    return client.post("/distill", params={"dry_run": "true"}, json=body)


class TestList:
    def test_every_recipe_is_listed_in_full(self, client: httpx.Client) -> None:
        answer = client.get("/recipes").json()
        assert answer["object"] == "list"
        assert [recipe["id"] for recipe in answer["data"]] == recipes.ids()
        row = next(recipe for recipe in answer["data"] if recipe["id"] == WRN)
        assert row["published"] == {
            "top1": 0.7958,
            "teacher_top1": 0.795,
            "baseline_top1": 0.7697,
            "rivals": {"kd": 0.7835, "at": 0.7806, "ofd": 0.7929, "rkd": 0.7838, "crd": 0.7883},
            "source": "[paper] Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021",
        }
        assert row["dataset"] == {
            "name": "CIFAR-100",
            "preset": "cifar-100",
            "classes": 100,
            "train": 50_000,
            "image_side": 32,
        }
        assert row["training"]["milestones"] == [150, 180, 210]
        assert row["notes"]

    def test_by_words_and_by_method(self, client: httpx.Client) -> None:
        def found(**params: str) -> list[str]:
            return [recipe["id"] for recipe in client.get("/recipes", params=params).json()["data"]]

        assert found(q="cifar10 resnet8") == [
            f"{m}/cifar10/resnet26-resnet8" for m in ("ce", "kd", "at", "rkd", "srrl")
        ]
        assert found(q="conv3", method="srrl") == [f"{WRN}/both-conv3", f"{WRN}/both-conv2-3-4"]
        assert found(method="dist") == ["dist/imagenet/resnet34-resnet18", "dist/imagenet/resnet50-mobilenetv1"]
        assert found(q="nothing of the kind") == []


class TestRequest:
    def test_an_id_is_enough_beside_teacher_and_data(self, client: httpx.Client, body: Body) -> None:
        plan = dry_run(client, {**inputs_of(body), "recipe": FASHION}).raise_for_status().json()
        config = plan["config_resolved"]
        assert config["recipe"] == FASHION
        assert config["student"]["architecture"] == "resnet8"
        assert config["student"]["options"] == {"width": 0.5, "stem_stride": 2}
        training = config["training"]
        assert (training["epochs"], training["batch_size"], training["views"]) == (40, 64, 2)
        assert plan["facts"]["recipe_base"] == "small-data"
        assert plan["facts"]["published"]["top1"] == 0.8933
        assert plan["facts"]["published"]["departures"] == ["/teacher/architecture", "/dataset"]

    def test_a_published_recipe_comes_in_its_full_length(self, client: httpx.Client, body: Body) -> None:
        plan = dry_run(client, {**inputs_of(body), "recipe": WRN}).raise_for_status().json()
        training = plan["config_resolved"]["training"]
        assert (training["epochs"], training["milestones"], training["learning_rate"]) == (240, [150, 180, 210], 0.05)
        assert (training["nesterov"], training["schedule"], training["views"]) == (False, "step", "fresh")
        assert plan["facts"]["recipe_base"] == "cifar"

    def test_without_a_recipe_the_nearest_is_told(self, client: httpx.Client, body: Body) -> None:
        plan = dry_run(client, body).raise_for_status().json()
        assert plan["facts"]["recipe_base"] == "small-data"
        assert plan["facts"]["published"] is None
        assert plan["config_resolved"]["recipe"] is None

    def test_what_the_request_says_goes_first(self, client: httpx.Client, body: Body) -> None:
        asked = {**inputs_of(body), "recipe": FASHION, "training": {"epochs": 3}, "student": body["student"]}
        job = client.post("/distill", json=asked).raise_for_status().json()
        assert job["config"]["recipe"] == FASHION
        assert (job["config"]["training"]["epochs"], job["config_resolved"]["training"]["epochs"]) == (3, 3)
        assert job["config"]["student"]["options"] == {"width": 0.5, "stem_stride": 2}
        assert client.get(f"/distill/{job['id']}").json() == job

    @pytest.mark.parametrize("student", [{}, {"student": {"architecture": "resnet8"}}])
    def test_an_unknown_recipe_is_told_the_nearest(self, client: httpx.Client, body: Body, student: Body) -> None:
        asked = {**inputs_of(body), **student, "recipe": "srrl/cifar100/wrn40x4-wrn16x3"}
        answer = client.post("/distill", json=asked)
        problem = answer.json()
        assert (answer.status_code, problem["code"]) == (422, "recipe_unknown")
        (flaw,) = problem["errors"]
        assert (flaw["pointer"], flaw["code"], flaw["did_you_mean"][0]) == ("/recipe", "recipe_unknown", WRN)
        assert (flaw["hint"], problem["hint"]) == ("GET /recipes lists them", "GET /recipes lists them")
        assert "'srrl/cifar100/wrn40x4-wrn16x3'" in flaw["detail"]
        assert client.get("/distill").json()["data"] == []

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"recipe": 5}, "/recipe"),
            ({"recipe": FASHION, "training": {"milestones": [3, 2]}}, "/training/milestones"),
            ({"training": {"milestones": [3, 2]}}, "/training/milestones"),
            ({"training": {"milestones": [2, 4], "epochs": 4}}, "/training/milestones"),
            ({"training": {"milestones": [0]}}, "/training/milestones"),
            ({"training": {"milestones": "soon"}}, "/training/milestones"),
            ({"training": {"nesterov": True, "momentum": 0}}, "/training/nesterov"),
            ({"training": {"momentum": 1}}, "/training/momentum"),
        ],
    )
    def test_a_flaw_is_found_where_it_is(self, client: httpx.Client, body: Body, changes: Body, pointer: str) -> None:
        answer = client.post("/distill", json={**body, **changes})
        assert answer.status_code == 422
        (flaw,) = answer.json()["errors"]
        assert (flaw["pointer"], flaw["code"]) == (pointer, "invalid_value")

    def test_a_body_without_student_needs_a_recipe(self, client: httpx.Client, body: Body) -> None:
        problem = client.post("/distill", json=inputs_of(body)).json()
        assert [(flaw["pointer"], flaw["code"]) for flaw in problem["errors"]] == [("/student", "missing_field")]
        schema = client.get("/schemas/distill.json").json()
        assert schema["required"] == ["teacher", "dataset"]
        assert schema["anyOf"] == [{"required": ["student"]}, {"required": ["recipe"]}]


PUBLISHED = {
    "recipe": WRN,
    "title": "SRRL: WRN-40-4 → WRN-16-4 on CIFAR-100",
    "top1": 0.7958,
    "teacher_top1": 0.795,
    "baseline_top1": 0.7697,
    "rivals": {"kd": 0.7835, "crd": 0.7883},
    "source": "[paper] the paper",
    "departures": ["/training/epochs"],
}
REPORT = {
    "method": "srrl",
    "teacher": {"top1": 0.7911},
    "student": {"top1": 0.7803},
    "baseline": {"top1": 0.7602},
}


def test_a_report_answers_what_was_published(client: httpx.Client, running: Any) -> None:
    running.record(events.Report(report={**REPORT, "published": PUBLISHED}))
    assert client.get(f"/distill/{running.job_id}/report").json()["published"] == PUBLISHED


def test_a_job_s_page_shows_published_beside_measured(client: httpx.Client, running: Any) -> None:
    running.record(events.Report(report={**REPORT, "published": PUBLISHED}))
    running.finish()
    page = client.get(f"/jobs/{running.job_id}").text
    rows = {row.split("</th>")[0]: row for row in page.replace("\n", "").split("<tr><th>")}
    shown = [cell.split("</td>")[0].split(">")[-1] for cell in rows["Accuracy as published"].split("<td")[1:]]
    assert shown == ["79.50 %", "76.97 %", "79.58 %"]
    for said in (
        "SRRL: WRN-40-4 → WRN-16-4 on CIFAR-100: published with 79.58 % ([paper] the paper).",
        "Other methods on the same pair: KD 78.35 %, CRD 78.83 %.",
        "This run departs from the recipe in /training/epochs.",
    ):
        assert said in page


@pytest.mark.parametrize("published", [{}, {"published": None}])
def test_a_page_without_a_recipe_has_no_such_row(client: httpx.Client, running: Any, published: Body) -> None:
    running.record(events.Report(report={**REPORT, **published}))
    running.finish()
    page = client.get(f"/jobs/{running.job_id}").text
    assert "78.03 %" in page
    assert "published" not in page
    assert client.get(f"/distill/{running.job_id}/report").json()["published"] is None
