"""The report as a table: what the small network costs, and what distilling it was worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from rich.table import Table

from distill.headlines import Headline, headline_of
from distill.method_names import student_title
from distill.published import in_words
from limbeck.console import bytes_text
from limbeck.results import Figures, Published, Report

_Row = tuple[str, Callable[[Figures], str]]


def _row(name: str, key: str, show: Callable[[Any], str]) -> _Row:
    return name, lambda figures: "" if figures.get(key) is None else show(figures[key])


def _share(share: float) -> str:
    return f"{share:.2%}"


def _count(count: int) -> str:
    return f"{count:,}"


_ROWS: list[_Row] = [
    _row("accuracy", "top1", _share),
    _row("mean error of points", "nme", _share),
    _row("images off by more than 10 %", "failure_rate", _share),
    _row("agrees with teacher", "agreement", _share),
    _row("distance from teacher's points", "nme_to_teacher", _share),
    _row("KL to teacher", "kl_to_teacher", lambda nats: f"{nats:.3f}"),
    _row("parameters", "parameters", _count),
    _row("of these binary", "binary_parameters", lambda count: _count(count) if count else ""),
    _row("file", "bytes", bytes_text),
    _row("CPU, one image", "latency_ms", lambda ms: f"{ms:.2f} ms"),
]


def report_table(report: Report) -> Table:
    """Teacher, plainly trained student if there is one, and student, side by side; no row without a value."""
    columns: list[tuple[str, Figures]] = [("teacher", report["teacher"])]
    if baseline := report.get("baseline"):
        columns.append(("student, labels alone", baseline))
    columns.append(("student" + student_title(report.get("method")).removeprefix("Student"), report["student"]))
    table = Table(title="Measured on the test images")
    published = report.get("published")
    table.add_column("")
    for number, (name, _) in enumerate(columns, 1):
        table.add_column(name, justify="right", style="bold" if number == len(columns) else None)
    for name, show in _ROWS:
        cells = [show(figures) for _, figures in columns]
        if any(cells):
            table.add_row(name, *cells)
        if name == "accuracy" and published:
            table.add_row("as published", *_published_row(published, has_baseline=bool(baseline)))
    return table


def _published_row(published: Published, *, has_baseline: bool) -> list[str]:
    alone = [published["baseline_top1"]] if has_baseline else []
    shares = [published["teacher_top1"], *alone, published["top1"]]
    return ["" if share is None else f"{share:.2%}" for share in shares]


def conclusion(report: Report) -> str:
    """The table in a sentence or two."""
    teacher, student = report["teacher"], report["student"]
    headline = headline_of(student)
    parts = [_worth(headline, report)] if headline else []
    ratio = teacher["parameters"] / max(1, student["parameters"])
    parts.append(f"The student has {ratio:.1f} times fewer parameters than its teacher.")
    if report.get("head") == "teacher":
        parts.append("It answers through its connector and the teacher's own last layer (head: teacher).")
    elif report.get("head") == "own":
        parts.append("It answers with its own linear layer (head: own).")
    return " ".join([*parts, *in_words(report.get("published"))])


def _worth(headline: Headline, report: Report) -> str:
    """What distilling gained over labels alone; without such a student, where the distilled one stands."""
    student, baseline = _value(headline, report["student"]), _value(headline, report.get("baseline"))
    assert student is not None
    if baseline is None:
        teacher = None if headline.against_teacher else _value(headline, report["teacher"])
        beside = "" if teacher is None else f" (teacher: {_share(teacher)})"
        return f"The student {headline.clause.format(_share(student))}{beside}."
    gain = 100 * (headline.goodness(student) - headline.goodness(baseline))
    if not headline.falls:
        return f"Distilling was worth {gain:+.2f} points over the same student trained on labels alone."
    done = f"took {gain:.2f} points off" if gain >= 0 else f"added {-gain:.2f} points to"
    return f"Distilling {done} the {headline.noun} of the same student trained on labels alone."


def _value(headline: Headline, figures: Figures | None) -> float | None:
    return cast(float | None, (figures or {}).get(headline.name))
