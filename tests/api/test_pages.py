from __future__ import annotations

import html
import itertools
import math
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.pages import chart, wording
from distill import events
from distill.headlines import HEADLINES, Headline
from service import wishes

STATIC = Path(chart.__file__).parent / "static"
VALUES = st.floats(allow_nan=False, allow_infinity=False) | st.floats(0.0, 2.0)
REPORT = {
    "teacher": {"top1": 0.9312, "parameters": 308_000, "bytes": 1_234_567, "latency_ms": 1.234},
    "student": {"top1": 0.8854, "parameters": 24_000, "bytes": 101_000, "latency_ms": 0.4, "agreement": 0.91},
    "baseline": {"top1": 0.8470, "parameters": 24_000, "bytes": 101_000, "latency_ms": 0.4},
    "method": "srrl",
}
COSTS = {"parameters": 24_000, "binary_parameters": 0, "macs": 5_000, "binary_macs": 0, "operations": 5_000}
UNLABELLED = {
    "teacher": COSTS,
    "student": {**COSTS, "agreement": 0.9125, "kl_to_teacher": 0.1234, "cka": 0.87, "nmi_to_teacher": 0.654},
    "baseline": None,
    "method": "srrl + kd",
}
POINTS = {
    "teacher": {**COSTS, "nme": 0.0431, "failure_rate": 0.031, "auc": 0.58},
    "student": {**COSTS, "nme": 0.0512, "failure_rate": 0.047, "auc": 0.51, "nme_to_teacher": 0.0275, "cka": 0.9},
    "baseline": {**COSTS, "nme": 0.0567, "failure_rate": 0.062, "auc": 0.47, "nme_to_teacher": 0.0391, "cka": 0.6},
    "method": "fitnet",
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


def measured(running: Any, name: str, *values: float, teacher: float | None = None, prefix: str = "") -> None:
    """Evaluations after the epochs from 1 on."""
    batch = [(0, {f"teacher/val/{name}": teacher})] if teacher is not None else []
    batch += [(epoch, {f"{prefix}val/{name}": value}) for epoch, value in enumerate(values, 1)]
    running.record(*(events.Metric(step=3 * epoch, epoch=epoch, values=values) for epoch, values in batch))


def rows_of(page: httpx.Response) -> dict[str, list[str]]:
    """The table of results: the cells of each row by its first one."""
    table = re.search(r'<table class="report">.*?</table>', page.text, re.DOTALL)
    assert table is not None
    lines = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in table[0].split("<tr>")[1:]]
    return {html.unescape(cells[0]): cells[1:] for cells in lines}


def test_a_job_without_labels_is_about_agreement(client: httpx.Client, running: Any) -> None:
    measured(running, "agreement", 0.5, 0.9, teacher=1.0)
    before = text_of(client.get(f"/jobs/{running.job_id}"))
    assert "Student, agreement with the teacher, best so far 90.00 %" in before
    running.record(events.Report(report=UNLABELLED))
    running.finish()
    page = client.get(f"/jobs/{running.job_id}")
    text = text_of(page)
    assert "Done: the student guesses as the teacher does on 91.25 % of the test images" in text
    assert "Agreement with the teacher by epoch" in text
    for senseless in ("labels alone", "100.0", "Accuracy"):
        assert senseless not in text.split("Settings")[0]
    assert rows_of(page) == {
        "On the test images": ["Teacher", "Student by SRRL + KD"],
        "Agrees with the teacher": ["–", "91.25 %"],
        "KL to the teacher": ["–", "0.123"],
        "CKA of features with the teacher's": ["–", "0.870"],
        "Clusters shared with the teacher (NMI)": ["–", "0.654"],
        "Parameters": ["24,000", "24,000"],
        "Multiply-adds per image": ["5,000", "5,000"],
    }
    (row,) = client.get("/jobs.json").json()["jobs"]
    found = {name: row[name] for name in ("student", "baseline", "teacher", "measure")}
    expected = {"student": "91.25 %", "baseline": "–", "teacher": "–", "measure": "agreement with the teacher"}
    assert found == expected


def test_a_job_of_points_is_about_their_error(client: httpx.Client, running: Any) -> None:
    measured(running, "nme", 1.7, 0.06, 0.05, 0.055, teacher=0.0431)
    measured(running, "nme", 2.3, 0.058, prefix="baseline/")
    state = client.get(f"/jobs/{running.job_id}/state.json").json()
    assert [state[name] for name in ("student", "baseline", "teacher")] == ["5.00 %", "5.80 %", "4.31 %"]
    running.record(events.Report(report=POINTS))
    running.finish()
    page = client.get(f"/jobs/{running.job_id}")
    text = text_of(page)
    assert "Done: 5.12 % mean error, 0.55 points below the same student on labels alone" in text
    assert "Student, mean error 5.12 %" in text
    assert "Mean error of points by epoch" in text
    rows = rows_of(page)
    assert list(rows)[:4] == [
        "On the test images", "Mean error of points", "Images off by more than 10 %",
        "Area under the curve of errors up to 10 %",
    ]  # fmt: skip
    assert rows["On the test images"] == ["Teacher", "Student, labels alone", "Student by FitNet"]
    assert rows["Mean error of points"] == ["4.31 %", "5.67 %", "5.12 %"]
    assert rows["Mean distance from the teacher's points"] == ["–", "3.91 %", "2.75 %"]
    assert "Accuracy" not in text


def test_signs_are_counted_where_there_are_any(client: httpx.Client, running: Any) -> None:
    binary = {"parameters": 24_000, "binary_parameters": 22_000, "macs": 900, "binary_macs": 64_000, "operations": 1900}
    student = {**REPORT["student"], **binary}  # type: ignore[dict-item]
    running.record(events.Report(report={**REPORT, "teacher": {"top1": 0.93, **COSTS}, "student": student}))
    running.finish()
    rows = rows_of(client.get(f"/jobs/{running.job_id}"))
    assert rows["Binary weights"] == ["0", "–", "22,000"]
    assert rows["Operations per image (64 signs count as one)"] == ["5,000", "–", "1,900"]
    assert "Mean error of points" not in rows


@pytest.mark.parametrize("report", [REPORT, UNLABELLED, POINTS])
def test_a_report_of_any_kind_is_read_as_it_was_written(
    client: httpx.Client, running: Any, report: dict[str, Any]
) -> None:
    running.record(events.Report(report=report))
    running.finish()
    read = client.get(f"/distill/{running.job_id}/report").json()
    for side in ("teacher", "student"):
        assert {name: value for name, value in read[side].items() if value is not None} == report[side]


def test_plain_training_is_called_so(client: httpx.Client, running: Any) -> None:
    running.record(events.Report(report={**REPORT, "baseline": None, "method": "ce"}))
    running.finish()
    page = client.get(f"/jobs/{running.job_id}")
    assert rows_of(page)["On the test images"] == ["Teacher", "Student, labels alone"]
    assert "Done: the student is right on 88.54 % of the test images" in text_of(page)


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
        forbidden = r"<style|\sstyle=|\son[a-z]+=|javascript:|(src|href|action|srcset)=[\"']?(https?:)?//(?!127)"
        assert not re.search(forbidden, page)
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


def test_a_degraded_job_says_so_until_a_checkpoint_is_written(client: httpx.Client, running: Any) -> None:
    reason = "No checkpoint could be written at step 3: No space left on device."
    running.record(events.Phase(phase="training", run="student"))
    running.epoch(1, 0.5)
    running.record(events.Degraded(reason=reason))

    job = client.get(f"/distill/{running.job_id}").json()
    assert (job["status"], job["status_reason"]) == ("running", reason)
    assert client.get(f"/jobs/{running.job_id}/state.json").json()["sentence"].endswith(f". {reason}")
    assert f"WARNING {reason}" in " ".join(client.get(f"/distill/{running.job_id}/logs").text.split())

    running.record(events.Checkpoint(step=6, epoch=2, run="student"))
    assert client.get(f"/distill/{running.job_id}").json()["status_reason"] is None
    assert reason not in client.get(f"/jobs/{running.job_id}/state.json").json()["sentence"]


def test_an_unknown_job_has_no_page(client: httpx.Client) -> None:
    assert client.get("/jobs/dj_nothing").status_code == 404


def test_a_waiting_job_says_its_place(client: httpx.Client, job_id: str, body: dict[str, Any]) -> None:
    second = client.post("/distill", json=body).json()["id"]
    assert "Waiting for a worker, number 2 in the queue" in text_of(client.get(f"/jobs/{second}"))
    wishes.cancel(second)
    page = client.get(f"/jobs/{second}")
    assert "Cancelled before it began" in text_of(page)
    assert "No epoch was finished, so there is no student. To begin anew, submit the request again." in text_of(page)
    assert "cancelled_by_user" not in page.text  # nothing went wrong


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (40.4, "40 s"), (91, "2 min"), (3600, "60 min"), (7500, "2 h 5 min"), (None, "–")],
)
def test_durations(seconds: float | None, words: str) -> None:
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(("num_bytes", "words"), [(7, "7 bytes"), (101_000, "101.0 kB"), (2.5e9, "2.5 GB")])
def test_sizes(num_bytes: float, words: str) -> None:
    assert wording.size(num_bytes) == words


def places(line: chart.Line) -> list[tuple[float, float]]:
    found = []
    for pair in line.points.split():
        x, y = map(float, pair.split(","))
        found.append((x, y))
    return found


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

    def test_an_error_falls_and_its_wild_beginning_leaves_the_end_readable(self) -> None:
        values = [30.0, 0.5, 0.08, 0.06, 0.05]
        series = {
            "val/nme": [{"epoch": epoch, "value": value} for epoch, value in enumerate(values, 1)],
            "val/top1": [{"epoch": 1, "value": 0.9}],
        }
        drawn = chart.draw(series, headline=HEADLINES["nme"], teacher=0.04, epochs=5)
        assert drawn is not None
        (heights, teacher) = ([y for _, y in places(line)] for line in drawn.lines)
        assert heights == sorted(heights)
        assert heights[0] < 0  # outside
        assert heights[2] > 0
        assert heights[-1] - heights[-2] >= 8
        assert teacher[0] - heights[-1] >= 8
        assert [line.label for line in drawn.lines] == ["5.00 %", "4.00 %"]

    def test_what_is_not_finite_is_not_drawn(self) -> None:
        points = [{"epoch": 1, "value": math.inf}, {"epoch": 2, "value": 0.5}]
        drawn = chart.draw({"val/nme": points}, headline=HEADLINES["nme"], teacher=math.nan, epochs=2)
        assert drawn is not None
        assert [len(places(line)) for line in drawn.lines] == [1]
        assert chart.draw({"val/nme": points[:1]}, headline=HEADLINES["nme"], teacher=0.5, epochs=2) is None

    @given(
        headline=st.sampled_from(list(HEADLINES.values())),
        student=st.lists(VALUES, max_size=8),
        baseline=st.lists(VALUES, max_size=8),
        teacher=st.none() | VALUES,
        epochs=st.integers(1, 1000),
    )
    def test_any_values_come_to_a_chart(
        self, headline: Headline, student: list[float], baseline: list[float], teacher: float | None, epochs: int
    ) -> None:
        runs = {headline.metric("student"): student, headline.metric("baseline"): baseline}
        series = {
            name: [{"epoch": epoch, "value": value} for epoch, value in enumerate(values, 1)]
            for name, values in runs.items()
        }
        drawn = chart.draw(series, headline=headline, teacher=teacher, epochs=epochs)
        if drawn is None:
            assert not student
            assert not baseline
            return
        ticks = [tick.at for tick in drawn.y_ticks]
        assert 2 <= len(ticks) <= 8
        assert ticks == sorted(ticks, reverse=True)
        assert len({tick.text for tick in drawn.y_ticks}) == len(ticks)
        top, bottom = ticks[-1], ticks[0]
        assert 0 <= top < bottom <= chart.HEIGHT
        for line in drawn.lines:
            drawn_at = places(line)
            assert all(-chart.HEIGHT <= y <= bottom for _, y in drawn_at)
            assert top <= drawn_at[-1][1]
            values = dict(zip(("student", "baseline"), runs.values(), strict=True)).get(line.name, [teacher] * 2)
            ranked = sorted(zip(values, drawn_at, strict=True), key=lambda pair: pair[0])
            heights = [y for _, (_, y) in ranked]
            assert heights == sorted(heights, reverse=True)
        labels = sorted(line.label_y for line in drawn.lines)
        assert all(below - above >= 15 for above, below in itertools.pairwise(labels))
        assert 0 <= labels[0] <= labels[-1] <= chart.HEIGHT
