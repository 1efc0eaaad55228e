from __future__ import annotations

import html
import itertools
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.pages import chart, wording
from distill import events
from service import jobs

STATIC = Path(chart.__file__).parent / "static"
REPORT = {
    "teacher": {"top1": 0.9312, "parameters": 308_000, "bytes": 1_234_567, "latency_ms": 1.234},
    "student": {"top1": 0.8854, "parameters": 24_000, "bytes": 101_000, "latency_ms": 0.4, "agreement": 0.91},
    "baseline": {"top1": 0.8470, "parameters": 24_000, "bytes": 101_000, "latency_ms": 0.4},
    "method": "srrl",
}


def text_of(answer: httpx.Response) -> str:
    """What a reader without script sees, in one line."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def test_an_empty_service_says_how_to_begin(client: httpx.Client) -> None:
    page = client.get("/")
    assert "make demo" in text_of(page)
    assert 'data-if="empty" hidden' not in page.text


def test_the_first_page_shows_every_job_in_words(client: httpx.Client, running: Any) -> None:
    assert "Preparing: the teacher is proved on the data" in text_of(client.get("/"))
    running.record(events.Phase(phase="training", run="student"))
    running.epoch(2, 0.5)
    page = text_of(client.get("/"))
    assert "Training the student: epoch 2 of 4, about 12 s left" in page
    assert "50.00 %" in page
    assert "tiny" in page


def test_a_job_that_ended_well_shows_all_three_and_its_files(client: httpx.Client, running: Any) -> None:
    running.epoch(1, 0.5)
    running.keep(b"weights")
    running.record(events.Report(report=REPORT))
    running.finish()
    page = client.get(f"/jobs/{running.job_id}")
    text = text_of(page)
    for shown in ("93.12 %", "84.70 %", "88.54 %", "308,000", "101.0 kB", "0.40 ms", "Student by SRRL"):
        assert shown in text
    assert "Done: 88.54 % correct, 3.84 points above the same student on labels alone" in text
    assert f'href="/distill/{running.job_id}/artifacts/student.safetensors"' in page.text
    assert "<polyline" in page.text


def test_a_job_that_failed_says_why(client: httpx.Client, running: Any) -> None:
    running.fail({"code": "loss_diverged", "message": "The loss is not finite.", "hint": "Lower the rate."})
    text = text_of(client.get(f"/jobs/{running.job_id}"))
    assert "Failed while preparing: The loss is not finite." in text
    assert "loss_diverged Lower the rate." in text


def test_what_users_write_stays_text(client: httpx.Client, body: dict[str, Any]) -> None:
    name = '"><script>alert(1)</script>'
    job = client.post("/distill", json=body | {"name": name}).json()
    for path in ("/", f"/jobs/{job['id']}"):
        page = client.get(path)
        assert name not in page.text
        assert name in html.unescape(page.text)


def test_no_page_needs_what_the_policy_forbids(client: httpx.Client, running: Any) -> None:
    running.epoch(1, 0.5)
    for path in ("/", f"/jobs/{running.job_id}", "/docs"):
        page = client.get(path).text
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:|https?://(?!127)", page)
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
        for link in re.findall(r'(?:src|href)="(/static/[^"]+)"', page):
            assert client.get(link).status_code == 200
    assert "innerHTML" not in (STATIC / "live.js").read_text()


def test_the_script_reads_what_the_page_shows(client: httpx.Client, running: Any) -> None:
    running.record(events.Phase(phase="training", run="student"))
    running.epoch(1, 0.5)
    state = client.get(f"/jobs/{running.job_id}/state.json").json()
    page = client.get(f"/jobs/{running.job_id}").text
    bound = dict(re.findall(r'data-bind="(\w+)"[^>]*>([^<]*)<', page))
    assert bound.pop("percent", "") == ""
    assert bound == {name: str(state[name]) for name in bound}
    assert {"sentence", "status", "student", "teacher", "speed", "steps"} <= set(bound)
    (row,) = client.get("/jobs.json").json()["jobs"]
    assert (row["id"], row["sentence"]) == (running.job_id, state["sentence"])


def test_an_unknown_job_has_no_page(client: httpx.Client) -> None:
    assert client.get("/jobs/dj_nothing").status_code == 404


def test_a_waiting_job_says_its_place(client: httpx.Client, job_id: str, body: dict[str, Any]) -> None:
    second = client.post("/distill", json=body).json()["id"]
    assert "Waiting for a worker, number 2 in the queue" in text_of(client.get(f"/jobs/{second}"))
    jobs.cancel(second)
    assert "Cancelled before it began" in text_of(client.get(f"/jobs/{second}"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (40.4, "40 s"), (91, "2 min"), (3600, "60 min"), (7500, "2 h 5 min"), (None, "–")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(("num_bytes", "words"), [(7, "7 bytes"), (101_000, "101.0 kB"), (2.5e9, "2.5 GB")])
def test_sizes(num_bytes: float, words: str) -> None:
    assert wording.size(num_bytes) == words


class TestChart:
    def test_higher_is_higher_and_later_is_further_right(self) -> None:
        points = [{"epoch": epoch, "value": epoch / 10} for epoch in range(1, 9)]
        drawn = chart.draw({"val/top1": points}, teacher=0.93, epochs=10)
        assert drawn is not None
        line = next(line for line in drawn.lines if line.name == "student")
        places = [tuple(map(float, pair.split(","))) for pair in line.points.split()]
        assert places == sorted(places)
        assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
        assert all(drawn.left <= x <= drawn.right and 0 <= y <= drawn.bottom for x, y in places)

    @pytest.mark.parametrize("value", [0.0, 0.1, 0.5, 1.0])
    def test_one_point_alone_can_be_drawn(self, value: float) -> None:
        drawn = chart.draw({"val/top1": [{"epoch": 1, "value": value}]}, teacher=None, epochs=1)
        assert drawn is not None
        assert len(drawn.y_ticks) >= 2

    def test_labels_do_not_cover_each_other(self) -> None:
        series = {"val/top1": [{"epoch": 1, "value": 0.9}], "baseline/val/top1": [{"epoch": 1, "value": 0.9001}]}
        drawn = chart.draw(series, teacher=0.9002, epochs=3)
        assert drawn is not None
        heights = sorted(line.label_y for line in drawn.lines)
        assert all(below - above >= 15 for above, below in itertools.pairwise(heights))

    def test_nothing_measured_is_no_chart(self) -> None:
        assert chart.draw({}, teacher=0.9, epochs=3) is None
