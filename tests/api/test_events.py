from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from api.routes import events as events_route
from distill import events


@contextmanager
def stream(client: httpx.Client, job_id: str, **headers: str) -> Iterator[httpx.Response]:
    asked = {"Accept": "text/event-stream", **headers}
    with client.stream("GET", f"/distill/{job_id}/events", headers=asked) as answer:
        yield answer


def messages(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """A plain reading of the wire format, by the standard's own rules for the fields used here."""
    message: dict[str, Any] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            message[name or "comment"] = value
        elif message:
            yield message
            message = {}


class TestList:
    def test_events_count_from_one_without_gaps(self, client: httpx.Client, running: Any) -> None:
        running.epoch(1, 0.5)
        running.finish()
        found = client.get(f"/distill/{running.job_id}/events").json()
        assert [event["id"] for event in found["data"]] == list(range(1, len(found["data"]) + 1))
        assert [event["type"] for event in found["data"]] == ["status", "status", "metric", "status", "end"]
        assert (found["first_id"], found["last_id"], found["has_more"]) == (1, 5, False)
        assert found["data"][2]["data"]["values"] == {"val/top1": 0.5, "train/loss": 1.0}

    def test_pages_and_types(self, client: httpx.Client, running: Any) -> None:
        for number in (1, 2, 3):
            running.epoch(number, 0.5)
        url = f"/distill/{running.job_id}/events"
        page = client.get(url, params={"after": 1, "limit": 2}).json()
        assert ([event["id"] for event in page["data"]], page["has_more"]) == ([2, 3], True)
        metrics = client.get(url, params={"type": "metric"}).json()["data"]
        assert [event["data"]["epoch"] for event in metrics] == [1, 2, 3]
        both = client.get(url, params=[("type", "metric"), ("type", "status")]).json()["data"]
        assert len(both) == 5
        assert client.get(url, params={"type": "noise"}).status_code == 422


class TestStream:
    def test_a_finished_job_is_replayed_and_the_stream_ends(self, client: httpx.Client, running: Any) -> None:
        running.epoch(1, 0.5)
        running.finish()
        with stream(client, running.job_id) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["x-accel-buffering"] == "no"
            first, *rest = messages(answer)
        assert first == {"retry": "3000"}
        listed = client.get(f"/distill/{running.job_id}/events").json()["data"]
        assert [(int(m["id"]), m["event"]) for m in rest] == [(e["id"], e["type"]) for e in listed]
        assert [json.loads(m["data"]) for m in rest] == [{"at": e["at"], **e["data"]} for e in listed]
        assert rest[-1]["event"] == "end"

    def test_events_come_while_they_happen_and_a_broken_reader_misses_none(
        self, client: httpx.Client, running: Any
    ) -> None:
        def train() -> None:
            for number in range(1, 41):
                running.epoch(number, 0.5)
                time.sleep(0.03)
            running.finish()

        trainer = threading.Thread(target=train)
        trainer.start()
        seen: list[int] = []
        last_id, ended, connections = "", False, 0
        while not ended:
            connections += 1
            headers = {"Last-Event-ID": last_id} if last_id else {}
            with stream(client, running.job_id, **headers) as answer:
                for count, message in enumerate(messages(answer)):
                    if "id" in message:
                        last_id = message["id"]
                        seen.append(int(last_id))
                    ended = message.get("event") == "end"
                    if count == 12:
                        break  # the line breaks
        trainer.join()
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) == 2 + 40 + 2
        assert connections > 2

    def test_after_skips_and_the_header_wins(self, client: httpx.Client, running: Any) -> None:
        running.epoch(1, 0.5)
        running.finish()
        url, accept = f"/distill/{running.job_id}/events", {"Accept": "text/event-stream"}
        with client.stream("GET", url, params={"after": 2}, headers=accept) as answer:
            assert [m["id"] for m in messages(answer) if "id" in m] == ["3", "4", "5"]
        with client.stream("GET", url, params={"after": 2}, headers={**accept, "Last-Event-ID": "4"}) as answer:
            assert [m["id"] for m in messages(answer) if "id" in m] == ["5"]

    def test_types_are_chosen_and_the_end_always_comes(self, client: httpx.Client, running: Any) -> None:
        running.epoch(1, 0.5)
        running.finish()
        url = f"/distill/{running.job_id}/events"
        with client.stream("GET", url, params={"type": "metric"}, headers={"Accept": "text/event-stream"}) as answer:
            assert [m["event"] for m in messages(answer) if "event" in m] == ["metric", "end"]

    def test_who_has_seen_the_end_is_told_not_to_come_back(self, client: httpx.Client, running: Any) -> None:
        running.finish()
        with stream(client, running.job_id, **{"Last-Event-ID": "4"}) as answer:
            assert answer.status_code == 204

    def test_silence_is_filled_with_comments(
        self, client: httpx.Client, running: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(events_route, "_COMMENT_SECONDS", 0.3)
        with stream(client, running.job_id) as answer:
            assert next(m for m in messages(answer) if "comment" in m) == {"comment": "ping"}

    def test_a_reader_that_leaves_costs_nothing_more(
        self, client: httpx.Client, running: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        polls: list[float] = []
        look = events_route.job_views.events

        def counted(*args: Any, **kwargs: Any) -> Any:
            polls.append(time.monotonic())
            return look(*args, **kwargs)

        monkeypatch.setattr(events_route.job_views, "events", counted)
        with stream(client, running.job_id) as answer:
            next(messages(answer))
        client.close()
        time.sleep(0.8)
        before = len(polls)
        time.sleep(1.0)
        assert len(polls) == before


class TestMetrics:
    @pytest.fixture
    def trained(self, running: Any) -> Any:
        for number in range(1, 11):
            running.epoch(number, number / 20)
        return running

    def test_series_by_name(self, client: httpx.Client, trained: Any) -> None:
        found = client.get(f"/distill/{trained.job_id}/metrics").json()
        assert sorted(found["series"]) == ["train/loss", "val/top1"]
        assert found["series"]["val/top1"][0] == {"step": 3, "epoch": 1, "value": 0.05}
        assert len(found["series"]["val/top1"]) == 10

    def test_narrowed(self, client: httpx.Client, trained: Any) -> None:
        params = {"names": "val/top1,none", "from_step": 6, "to_step": 27, "max_points": 4}
        series = client.get(f"/distill/{trained.job_id}/metrics", params=params).json()["series"]
        assert list(series) == ["val/top1"]
        steps = [point["step"] for point in series["val/top1"]]
        assert len(steps) == 4
        assert (steps[0], steps[-1]) == (6, 27)

    def test_as_a_table(self, client: httpx.Client, trained: Any) -> None:
        answer = client.get(f"/distill/{trained.job_id}/metrics", headers={"Accept": "text/csv"})
        assert answer.headers["content-type"].startswith("text/csv")
        rows = list(csv.DictReader(io.StringIO(answer.text)))
        assert rows[0] == {"name": "train/loss", "step": "3", "epoch": "1", "value": "1.0"}
        assert len(rows) == 20


class TestLogs:
    @pytest.fixture
    def logged(self, running: Any) -> Any:
        levels = ["info", "warning", "info", "error"]
        running.record(*(events.Log(level=level, message=f"line {n}") for n, level in enumerate(levels)))  # type: ignore[arg-type]
        return running

    def test_as_text(self, client: httpx.Client, logged: Any) -> None:
        answer = client.get(f"/distill/{logged.job_id}/logs")
        assert answer.headers["content-type"].startswith("text/plain")
        lines = answer.text.splitlines()
        assert [line.split()[1:] for line in lines] == [
            ["INFO", "line", "0"],
            ["WARNING", "line", "1"],
            ["INFO", "line", "2"],
            ["ERROR", "line", "3"],
        ]

    def test_as_json_by_level_and_tail(self, client: httpx.Client, logged: Any) -> None:
        url, accept = f"/distill/{logged.job_id}/logs", {"Accept": "application/json"}
        severe = client.get(url, params={"level": "warning"}, headers=accept).json()["data"]
        assert [(line["level"], line["message"]) for line in severe] == [("warning", "line 1"), ("error", "line 3")]
        last = client.get(url, params={"level": "info", "tail": 2}, headers=accept).json()["data"]
        assert [line["message"] for line in last] == ["line 2", "line 3"]
