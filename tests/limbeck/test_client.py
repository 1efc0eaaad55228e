from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from limbeck import ApiError, Client, InputRejected, Unreachable, transport
from limbeck import client as client_module


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "backoff", lambda _attempt: 0.0)
    monkeypatch.setattr(client_module, "backoff", lambda _attempt: 0.0)


@pytest.fixture
def client(scripted: Any) -> Iterator[Client]:
    with Client(scripted.url) as made:
        yield made


def test_a_problem_says_what_where_and_how_to_mend_it(scripted: Any, client: Client) -> None:
    problem = {
        "status": 422,
        "code": "architecture_unknown",
        "detail": "There is no network 'resnet8x5'.",
        "request_id": "req_1",
        "errors": [
            {
                "pointer": "/student/architecture",
                "code": "architecture_unknown",
                "detail": "unknown",
                "did_you_mean": ["resnet8x4", "resnet8"],
                "hint": "GET /networks lists them.",
            }
        ],
    }
    scripted.on("POST", "/distill", scripted.reply(422, problem, Content_Type="application/problem+json"))
    with pytest.raises(ApiError) as caught:
        client.distill({})
    error = caught.value
    assert (error.status, error.code, error.request_id) == (422, "architecture_unknown", "req_1")
    assert error.flaws[0].pointer == "/student/architecture"
    for part in ("There is no network", "/student/architecture", "resnet8x4 or resnet8", "GET /networks"):
        assert part in str(error)
    assert scripted.times("POST", "/distill") == 1


def test_an_answer_that_is_no_problem_is_still_an_error(scripted: Any, client: Client) -> None:
    scripted.on("GET", "/version", scripted.reply(500, b"<html>oops"))
    with pytest.raises(ApiError, match="http_500"):
        client.version()


def test_an_estimate_is_asked_for(scripted: Any, client: Client) -> None:
    scripted.on("POST", "/distill/estimate", scripted.reply(200, {"students": [{"name": "resnet8"}]}))
    body = {"student": {"budget": {"parameters": 9}}}
    assert client.estimate(body)["students"] == [{"name": "resnet8"}]
    assert json.loads(scripted.asked[-1].body) == body


def test_a_job_is_sent_again_under_the_same_key(scripted: Any, client: Client) -> None:
    busy = scripted.reply(503, {"detail": "starting"}, Retry_After="0")
    scripted.on("POST", "/distill", scripted.hang_up, busy, scripted.reply(202, {"id": "dj_1"}))
    assert client.distill({"name": "x"})["id"] == "dj_1"
    keys = {asked.headers["Idempotency-Key"] for asked in scripted.asked}
    assert len(keys) == 1
    assert len(scripted.asked) == 3
    client.distill({"name": "x"})
    assert scripted.asked[-1].headers["Idempotency-Key"] not in keys


def test_what_may_have_happened_is_not_sent_again(scripted: Any, client: Client) -> None:
    scripted.on("POST", "/distill/dj_1/cancel", scripted.hang_up)
    with pytest.raises(Unreachable):
        client.cancel("dj_1")
    assert scripted.times("POST", "/distill/dj_1/cancel") == 1


def test_nobody_there() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
        client.version()


def test_an_upload_is_declared_sent_and_completed(scripted: Any, client: Client, tmp_path: Path) -> None:
    data = bytes(range(256)) * 4000
    (tmp_path / "teacher.safetensors").write_bytes(data)
    scripted.takes("up_1", size=len(data))
    seen: list[tuple[int, int | None]] = []
    done = client.upload(
        tmp_path / "teacher.safetensors", purpose="teacher", on_progress=lambda n, total: seen.append((n, total))
    )
    assert done["status"] == "completed"
    assert json.loads(scripted.asked[0].body) == {
        "filename": "teacher.safetensors",
        "bytes": len(data),
        "purpose": "teacher",
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    (sent,) = (asked for asked in scripted.asked if asked.method == "PATCH")
    assert sent.body == data
    assert (sent.headers["Upload-Offset"], sent.headers["Tus-Resumable"]) == ("0", "1.0.0")
    assert seen[-1] == (len(data), len(data))


def test_waiting_for_an_input_ends_well_or_with_its_error(scripted: Any, client: Client) -> None:
    scripted.on(
        "GET",
        "/teachers/tch_1",
        scripted.reply(200, {"status": "processing"}),
        scripted.reply(200, {"status": "ready"}),
    )
    assert client.wait_ready("teachers", "tch_1")["status"] == "ready"
    error = {"code": "dataset_empty", "message": "No images.", "hint": "Put some in."}
    scripted.on("GET", "/datasets/ds_1", scripted.reply(200, {"status": "error", "error": error}))
    with pytest.raises(InputRejected, match=r"dataset ds_1 .*No images.*Put some in"):
        client.wait_ready("datasets", "ds_1")
    scripted.on("GET", "/datasets/ds_2", scripted.reply(200, {"status": "processing"}))
    with pytest.raises(TimeoutError, match="does a worker run"):
        client.wait_ready("datasets", "ds_2", timeout=0.0)


def test_listing_walks_all_pages(scripted: Any, client: Client) -> None:
    first = {"data": [{"id": "dj_3"}, {"id": "dj_2"}], "has_more": True, "last_id": "dj_2"}
    scripted.on("GET", "/distill", scripted.reply(200, first), scripted.reply(200, {"data": [{"id": "dj_1"}]}))
    assert [job["id"] for job in client.jobs()] == ["dj_3", "dj_2", "dj_1"]
    assert "after=dj_2" in scripted.asked[1].path


def event(number: int, kind: str = "metric") -> bytes:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps({'n': number})}\n\n".encode()


def test_events_come_once_each_over_broken_streams(scripted: Any, client: Client) -> None:
    def stream(*parts: bytes) -> Any:
        return scripted.reply(200, b"".join(parts), Content_Type="text/event-stream", Content_Length="100000")

    scripted.on(
        "GET",
        "/distill/dj_1/events",
        stream(b"retry: 3000\n\n", event(1), event(2), b"id: 3\nevent: metric\nda"),
        scripted.hang_up,
        scripted.reply(503, {"detail": "starting"}),
        stream(event(2), event(3)),
        stream(event(4), b"event: end\ndata: {}\n\n", event(5)),
    )
    found = list(client.events("dj_1"))
    assert [(e.id, e.type) for e in found] == [
        (1, "metric"), (2, "metric"), (3, "metric"), (4, "metric"), (4, "end"),
    ]  # fmt: skip
    assert [e.data.get("n") for e in found] == [1, 2, 3, 4, None]
    asked = [a.headers.get("Last-Event-ID") for a in scripted.asked]
    assert asked == [None, "2", "2", "2", "3"]


def test_a_stream_that_was_read_to_its_end_stays_ended(scripted: Any, client: Client) -> None:
    scripted.on("GET", "/distill/dj_1/events", scripted.reply(204))
    assert [(e.id, e.type) for e in client.events("dj_1", after=7)] == [(7, "end")]
    assert len(scripted.asked) == 1


def test_events_of_a_lost_service_end_in_unreachable(scripted: Any, client: Client) -> None:
    scripted.on("GET", "/distill/dj_1/events", scripted.hang_up)
    with pytest.raises(Unreachable):
        list(client.events("dj_1", patience=0.05))
    with pytest.raises(ApiError, match="nothing at"):
        list(client.events("dj_2"))


def test_the_address_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_URL", "http://127.0.0.1:1234/")
    with Client() as client:
        assert client.url == "http://127.0.0.1:1234"
    with Client("http://elsewhere:1") as client:
        assert client.url == "http://elsewhere:1"
