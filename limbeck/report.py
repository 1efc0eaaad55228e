"""The report as a table: what the small network costs, and what distilling it was worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.table import Table

from distill.published import in_words
from limbeck.console import bytes_text
from limbeck.results import Figures, Published, Report

_Row = tuple[str, Callable[[Figures], str]]


def _row(name: str, key: str, show: Callable[[Any], str]) -> _Row:
    return name, lambda figures: "" if figures.get(key) is None else show(figures[key])


_ROWS: list[_Row] = [
    _row("accuracy", "top1", lambda share: f"{share:.2%}"),
    _row("agrees with teacher", "agreement", lambda share: f"{share:.2%}"),
    _row("parameters", "parameters", lambda count: f"{count:,}"),
    _row("file", "bytes", bytes_text),
    _row("CPU, one image", "latency_ms", lambda ms: f"{ms:.2f} ms"),
]


def report_table(report: Report) -> Table:
    """Teacher, plainly trained student if there is one, and student, side by side."""
    method = report.get("method", "").upper()
    columns: list[tuple[str, Figures]] = [("teacher", report["teacher"])]
    if baseline := report.get("baseline"):
        columns.append(("student, labels alone", baseline))
    columns.append((f"student by {method}" if method else "student", report["student"]))
    table = Table(title="Measured on the test images")
    published = report.get("published")
    table.add_column("")
    for name, _ in columns:
        table.add_column(name, justify="right", style="bold" if name.startswith("student by") else None)
    for name, show in _ROWS:
        table.add_row(name, *(show(figures) for _, figures in columns))
        if name == "accuracy" and published:
            table.add_row("as published", *_published_row(published, has_baseline=bool(baseline)))
    return table


def _published_row(published: Published, *, has_baseline: bool) -> list[str]:
    alone = [published["baseline_top1"]] if has_baseline else []
    shares = [published["teacher_top1"], *alone, published["top1"]]
    return ["" if share is None else f"{share:.2%}" for share in shares]


def conclusion(report: Report) -> str:
    """The table in a sentence or two."""
    teacher, student, baseline = report["teacher"], report["student"], report.get("baseline")
    parts = []
    if baseline:
        gain = 100 * (student["top1"] - baseline["top1"])
        parts.append(f"Distilling was worth {gain:+.2f} points over the same student trained on labels alone.")
    ratio = teacher["parameters"] / max(1, student["parameters"])
    parts.append(f"The student has {ratio:.1f} times fewer parameters than its teacher.")
    if report.get("head") == "teacher":
        parts.append("It classifies through its connector and the teacher's own classifier (head: teacher).")
    elif report.get("head") == "own":
        parts.append("It classifies with its own linear layer (head: own).")
    return " ".join([*parts, *in_words(report.get("published"))])
