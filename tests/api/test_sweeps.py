from __future__ import annotations

import csv
import io
import statistics
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from distill import events
from models import Job, OutboxMessage, Sweep, Teacher
from service import database as database_module
from service import jobs

Body = dict[str, Any]
METHODS = {"path": "/method", "values": [{"type": "srrl"}, {"type": "ce"}]}
SEEDS = {"path": "/training/seed", "values": [0, 1, 2]}


def count(table: type[Any]) -> int:
    with database_module.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def nothing_is_stored(*, teachers: int = 1) -> bool:
    return [count(table) for table in (Sweep, Job, OutboxMessage, Teacher)] == [0, 0, 0, teachers]


@pytest.fixture
def made(client: httpx.Client, sweep: Body) -> dict[str, Any]:
    return dict(client.post("/distill/sweep", json=sweep).raise_for_status().json())


class TestCreate:
    def test_every_combination_is_an_ordinary_job_in_its_turn(self, client: httpx.Client, sweep: Body) -> None:
        answer = client.post("/distill/sweep", json=sweep)
        made = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/distill/sweep/{made['id']}"
        assert (made["object"], made["status"], made["is_terminal"]) == ("distill.sweep", "queued", False)
        assert (made["num_jobs"], made["counts"], made["metadata"]) == (6, {"queued": 6}, {"team": "vision"})
        assert [axis["labels"] for axis in made["axes"]] == [["srrl", "ce"], ["0", "1", "2"]]
        names = [f"compare · {method} · seed {seed}" for method in ("srrl", "ce") for seed in range(3)]
        assert [child["name"] for child in made["children"]] == names

        for place, child in enumerate(made["children"], 1):
            job = client.get(child["links"]["self"]).json()
            assert (job["queue"]["position"], job["queue"]["waiting_for"]) == (place, "worker")
            assert (job["sweep_id"], job["name"]) == (made["id"], child["name"])
            assert [job["config"]["method"]["type"], job["config"]["training"]["seed"]] == [
                child["point"][0]["value"]["type"],
                child["point"][1]["value"],
            ]
            assert [t["status"] for t in job["transitions"]] == ["queued"]
        with database_module.read() as session:
            rung = session.scalars(select(OutboxMessage.job_id).order_by(OutboxMessage.id)).all()
        assert list(rung) == [child["id"] for child in made["children"]]

    def test_an_axis_may_bring_what_the_base_lacks(self, client: httpx.Client, body: Body) -> None:
        del body["student"], body["training"]
        axes = [
            {"path": "/student", "values": [{"architecture": "resnet8"}, {"architecture": "resnet14"}]},
            {"path": "/student/options/width", "values": [0.5, 1.0], "labels": ["half", "whole"]},
            {"path": "/training/seed", "values": [7]},
        ]
        made = client.post("/distill/sweep", json={"base": body, "axes": axes}).raise_for_status().json()
        students = [client.get(f"/distill/{child['id']}").json()["config"]["student"] for child in made["children"]]
        assert [(s["architecture"], s["options"]["width"]) for s in students] == [
            ("resnet8", 0.5), ("resnet8", 1.0), ("resnet14", 0.5), ("resnet14", 1.0),
        ]  # fmt: skip
        assert made["children"][1]["name"] == "tiny · resnet8 · whole · seed 7"
        assert made["base"] == body

    def test_settings_that_share_a_name_are_told_apart(self, client: httpx.Client, sweep: Body) -> None:
        weights = [{"type": "srrl", "srrl": {"feature_weight": w, "regression_weight": 1 - w}} for w in (0, 1)]
        sweep["axes"] = [{"path": "/method", "values": [*weights, {"type": "ce"}]}]
        made = client.post("/distill/sweep", json=sweep).raise_for_status().json()
        assert made["axes"][0]["labels"] == [
            "srrl feature_weight=0 regression_weight=1",
            "srrl feature_weight=1 regression_weight=0",
            "ce",
        ]

    def test_a_dry_run_counts_and_stores_nothing(self, client: httpx.Client, sweep: Body) -> None:
        answer = client.post("/distill/sweep", params={"dry_run": "true"}, json=sweep)
        plan = answer.json()
        assert (answer.status_code, plan["object"], plan["num_jobs"]) == (200, "distill.sweep_plan", 6)
        steps = 4 * 3  # epochs x batches; srrl trains its baseline too
        assert [child["total_steps"] for child in plan["children"]] == [2 * steps] * 3 + [steps] * 3
        assert plan["total_steps"] == 9 * steps
        assert nothing_is_stored()

    def test_an_upload_in_the_base_is_registered_once_and_awaited_by_all(
        self,
        client: httpx.Client,
        upload: Callable[..., str],
        teacher_bytes: Callable[..., bytes],
        dataset_bytes: Callable[..., bytes],
        prepare: Callable[[], None],
    ) -> None:
        base = {
            "teacher": {"upload_id": upload(teacher_bytes(), "teacher"), "architecture": "resnet8"},
            "dataset": {"upload_id": upload(dataset_bytes(), "dataset")},
            "student": {"architecture": "resnet8"},
        }
        sweep = {"base": base, "axes": [METHODS, SEEDS]}
        plan = client.post("/distill/sweep", params={"dry_run": "true"}, json=sweep).raise_for_status().json()
        assert (plan["total_steps"], plan["children"][0]["waiting_for"]) == (None, "teacher")
        assert nothing_is_stored(teachers=0)

        made = client.post("/distill/sweep", json=sweep).raise_for_status().json()
        assert (count(Teacher), count(Job), count(OutboxMessage)) == (1, 6, 0)
        prepare()
        with database_module.read() as session:
            rung = session.scalars(select(OutboxMessage.job_id).order_by(OutboxMessage.id)).all()
        assert list(rung) == [child["id"] for child in made["children"]]

    def test_five_hundred_are_taken_and_more_are_not(self, client: httpx.Client, sweep: Body) -> None:
        sweep["axes"] = [METHODS, {"path": "/training/seed", "values": list(range(250))}]
        made = client.post("/distill/sweep", json=sweep).raise_for_status().json()
        assert (made["num_jobs"], count(Job), count(OutboxMessage)) == (500, 500, 500)
        assert [row["num_jobs"] for row in made["table"]] == [250, 250]
        sweep["axes"][1] = {"path": "/training/seed", "values": list(range(251))}
        answer = client.post("/distill/sweep", json=sweep)
        assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/axes")
        assert "502 jobs" in answer.json()["detail"]
        assert count(Job) == 500


class TestIdempotency:
    def test_the_same_key_and_body_is_the_same_sweep(self, client: httpx.Client, sweep: Body) -> None:
        headers = {"Idempotency-Key": "k"}
        first = client.post("/distill/sweep", json=sweep, headers=headers)
        again = client.post("/distill/sweep", json=sweep, headers=headers)
        assert (again.status_code, again.json()) == (202, first.json())
        other = client.post("/distill/sweep", json=sweep | {"name": "other"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert (count(Sweep), count(Job)) == (1, 6)
        job = client.post("/distill", json=sweep["base"], headers=headers)
        assert job.status_code == 202

    def test_many_at_once_with_one_key_make_one_sweep(self, client: httpx.Client, sweep: Body) -> None:
        answers: list[httpx.Response] = []

        def send() -> None:
            answers.append(client.post("/distill/sweep", json=sweep, headers={"Idempotency-Key": "once"}))

        threads = [threading.Thread(target=send) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [202] * 6
        assert len({answer.json()["id"] for answer in answers}) == count(Sweep) == 1
        assert count(Job) == 6


class TestRead:
    def test_the_word_sweep_is_no_job(self, client: httpx.Client, made: Body, job_id: str) -> None:
        assert client.get("/distill/sweep").json()["data"][0]["id"] == made["id"]
        assert client.get(f"/v1/distill/sweep/{made['id']}").json()["id"] == made["id"]
        assert client.get(f"/distill/{job_id}").json()["sweep_id"] is None
        missing = client.get("/distill/sweep/sw_none")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
        assert "No sweep 'sw_none'" in missing.json()["detail"]

    def test_every_link_leads_somewhere(self, client: httpx.Client, made: Body) -> None:
        links = made["links"]
        cancel = links.pop("cancel")
        links |= made["children"][0]["links"]
        assert {name: client.get(link).status_code for name, link in links.items()} == dict.fromkeys(links, 200)
        assert client.post(cancel).status_code == 202

    def test_jobs_are_listed_as_usual_and_by_their_sweep(self, client: httpx.Client, made: Body, job_id: str) -> None:
        ids = [child["id"] for child in made["children"]]
        assert len(client.get("/distill").json()["data"]) == 7
        found = client.get("/distill", params={"sweep": made["id"]}).json()["data"]
        assert [job["id"] for job in found] == ids[::-1]
        found = client.get("/distill", params={"sweep": made["id"], "limit": 2, "after": ids[2]}).json()
        assert [job["id"] for job in found["data"]] == [ids[1], ids[0]]
        assert job_id not in ids

    def test_sweeps_are_listed_newest_first(self, client: httpx.Client, sweep: Body) -> None:
        sweep["axes"] = [SEEDS]
        made = [client.post("/distill/sweep", json=sweep).json()["id"] for _ in range(3)]
        client.post(f"/distill/sweep/{made[1]}/cancel")
        first = client.get("/distill/sweep", params={"limit": 2}).json()
        assert [entry["id"] for entry in first["data"]] == made[:0:-1]
        assert [entry["status"] for entry in first["data"]] == ["queued", "cancelled"]
        assert (first["has_more"], first["last_id"]) == (True, made[1])
        rest = client.get("/distill/sweep", params={"after": first["last_id"]}).json()
        assert ([entry["id"] for entry in rest["data"]], rest["has_more"]) == ([made[0]], False)

    def test_the_status_is_that_of_the_jobs(self, client: httpx.Client, made: Body, hire: Callable[..., Any]) -> None:
        url = made["links"]["self"]
        workers = [hire(child["id"]) for child in made["children"]]
        workers[0].claim()
        answer = client.get(url)
        assert (answer.json()["status"], answer.json()["counts"]) == ("running", {"queued": 5, "running": 1})
        assert answer.headers["retry-after"] == "2"
        workers[0].finish()
        assert client.get(url).json()["status"] == "running"
        for each in workers[1:]:
            each.claim()
            each.finish()
        answer = client.get(url)
        assert (answer.json()["status"], answer.json()["is_terminal"]) == ("succeeded", True)
        assert "retry-after" not in answer.headers

    def test_one_failure_is_the_sweeps(self, client: httpx.Client, made: Body, hire: Callable[..., Any]) -> None:
        worker = hire(made["children"][0]["id"])
        worker.claim()
        worker.fail({"code": "loss_diverged", "message": "The loss is not finite.", "hint": ""})
        client.post(made["links"]["cancel"])
        read = client.get(made["links"]["self"]).json()
        assert (read["status"], read["counts"]) == ("failed", {"cancelled": 5, "failed": 1})
        assert read["children"][0]["error"]["code"] == "loss_diverged"
        assert [row["is_complete"] for row in read["table"]] == [False, False]


def report(*, student: float, baseline: float | None, seed: int) -> dict[str, Any]:
    return {
        "teacher": {"top1": 0.9312, "per_class": [0.1]},
        "student": {"top1": student, "agreement": student - 0.1, "kl_to_teacher": 0.3 + 0.01 * seed, "cka": 0.7},
        "baseline": {"top1": baseline} if baseline is not None else None,
    }


STUDENT = {"srrl": [0.8811, 0.8902, 0.8754], "ce": [0.8513, 0.8477, 0.8561]}
BASELINE = [0.8467, 0.8501, 0.8533]


class TestTable:
    @pytest.fixture
    def finish(self, made: Body, hire: Callable[..., Any]) -> Callable[[int], None]:
        def run(number: int) -> None:
            child = made["children"][number]
            method, seed = (coordinate["label"] for coordinate in child["point"])
            worker = hire(child["id"])
            worker.claim()
            student, baseline = STUDENT[method][int(seed)], BASELINE[int(seed)] if method == "srrl" else None
            worker.record(events.Report(report=report(student=student, baseline=baseline, seed=int(seed))))
            worker.finish()

        return run

    def test_means_and_deviations_over_seeds(
        self, client: httpx.Client, made: Body, finish: Callable[[int], None]
    ) -> None:
        for number in range(6):
            finish(number)
        read = client.get(made["links"]["self"]).json()
        srrl, ce = read["table"]
        assert [row["point"] for row in (srrl, ce)] == [
            [{"path": "/method", "label": "srrl", "value": {"type": "srrl"}}],
            [{"path": "/method", "label": "ce", "value": {"type": "ce"}}],
        ]
        assert [(row["num_jobs"], row["num_finished"], row["is_complete"]) for row in (srrl, ce)] == [(3, 3, True)] * 2
        gains = [mine - plain for mine, plain in zip(STUDENT["srrl"], BASELINE, strict=True)]
        seconds = []
        for child in read["children"][:3]:
            job = client.get(child["links"]["self"]).json()
            began, ended = (datetime.fromisoformat(job[name]) for name in ("started_at", "finished_at"))
            seconds.append((ended - began).total_seconds())
        expected: dict[str, list[float]] = {
            "student_top1": STUDENT["srrl"],
            "teacher_top1": [0.9312] * 3,
            "baseline_top1": BASELINE,
            "gain": gains,
            "agreement": [value - 0.1 for value in STUDENT["srrl"]],
            "kl_to_teacher": [0.3, 0.31, 0.32],
            "cka": [0.7] * 3,
            "seconds": seconds,
        }
        points = {f"{side}_nme" for side in ("student", "teacher", "baseline")}
        assert set(srrl["figures"]) == set(expected) | points
        assert all(srrl["figures"][name]["n"] == 0 for name in points)
        for name, values in expected.items():
            got = srrl["figures"][name]
            assert got["n"] == 3, name
            assert got["mean"] == pytest.approx(statistics.mean(values), rel=1e-9), name
            assert got["sd"] == pytest.approx(statistics.stdev(values), rel=1e-6, abs=1e-12), name
        assert ce["figures"]["student_top1"]["sd"] == pytest.approx(statistics.stdev(STUDENT["ce"]))
        for name in ("baseline_top1", "gain"):
            assert ce["figures"][name] == {"n": 0, "mean": None, "sd": None}
        child = read["children"][1]["figures"]
        assert (child["student_top1"], child["gain"]) == (STUDENT["srrl"][1], pytest.approx(gains[1]))

    def test_less_error_of_points_is_a_gain(self, client: httpx.Client, made: Body, hire: Callable[..., Any]) -> None:
        for number, error in enumerate((0.05, 0.06)):
            worker = hire(made["children"][number]["id"])
            worker.claim()
            figures = {"teacher": {"nme": 0.04}, "student": {"nme": error}, "baseline": {"nme": 0.058}}
            worker.record(events.Report(report=figures))
            worker.finish()
        read = client.get(made["links"]["self"]).json()
        found = read["table"][0]["figures"]
        assert found["student_nme"]["mean"] == pytest.approx(0.055)
        assert found["gain"]["mean"] == pytest.approx(0.003)
        assert [child["figures"]["gain"] for child in read["children"][:2]] == pytest.approx([0.008, -0.002])
        page = client.get(made["links"]["web"]).text
        assert "error %" in page
        assert ">5.00 %<" in page
        assert "Student %" not in page

    def test_a_row_that_is_not_complete_is_marked_and_one_value_has_no_deviation(
        self, client: httpx.Client, made: Body, finish: Callable[[int], None], hire: Callable[..., Any]
    ) -> None:
        finish(1)
        half = hire(made["children"][0]["id"])
        half.claim()
        half.epoch(1, 0.5)
        half.record(events.Report(report=report(student=0.1, baseline=0.1, seed=0)))
        read = client.get(made["links"]["self"]).json()
        srrl, ce = read["table"]
        assert (srrl["num_finished"], srrl["is_complete"]) == (1, False)
        assert srrl["figures"]["student_top1"] == {"n": 1, "mean": STUDENT["srrl"][1], "sd": None}
        assert (ce["num_finished"], ce["figures"]["cka"]) == (0, {"n": 0, "mean": None, "sd": None})
        assert read["children"][0]["metrics"]["best"] == {"top1": 0.5, "epoch": 1}
        assert set(read["children"][0]["figures"].values()) == {None}

    def test_as_csv(self, client: httpx.Client, made: Body, finish: Callable[[int], None]) -> None:
        for number in range(4):
            finish(number)
        answer = client.get(made["links"]["self"], headers={"Accept": "text/csv"})
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert [(row["/method"], row["num_finished"], row["is_complete"]) for row in rows] == [
            ("srrl", "3", "true"),
            ("ce", "1", "false"),
        ]
        assert float(rows[0]["student_top1_sd"]) == pytest.approx(statistics.stdev(STUDENT["srrl"]))
        assert (rows[1]["student_top1_mean"], rows[1]["student_top1_sd"]) == (str(STUDENT["ce"][0]), "")

    def test_without_a_seed_axis_every_job_has_its_row(self, client: httpx.Client, sweep: Body) -> None:
        sweep["axes"] = [METHODS, {"path": "/training/epochs", "values": [1, 2]}]
        made = client.post("/distill/sweep", json=sweep).raise_for_status().json()
        assert [[c["label"] for c in row["point"]] for row in made["table"]] == [
            ["srrl", "1"], ["srrl", "2"], ["ce", "1"], ["ce", "2"],
        ]  # fmt: skip

    def test_seeds_alone_are_one_row(self, client: httpx.Client, sweep: Body) -> None:
        made = client.post("/distill/sweep", json=sweep | {"axes": [SEEDS]}).raise_for_status().json()
        assert [(row["point"], row["num_jobs"]) for row in made["table"]] == [([], 3)]


class TestCancel:
    def test_all_that_has_not_ended_is_asked_to_end(
        self, client: httpx.Client, made: Body, hire: Callable[..., Any]
    ) -> None:
        workers = [hire(child["id"]) for child in made["children"][:2]]
        for each in workers:
            each.claim()
        workers[0].finish()
        answer = client.post(made["links"]["cancel"])
        assert (answer.status_code, answer.json()["status"]) == (202, "running")
        assert answer.json()["counts"] == {"succeeded": 1, "cancelling": 1, "cancelled": 4}
        assert jobs.heartbeat(workers[1].job_id, fence=workers[1].fence) == "cancelling"
        jobs.release(workers[1].job_id, fence=workers[1].fence)
        again = client.post(made["links"]["cancel"])
        assert (again.status_code, again.json()["status"]) == (200, "cancelled")

    def test_an_unknown_sweep_is_not_found(self, client: httpx.Client) -> None:
        assert client.post("/distill/sweep/sw_none/cancel").status_code == 404
