"""Pause, resume, retry, clone, rename, delete and the queue over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service import jobs, workers

Body = dict[str, Any]
ERROR = {"code": "internal_error", "message": "it died", "hint": "see"}


def test_pausing_and_going_on(client: httpx.Client, job_id: str) -> None:
    answer = client.post(f"/distill/{job_id}/pause")
    assert (answer.status_code, answer.json()["status"], answer.json()["queue"]) == (202, "paused", None)
    assert client.post(f"/distill/{job_id}/pause").status_code == 200
    assert client.get(f"/distill/{job_id}").json()["is_terminal"] is False
    assert "Paused" in client.get(f"/jobs/{job_id}").text

    answer = client.post(f"/distill/{job_id}/resume")
    assert (answer.status_code, answer.json()["status"]) == (202, "queued")
    answer = client.post(f"/distill/{job_id}/resume")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "queued" in answer.json()["detail"]


def test_a_retry_leads_to_a_new_job(client: httpx.Client, running: Any) -> None:
    assert client.post(f"/distill/{running.job_id}/retry").status_code == 409
    running.fail(ERROR)
    answer = client.post(f"/distill/{running.job_id}/retry", headers={"Idempotency-Key": '"once"'})
    made = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/distill/{made['id']}")
    assert (made["made_from"], made["status"]) == (running.job_id, "queued")
    assert made["config_resolved"] == client.get(f"/distill/{running.job_id}").json()["config_resolved"]
    again = client.post(f"/distill/{running.job_id}/retry", headers={"Idempotency-Key": '"once"'})
    assert again.json()["id"] == made["id"]


def test_a_clone_takes_changes_and_says_where_one_is_wrong(client: httpx.Client, job_id: str) -> None:
    made = client.post(f"/distill/{job_id}/clone", json={"training": {"seed": 9}, "name": "again"}).json()
    assert (made["config"]["training"]["seed"], made["name"], made["made_from"]) == (9, "again", job_id)
    assert client.post(f"/distill/{job_id}/clone").status_code == 202

    answer = client.post(f"/distill/{job_id}/clone", json={"training": {"sead": 9}})
    (flaw,) = answer.json()["errors"]
    assert (answer.status_code, flaw["pointer"], flaw["code"]) == (422, "/training/sead", "unknown_field")
    assert flaw["did_you_mean"] == ["seed"]
    answer = client.post(f"/distill/{job_id}/clone", json={"student": {"architecture": "resnet9"}})
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "/student/architecture")


def test_only_name_and_metadata_can_be_changed(client: httpx.Client, job_id: str) -> None:
    before = client.get(f"/distill/{job_id}")
    changed = client.patch(f"/distill/{job_id}", json={"name": "better", "metadata": {"k": "v"}}).json()
    assert (changed["name"], changed["metadata"]) == ("better", {"k": "v"})
    assert client.patch(f"/distill/{job_id}", json={"name": "x"}).json()["metadata"] == {"k": "v"}
    assert client.get(f"/distill/{job_id}").headers["etag"] != before.headers["etag"]
    answer = client.patch(f"/distill/{job_id}", json={"status": "succeeded"})
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "unknown_field")
    assert client.patch(f"/distill/{job_id}", json={"metadata": {str(n): "" for n in range(17)}}).status_code == 422
    assert client.patch("/distill/dj_none", json={"name": "x"}).status_code == 404


def test_a_job_that_has_ended_can_be_deleted(client: httpx.Client, running: Any) -> None:
    running.keep(b"weights")
    answer = client.delete(f"/distill/{running.job_id}")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    running.finish()
    assert client.delete(f"/distill/{running.job_id}").status_code == 204
    for path in ("", "/events", "/artifacts/student.safetensors", "/student"):
        assert client.get(f"/distill/{running.job_id}{path}").status_code == 404
    assert client.delete(f"/distill/{running.job_id}").status_code == 404


def test_inputs_of_a_deleted_job_are_free(client: httpx.Client, running: Any, body: Body) -> None:
    teacher = body["teacher"]["id"]
    running.finish()
    assert client.delete(f"/teachers/{teacher}").status_code == 409
    client.delete(f"/distill/{running.job_id}").raise_for_status()
    assert client.delete(f"/teachers/{teacher}").status_code == 204


def test_the_queue_tells_who_works_and_who_waits(client: httpx.Client, running: Any, body: Body) -> None:
    facts = {"host": "box", "version": "0.1.0", "device": "cpu", "device_name": "x", "memory_bytes": 1, "cores": 2}
    workers.seen("tester", facts=facts)
    waiting = [client.post("/distill", json={**body, "priority": name}).json()["id"] for name in ("normal", "high")]
    client.post(f"/distill/{client.post('/distill', json=body).json()['id']}/pause")

    found = client.get("/queue").json()

    assert (found["object"], found["waiting"], found["running"], found["paused"]) == ("queue", 2, 1, 1)
    (worker,) = found["workers"]
    assert {name: worker[name] for name in facts} == facts
    assert (worker["name"], worker["job"], worker["is_draining"]) == ("tester", running.job_id, False)
    assert [(place["id"], place["position"]) for place in found["next"]] == [(waiting[1], 1), (waiting[0], 2)]

    assert client.post("/queue/workers/tester/drain").json()["workers"][0]["is_draining"] is True
    assert client.post("/queue/workers/nobody/drain").status_code == 404


@pytest.mark.parametrize("wish", ["pause", "resume", "retry", "clone", "cancel"])
def test_unknown_jobs_are_not_found(client: httpx.Client, wish: str) -> None:
    assert client.post(f"/distill/dj_none/{wish}").status_code == 404


def test_a_cancelled_sweep_takes_its_paused_jobs_along(client: httpx.Client, sweep: Body) -> None:
    made = client.post("/distill/sweep", json=sweep).json()
    (first, *_) = client.get(f"/distill?sweep={made['id']}").json()["data"]
    client.post(f"/distill/{first['id']}/pause")
    assert client.post(f"/distill/sweep/{made['id']}/cancel").json()["counts"] == {"cancelled": 6}
    assert jobs.sweep() == 0
