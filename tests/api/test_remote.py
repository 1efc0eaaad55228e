"""Data sets by URL, over HTTP: what is taken, what is refused at once, and what is never shown."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from sqlalchemy import select

from models import Dataset, Job, Sweep
from service import database as database_module
from service.settings import settings

SIGNED = "https://images.example/sets/birds.zip?X-Amz-Signature=secret&e=1#part"


@pytest.fixture
def request_body(teacher_id: str) -> dict[str, Any]:
    return {
        "teacher": {"id": teacher_id},
        "dataset": {"url": SIGNED},
        "student": {"architecture": "resnet8", "options": {"width": 0.5}},
        "training": {"epochs": 4, "batch_size": 4},
    }


def setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LIMBECK_{name}", value)
    settings.cache_clear()


def test_a_url_is_taken_unseen_and_shown_without_its_query(client: httpx.Client) -> None:
    made = client.post("/datasets", json={"url": SIGNED, "sha256": "A" * 64, "format": "imagefolder"})
    dataset = made.json()
    assert (made.status_code, made.headers["location"]) == (202, f"/datasets/{dataset['id']}")
    assert dataset["url"] == "https://images.example/sets/birds.zip"
    assert (dataset["status"], dataset["phase"], dataset["filename"]) == ("processing", "fetching", "birds.zip")
    assert (dataset["upload_id"], dataset["preset"]) == (None, None)
    assert dataset["fetch"] == {"received": 0, "total": None, "etag": None}
    assert (dataset["bytes"], dataset["sha256"], dataset["format"]) == (0, "", "imagefolder")
    listed = client.get("/datasets").json()["data"]
    assert [each["id"] for each in listed] == [dataset["id"]]
    assert "secret" not in made.text + str(listed)
    with database_module.read() as session:
        row = session.get_one(Dataset, dataset["id"])
    assert row.fetch is not None
    assert (row.fetch["request"], row.fetch["sha256"]) == (SIGNED, "a" * 64)
    assert client.delete(f"/datasets/{dataset['id']}").status_code == 204


@pytest.mark.parametrize(
    "url",
    [
        "http://images.example/a.zip",
        "https://user:secret@images.example/a.zip",
        "https://127.0.0.1/a.zip?secret",
        "https://[::ffff:169.254.169.254]/secret",
        "https://localhost:8443/secret",
        "https://2130706433/secret",
        "s3://private/secret.zip",
        "s3://user:secret@private/a.zip",
        "s3://private/a.zip?secret=1",
        "s3://private",
        "file:///etc/secret",
        "/etc/secret",
        "",
    ],
)
def test_urls_that_are_refused_at_once(client: httpx.Client, url: str) -> None:
    answer = client.post("/datasets", json={"url": url})
    assert answer.status_code == 422
    error = answer.json()["errors"][0]
    assert (error["pointer"], error["code"]) == ("/url", "invalid_value")
    assert error["hint"]
    assert "secret" not in answer.text
    assert client.get("/datasets").json()["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"url": SIGNED, "preset": "mnist"},
        {"url": SIGNED, "upload_id": "up_1"},
        {"sha256": "0" * 64},
        {"preset": "mnist", "sha256": "0" * 64},
        {"url": SIGNED, "sha256": "0" * 63},
        {"url": "https://images.example/" + "a" * 5000},
    ],
)
def test_bodies_that_do_not_say_one_thing(client: httpx.Client, body: dict[str, Any]) -> None:
    answer = client.post("/datasets", json=body)
    assert answer.status_code == 422
    assert "secret" not in answer.text


def test_the_operator_may_turn_it_off(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    setting(monkeypatch, "REMOTE_SOURCES", "none")
    error = client.post("/datasets", json={"url": SIGNED}).json()["errors"][0]
    assert (error["pointer"], error["code"]) == ("/url", "invalid_value")
    assert "LIMBECK_REMOTE_SOURCES" in error["hint"]
    setting(monkeypatch, "REMOTE_BUCKETS", "images")
    assert client.post("/datasets", json={"url": "s3://images/a b/ü?.zip"}).status_code == 422
    dataset = client.post("/datasets", json={"url": "s3://images/a b/ü.zip"}).raise_for_status().json()
    assert (dataset["url"], dataset["filename"]) == ("s3://images/a b/ü.zip", "ü.zip")


def test_a_host_of_ones_own_network_is_named_by_the_operator(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://localhost:9443/a.zip"
    assert client.post("/datasets", json={"url": url}).status_code == 422
    setting(monkeypatch, "REMOTE_ALLOW_HOSTS", "nas.lan localhost:9443")
    assert client.post("/datasets", json={"url": url}).status_code == 202


def test_a_job_with_a_url_waits_for_it_and_keeps_no_signature(
    client: httpx.Client, request_body: dict[str, Any]
) -> None:
    preview = client.post("/distill?dry_run=true", json=request_body).raise_for_status()
    assert client.get("/datasets").json()["data"] == []
    key = {"Idempotency-Key": '"one"'}
    job = client.post("/distill", json=request_body, headers=key).raise_for_status()
    assert job.json()["config"]["dataset"]["url"] == "https://images.example/sets/birds.zip"
    # The same file under a newer signature is the same request.
    request_body["dataset"]["url"] = SIGNED.replace("secret", "newer")
    again = client.post("/distill", json=request_body, headers=key).raise_for_status()
    assert again.json()["id"] == job.json()["id"]
    events = client.get(f"/distill/{job.json()['id']}/events").text
    for shown in (preview.text, job.text, again.text, events, client.get("/distill").text):
        assert "secret" not in shown
    with database_module.read() as session:
        kept = [(each.spec, each.facts, each.config_resolved) for each in session.scalars(select(Job))]
        assert [each.url for each in session.scalars(select(Dataset))] == ["https://images.example/sets/birds.zip"]
    assert "secret" not in str(kept)


def test_a_job_with_a_url_that_is_refused(client: httpx.Client, request_body: dict[str, Any]) -> None:
    request_body["dataset"] = {"url": "https://10.0.0.1/secret"}
    answer = client.post("/distill", json=request_body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/dataset/url"]
    assert "secret" not in answer.text


def test_a_sweep_takes_urls_and_no_signatures(client: httpx.Client, request_body: dict[str, Any]) -> None:
    """Its body is shown as it was sent, and names are made of its values."""
    axes = [{"path": "/training/seed", "values": [0, 1]}]
    refused = client.post("/distill/sweep", json={"base": request_body, "axes": axes})
    assert refused.status_code == 422
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/base/dataset/url"]
    refused = client.post(
        "/distill/sweep", json={"base": request_body, "axes": [{"path": "/dataset", "values": [{"url": SIGNED}]}]}
    )
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/axes/0/values/0"]
    assert "secret" not in refused.text
    request_body["dataset"] = {"url": "https://images.example/birds.zip"}
    client.post("/distill/sweep", json={"base": request_body, "axes": axes}).raise_for_status()
    with database_module.read() as session:
        assert len(session.scalars(select(Sweep)).all()) == 1
        assert len(session.scalars(select(Dataset)).all()) == 1  # fetched once for both jobs
