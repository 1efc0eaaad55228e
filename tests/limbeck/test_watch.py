from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from limbeck import Client
from limbeck import watch as watch_module
from limbeck.report import conclusion, report_table
from limbeck.results import Report
from limbeck.watch import outcome, watch


def job(status: str, phase: str | None = None, **more: Any) -> dict[str, Any]:
    ended = status in {"succeeded", "failed"}
    return {"id": "dj_1", "status": status, "phase": phase, "is_terminal": ended, **more}


def training(run: str, epoch: int) -> dict[str, Any]:
    progress = {
        "run": run,
        "epoch": epoch,
        "epochs": 40,
        "percent": 30.0,
        "eta_seconds": 75.0,
        "images_per_second": 9e3,
    }
    return job("running", "training", progress=progress, metrics={"teacher": {"top1": 0.931}})


@pytest.fixture
def distilling(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service with a job that trains the student, then the baseline, then is done."""
    monkeypatch.setattr(watch_module, "_POLL", 0.02)
    states = [
        job("queued", queue={"position": 3, "waiting_for": "worker"}),
        job("running", "preparing"),
        training("student", 12),
        training("student", 12),
        training("baseline", 40),
        job("succeeded", metrics={"teacher": {"top1": 0.931}}),
    ]
    scripted.on("GET", "/distill/dj_1", *(scripted.reply(200, state) for state in states))
    events = [
        ("log", {"level": "info", "message": "teacher: 93.1 % on the test images"}),
        ("metric", {"step": 1, "epoch": 12, "values": {"val/top1": 0.8712, "train/loss": 0.5}}),
        ("metric", {"step": 2, "epoch": 40, "values": {"baseline/val/top1": 0.8451}}),
        ("end", {}),
    ]
    listed = [{"id": n, "type": kind, "data": data} for n, (kind, data) in enumerate(events, 1)]
    scripted.on(
        "GET",
        "/distill/dj_1/events",
        scripted.reply(200, {"data": listed[:1], "has_more": False}),
        scripted.reply(503, {"detail": "restarting"}, Retry_After="0"),
        scripted.reply(200, {"data": listed[1:2], "has_more": True}),
        scripted.reply(200, {"data": listed[2:], "has_more": False}),
        scripted.reply(200, {"data": [], "has_more": False}),
    )
    return scripted


def test_lines_for_a_pipe(distilling: Any) -> None:
    out = Console(file=io.StringIO(), width=200)
    with Client(distilling.url) as client:
        assert watch(client, "dj_1", out=out)["status"] == "succeeded"
    text = out.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "queued, 2 before it, waiting for a worker\n",
        "preparing\n",
        "training student\n",
        "training labels alone\n",
        "teacher: 93.1 % on the test images\n",
        "student: epoch 12, 87.1%",
        "labels alone: epoch 40, 84.5%",
        "succeeded\n",
    ):
        assert part in text
    assert text.count("training student") == 1
    assert text.count("student: epoch 12") == 1
    asked = [a.path.split("after=")[1].split("&")[0] for a in distilling.asked if "events" in a.path]
    assert asked[:5] == ["0", "1", "1", "2", "4"]


def test_bars_for_a_terminal(distilling: Any) -> None:
    out = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    with Client(distilling.url) as client:
        watch(client, "dj_1", out=out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    for part in ("the whole job", "epoch 12/40  9,000 images/s", "87.1% (teacher 93.1%)", "1:15 left", "84.5%"):
        assert part in text


def test_a_failed_job_says_why() -> None:
    error = {"code": "loss_diverged", "message": "The loss became NaN at step 3.", "hint": "Lower the rate."}
    failed: Any = job("failed", error=error)
    assert outcome(failed) == "failed - The loss became NaN at step 3. - Lower the rate."


def test_a_cancelled_job_is_no_failure() -> None:
    said = {"code": "cancelled_by_user", "message": "Cancelled by its user in the phase training.", "hint": "Get it."}
    cancelled: Any = job("cancelled", error=said)
    assert outcome(cancelled) == "Cancelled by its user in the phase training. Get it."
    assert outcome(job("cancelled", error=None)) == "cancelled"  # of an older service


@pytest.mark.parametrize(
    ("name", "teacher", "value", "shown"),
    [("nme", 0.0431, 0.0512, "error 5.12% (teacher 4.31%)"), ("agreement", 1.0, 0.9125, "agrees 91.2%")],
)
@pytest.mark.parametrize("is_terminal", [True, False])
def test_each_kind_of_job_is_followed_by_its_own_figure(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, name: str, teacher: float, value: float, shown: str,
    is_terminal: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(watch_module, "_POLL", 0.02)
    during = training("student", 12) | {"metrics": {"teacher": {name: teacher}}}
    after = job("succeeded", metrics={"teacher": {name: teacher}})
    scripted.on("GET", "/distill/dj_1", *(scripted.reply(200, state) for state in (during, during, during, after)))
    data = {"step": 1, "epoch": 12, "values": {f"val/{name}": value}}
    listed = {"data": [{"id": 1, "type": "metric", "data": data}], "has_more": False}
    nothing = {"data": [], "has_more": False}
    scripted.on("GET", "/distill/dj_1/events", scripted.reply(200, listed), scripted.reply(200, nothing))
    out = Console(file=io.StringIO(), width=200, force_terminal=is_terminal, color_system=None)
    with Client(scripted.url) as client:
        watch(client, "dj_1", out=out)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert shown in text
    assert ("(teacher" in text) == (name == "nme")  # it agrees with itself, which tells nothing
    if not is_terminal:
        assert f"student: epoch 12, {shown}\n" in text


def cells_of(report: Report) -> list[list[str]]:
    """The rows of the table behind its heading."""
    out = Console(record=True, width=160, file=io.StringIO())
    out.print(report_table(report))
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.export_text().splitlines() if "│" in line]


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (0.0512, "Distilling took 0.55 points off the mean error of the same student trained on labels alone."),
        (0.0587, "Distilling added 0.20 points to the mean error of the same student trained on labels alone."),
    ],
)
def test_a_report_of_points_counts_less_error_as_gain(student: float, words: str) -> None:
    report: Report = {
        "method": "srrl + fitnet",
        "teacher": {"nme": 0.0431, "failure_rate": 0.03, "parameters": 100},
        "baseline": {"nme": 0.0567, "failure_rate": 0.06, "parameters": 10, "binary_parameters": 0},
        "student": {"nme": student, "failure_rate": 0.05, "parameters": 10, "binary_parameters": 8},
    }
    assert cells_of(report) == [
        ["mean error of points", "4.31%", "5.67%", f"{100 * student:.2f}%"],
        ["images off by more than 10 %", "3.00%", "6.00%", "5.00%"],
        ["parameters", "100", "10", "10"],
        ["of these binary", "", "", "8"],
    ]
    assert conclusion(report) == f"{words} The student has 10.0 times fewer parameters than its teacher."


def test_a_report_without_labels_says_how_the_student_agrees() -> None:
    report: Report = {
        "method": "crd",
        "teacher": {"parameters": 100},
        "baseline": None,
        "student": {"agreement": 0.9125, "kl_to_teacher": 0.1234, "parameters": 10},
    }
    assert [row[0] for row in cells_of(report)] == ["agrees with teacher", "KL to teacher", "parameters"]
    assert "The student guesses as the teacher does on 91.25% of the test images. " in conclusion(report)


def test_the_report_as_a_table(tmp_path: Path) -> None:
    report: Report = {
        "method": "srrl",
        "head": "teacher",
        "teacher": {"top1": 0.9312, "parameters": 308_000, "bytes": 1_240_000, "latency_ms": 1.5},
        "baseline": {"top1": 0.8470, "parameters": 24_000, "bytes": 98_000, "latency_ms": 0.4, "agreement": 0.86},
        "student": {"top1": 0.8850, "parameters": 24_000, "bytes": 98_000, "latency_ms": 0.4, "agreement": 0.9},
    }
    out = Console(record=True, width=160, file=io.StringIO())
    out.print(report_table(report))
    rows = {line.split("│")[1].strip(): line for line in out.export_text().splitlines() if line.count("│") == 5}
    assert [rows["accuracy"].split("│")[n].strip() for n in (2, 3, 4)] == ["93.12%", "84.70%", "88.50%"]
    assert [rows["file"].split("│")[n].strip() for n in (2, 3, 4)] == ["1.2 MB", "98 kB", "98 kB"]
    assert [rows["agrees with teacher"].split("│")[n].strip() for n in (2, 3, 4)] == ["", "86.00%", "90.00%"]
    words = conclusion(report)
    for part in ("+3.80 points", "12.8 times fewer", "head: teacher"):
        assert part in words
    without: Report = {"teacher": report["teacher"], "student": report["student"], "baseline": None}
    out.print(report_table(without))
    assert "points" not in conclusion(without)
    assert "The student is right on 88.50% of the test images (teacher: 93.12%)." in conclusion(without)


@pytest.mark.parametrize("has_baseline", [True, False])
def test_the_report_shows_published_beside_measured(has_baseline: bool) -> None:
    report: Report = {
        "method": "srrl",
        "teacher": {"top1": 0.7911, "parameters": 8_970_000},
        "baseline": {"top1": 0.7602, "parameters": 2_770_000} if has_baseline else None,
        "student": {"top1": 0.7803, "parameters": 2_770_000},
        "published": {
            "recipe": "srrl/cifar100/wrn40x4-wrn16x4",
            "title": "SRRL: WRN-40-4 → WRN-16-4 on CIFAR-100",
            "top1": 0.7958,
            "teacher_top1": 0.795,
            "baseline_top1": 0.7697,
            "rivals": {"kd": 0.7835},
            "source": "[paper] the paper",
            "departures": [],
        },
    }
    out = Console(record=True, width=160, file=io.StringIO())
    out.print(report_table(report))
    cells = [[cell.strip() for cell in line.split("│")] for line in out.export_text().splitlines() if "│" in line]
    (row,) = (line[2:-1] for line in cells if line[1] == "as published")
    assert row == (["79.50%", "76.97%", "79.58%"] if has_baseline else ["79.50%", "79.58%"])
    words = conclusion(report)
    assert "published with 79.58 % ([paper] the paper). Other methods on the same pair: KD 78.35 %." in words
    assert "departs" not in words
    without = Console(record=True, width=160, file=io.StringIO())
    without.print(report_table({**report, "published": None}))
    assert "as published" not in without.export_text()
