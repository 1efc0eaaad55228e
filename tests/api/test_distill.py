from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from distill import events
from service import job_views, jobs, wishes

Body = dict[str, Any]


def count_jobs(client: httpx.Client) -> int:
    return len(client.get("/distill").json()["data"])


class TestCreate:
    def test_the_job_is_queued_with_every_auto_resolved(self, client: httpx.Client, body: Body) -> None:
        del body["training"]
        answer = client.post("/distill", json=body)
        job = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/distill/{job['id']}"
        assert (job["object"], job["status"], job["is_terminal"]) == ("distill.job", "queued", False)
        assert job["queue"] == {
            "position": 1,
            "waiting_for": "worker",
            "reason": "no worker is alive",
            "estimated_start_at": None,
        }
        training = job["config_resolved"]["training"]
        assert job["config"]["training"]["epochs"] == "auto"
        assert (training["epochs"], training["batch_size"]) == (100, 3)
        assert job["teacher"]["parameters"] > job["student"]["parameters"] > 0
        assert (job["dataset"]["train"], job["dataset"]["test"], job["dataset"]["classes"]) == (12, 6, 3)
        assert [t["status"] for t in job["transitions"]] == ["queued"]
        assert client.get(answer.headers["location"]).json() == job

    def test_every_link_of_a_job_leads_somewhere(self, client: httpx.Client, running: Any) -> None:
        running.keep(b"weights")
        running.record(events.Report(report={"teacher": {"top1": 0.9}, "student": {"top1": 0.8}, "baseline": None}))
        links = client.get(f"/distill/{running.job_id}").json()["links"]
        wishes = {name: links.pop(name) for name in ("pause", "resume", "clone", "cancel")}
        retry = links.pop("retry")
        assert {name: client.get(link).status_code for name, link in links.items()} == dict.fromkeys(links, 200)
        assert {name: client.post(link).status_code for name, link in wishes.items()} == dict.fromkeys(wishes, 202)
        assert client.post(retry).status_code == 409  # it is being cancelled

    def test_a_dry_run_answers_the_plan_and_stores_nothing(self, client: httpx.Client, body: Body) -> None:
        answer = client.post("/distill", params={"dry_run": "true"}, json=body)
        plan = answer.json()
        assert answer.status_code == 200
        assert plan["object"] == "distill.plan"
        assert plan["waiting_for"] is None
        assert plan["config_resolved"]["training"]["learning_rate"] == pytest.approx(0.025)
        assert plan["facts"]["total_steps"] == 2 * 4 * 3
        assert count_jobs(client) == 0

    def test_a_job_on_unchecked_inputs_says_what_it_waits_for(
        self, client: httpx.Client, teacher_id: str, dataset_id: str, prepare: Callable[[], None]
    ) -> None:
        body = {"teacher": {"id": teacher_id}, "dataset": {"id": dataset_id}, "student": {"architecture": "resnet8"}}
        job = client.post("/distill", json=body).json()
        assert job["queue"]["waiting_for"] == "teacher"
        assert job["config_resolved"] is None
        prepare()
        job = client.get(f"/distill/{job['id']}").json()
        assert job["queue"]["waiting_for"] == "worker"
        assert job["config_resolved"]["training"]["epochs"] == 100

    def test_inputs_may_come_with_the_request(
        self,
        client: httpx.Client,
        upload: Callable[..., str],
        teacher_bytes: Callable[..., bytes],
        dataset_bytes: Callable[..., bytes],
    ) -> None:
        body = {
            "teacher": {"upload_id": upload(teacher_bytes(), "teacher"), "architecture": "resnet8"},
            "dataset": {"upload_id": upload(dataset_bytes(), "dataset")},
            "student": {"architecture": "resnet8"},
        }
        job = client.post("/distill", json=body).raise_for_status().json()
        assert client.get(f"/teachers/{job['teacher']['id']}").json()["status"] == "processing"
        assert client.get(f"/datasets/{job['dataset']['id']}").json()["status"] == "processing"


class TestIdempotency:
    def test_the_same_key_and_body_is_the_same_job(self, client: httpx.Client, body: Body) -> None:
        headers = {"Idempotency-Key": '"8e03978e-40d5"'}
        first = client.post("/distill", json=body, headers=headers)
        again = client.post("/distill", json=body, headers={"Idempotency-Key": "8e03978e-40d5"})
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert count_jobs(client) == 1

    def test_the_same_key_with_another_body_is_refused(self, client: httpx.Client, body: Body) -> None:
        headers = {"Idempotency-Key": "k"}
        client.post("/distill", json=body, headers=headers)
        answer = client.post("/distill", json=body | {"name": "other"}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
        assert count_jobs(client) == 1

    @pytest.mark.parametrize("key", ['""', "x" * 256])
    def test_a_key_of_no_use_is_refused(self, client: httpx.Client, body: Body, key: str) -> None:
        answer = client.post("/distill", json=body, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")

    def test_many_at_once_with_one_key_make_one_job(self, client: httpx.Client, body: Body) -> None:
        answers: list[httpx.Response] = []

        def send() -> None:
            answers.append(client.post("/distill", json=body, headers={"Idempotency-Key": "once"}))

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [202] * 8
        assert len({answer.json()["id"] for answer in answers}) == count_jobs(client) == 1


class TestRead:
    def test_the_etag_changes_with_the_job_and_spares_the_body(self, client: httpx.Client, worker: Any) -> None:
        url = f"/distill/{worker.job_id}"
        first = client.get(url)
        etag = first.headers["etag"]
        assert etag.startswith('"')
        assert first.headers["retry-after"] == "2"
        same = client.get(url, headers={"If-None-Match": f'"other", W/{etag}'})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
        worker.claim()
        news = client.get(url, headers={"If-None-Match": etag})
        assert (news.status_code, news.json()["status"]) == (200, "running")
        assert news.headers["etag"] != etag

    def test_a_finished_job_asks_nobody_to_come_back(self, client: httpx.Client, running: Any) -> None:
        running.finish()
        answer = client.get(f"/distill/{running.job_id}", params={"wait": 20})
        assert "retry-after" not in answer.headers
        job = answer.json()
        assert (job["status"], job["is_terminal"], job["queue"]) == ("succeeded", True, None)
        assert job["attempts"][0]["outcome"] == "succeeded"

    def test_progress_tells_how_long_it_will_take(self, client: httpx.Client, running: Any) -> None:
        running.epoch(1, 0.5)
        running.epoch(2, 0.4)
        job = client.get(f"/distill/{running.job_id}").json()
        assert job["progress"] == {
            "run": "student",
            "epoch": 2,
            "epochs": 4,
            "step": 6,
            "total_steps": 24,
            "percent": 25.0,
            "eta_seconds": 12.0,  # 18 steps of 4 images at 6 images a second
            "images_per_second": 6.0,
        }
        assert job["metrics"]["best"] == {"top1": 0.5, "epoch": 1}
        assert job["metrics"]["last"] == {"top1": 0.4, "epoch": 2}
        assert job["estimated_finish_at"] > job["attempts"][0]["heartbeat_at"]

    def test_waiting_ends_with_the_change(self, client: httpx.Client, worker: Any) -> None:
        threading.Timer(0.5, worker.claim).start()
        started = time.monotonic()
        answer = client.get(f"/distill/{worker.job_id}", params={"wait": 15})
        assert answer.json()["status"] == "running"
        assert 0.4 < time.monotonic() - started < 5

    def test_waiting_in_vain_ends_in_time(self, client: httpx.Client, job_id: str) -> None:
        etag = client.get(f"/distill/{job_id}").headers["etag"]
        started = time.monotonic()
        answer = client.get(f"/distill/{job_id}", params={"wait": 0.6}, headers={"If-None-Match": etag})
        assert answer.status_code == 304
        assert 0.5 < time.monotonic() - started < 5

    def test_who_has_an_old_state_does_not_wait(self, client: httpx.Client, job_id: str) -> None:
        started = time.monotonic()
        answer = client.get(f"/distill/{job_id}", params={"wait": 15}, headers={"If-None-Match": '"old"'})
        assert answer.status_code == 200
        assert time.monotonic() - started < 5

    def test_a_hundred_waiters_leave_room_for_others(self, client: httpx.Client, job_id: str) -> None:
        def wait() -> None:
            client.get(f"/distill/{job_id}", params={"wait": 2})

        waiters = [threading.Thread(target=wait) for _ in range(60)]
        for waiter in waiters:
            waiter.start()
        time.sleep(0.5)
        started = time.monotonic()
        assert client.get("/networks").status_code == 200
        assert time.monotonic() - started < 1.5
        for waiter in waiters:
            waiter.join()

    def test_waiting_is_bounded(self, client: httpx.Client, job_id: str) -> None:
        answer = client.get(f"/distill/{job_id}", params={"wait": 61})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["parameter"] == "wait"

    def test_a_failed_job_says_why(self, client: httpx.Client, running: Any) -> None:
        running.fail({"code": "teacher_below_chance", "message": "It guesses.", "hint": "Train it."})
        job = client.get(f"/distill/{running.job_id}").json()
        assert job["status"] == "failed"
        assert job["error"]["code"] == "teacher_below_chance"
        assert (job["error"]["phase"], job["error"]["retryable"]) == ("preparing", False)


class TestList:
    @pytest.fixture
    def ids(self, client: httpx.Client, body: Body) -> list[str]:
        """Five jobs, newest first."""
        made = []
        for number in range(5):
            request = body | {"name": f"job {number % 2}", "metadata": {"number": str(number), "team": "vision"}}
            made.append(client.post("/distill", json=request).json()["id"])
        return made[::-1]

    def test_pages_forward_and_back(self, client: httpx.Client, ids: list[str]) -> None:
        first = client.get("/distill", params={"limit": 2}).json()
        assert first["object"] == "list"
        assert [job["id"] for job in first["data"]] == ids[:2]
        assert (first["first_id"], first["last_id"], first["has_more"]) == (ids[0], ids[1], True)
        second = client.get("/distill", params={"limit": 2, "after": first["last_id"]}).json()
        assert [job["id"] for job in second["data"]] == ids[2:4]
        third = client.get("/distill", params={"limit": 2, "after": second["last_id"]}).json()
        assert ([job["id"] for job in third["data"]], third["has_more"]) == (ids[4:], False)
        back = client.get("/distill", params={"limit": 2, "before": third["first_id"]}).json()
        assert [job["id"] for job in back["data"]] == ids[2:4]

    def test_an_empty_list_is_a_list(self, client: httpx.Client) -> None:
        empty = {"object": "list", "data": [], "has_more": False, "first_id": None, "last_id": None}
        assert client.get("/distill").json() == empty

    def test_filters(self, client: httpx.Client, ids: list[str]) -> None:
        wishes.cancel(ids[3])

        def found(**params: str) -> list[str]:
            return [job["id"] for job in client.get("/distill", params=params).json()["data"]]

        assert found(status="cancelled") == [ids[3]]
        assert found(name="job 1") == [ids[1], ids[3]]
        assert found(**{"metadata[number]": "2"}) == [ids[2]]
        assert found(**{"metadata[number]": "2", "metadata[team]": "sound"}) == []
        middle = job_views.get(ids[2]).created_at.isoformat()
        assert found(created_after=middle) == ids[:2]
        assert found(created_before=middle) == ids[3:]

    @pytest.mark.parametrize(
        ("params", "parameter"),
        [
            ({"limit": 101}, "limit"),
            ({"limit": 0}, "limit"),
            ({"status": "lost"}, "status"),
            ({"created_after": "2026-01-01T00:00:00"}, "created_after"),
        ],
    )
    def test_a_filter_of_no_sense_is_named(self, client: httpx.Client, params: Body, parameter: str) -> None:
        answer = client.get("/distill", params=params)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["parameter"] == parameter


class TestCancel:
    def test_a_waiting_job_ends_at_once(self, client: httpx.Client, job_id: str) -> None:
        answer = client.post(f"/distill/{job_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert answer.json()["error"]["code"] == "cancelled_by_user"
        again = client.post(f"/distill/{job_id}/cancel")
        assert (again.status_code, again.json()["status"]) == (200, "cancelled")

    def test_a_running_job_is_asked_to_end(self, client: httpx.Client, running: Any) -> None:
        answer = client.post(f"/distill/{running.job_id}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
        assert jobs.heartbeat(running.job_id, fence=running.fence) == "cancelling"

    def test_a_finished_job_stays_as_it_is(self, client: httpx.Client, running: Any) -> None:
        running.finish()
        answer = client.post(f"/distill/{running.job_id}/cancel")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert "succeeded" in answer.json()["detail"]


def test_everything_is_also_under_v1(client: httpx.Client, job_id: str) -> None:
    assert client.get(f"/v1/distill/{job_id}").json() == client.get(f"/distill/{job_id}").json()
    assert client.get("/v1/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize(
    "path", ["", "/events", "/metrics", "/logs", "/artifacts", "/artifacts/x", "/student", "/report"]
)
def test_an_unknown_job_is_not_found(client: httpx.Client, path: str) -> None:
    answer = client.get(f"/distill/dj_nothing{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "dj_nothing" in answer.json()["detail"]
