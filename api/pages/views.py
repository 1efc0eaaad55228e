"""What the pages show, ready for template and script alike: plain strings and numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

from api.job_schemas import ArtifactSchema, progress_of
from api.pages import chart, sweeps, wording
from distill.published import in_words
from models import Job, JobStatus
from service import job_views, results, sweep_views

_LISTED = 50
_LOG_LINES = 200
STUDENT = "student.safetensors"


def job_list() -> dict[str, Any]:
    """The newest jobs."""
    jobs, has_more = job_views.listing(limit=_LISTED)
    return {"jobs": [_row(job) for job in jobs], "has_more": has_more}


def _row(job: Job) -> dict[str, Any]:
    return {
        **_state(job),
        "id": job.id,
        "title": title(job),
        "pair": pair(job),
        "when": wording.ago(job.created_at),
        "sweep": f"/sweeps/{job.sweep_id}" if job.sweep_id else "",
    }


def job_state(job: Job) -> dict[str, Any]:
    """What changes while a job runs."""
    artifacts = results.listing(job.id)
    epochs = (job.config_resolved or {}).get("training", {}).get("epochs")
    names = ["val/top1", "baseline/val/top1"]
    series = job_views.series(job.id, names=names) if job.metrics else {}
    drawn = chart.draw(
        series, teacher=job.metrics.get("teacher", {}).get("top1"), epochs=epochs if isinstance(epochs, int) else 1
    )
    return {
        **_state(job),
        "chart": dataclasses.asdict(drawn) if drawn is not None else None,
        # Whatever adds or removes parts of the page; the script loads it anew then.
        "layout": [
            job.is_terminal,
            [row.name for row in artifacts],
            bool(drawn) and [line.name for line in drawn.lines] if drawn else [],
            job.attempt,
        ],
    }


def _state(job: Job) -> dict[str, Any]:
    progress = progress_of(job)
    position = job_views.position(job)
    return {
        "status": job.status,
        "is_terminal": job.is_terminal,
        "sentence": wording.sentence(job, position=position),
        "percent": 100.0 if job.status == JobStatus.SUCCEEDED else (progress.percent if progress else 0.0),
        **wording.facts(progress, job),
    }


def job_page(job: Job) -> dict[str, Any]:
    """Everything on a job's page."""
    rows = job_views.events(job.id, types=["log"], limit=_LOG_LINES, newest=True)
    return {
        "job": job,
        "sweep_title": sweeps.title(sweep_views.get(job.sweep_id)) if job.sweep_id else "",
        "title": title(job),
        "pair": pair(job),
        "state": job_state(job),
        "columns": columns(job),
        "artifacts": [ArtifactSchema.of(row) for row in results.listing(job.id)],
        "student_name": STUDENT,
        "attempts": job_views.attempts(job.id),
        "settings": settings_of(job),
        "log": [(row.at, row.data["level"], row.data["message"]) for row in rows],
        "rows": [row for row in wording.ROWS if row[1] != "published" or (job.report or {}).get("published")],
        "published": in_words((job.report or {}).get("published")),
    }


def title(job: Job) -> str:
    """The name that the user gave, or the id."""
    return job.name or job.id


def pair(job: Job) -> str:
    """teacher -> student."""
    names = [job.facts.get(side, {}).get("architecture", "?") for side in ("teacher", "student")]
    return " → ".join(names)


def columns(job: Job) -> list[tuple[str, dict[str, Any]]]:
    """The networks of the report, from the teacher on."""
    report = job.report or {}
    method = str(report.get("method", "")).upper()
    named = [
        ("Teacher", "teacher", "teacher_top1"),
        ("Student, labels alone", "baseline", "baseline_top1"),
        (f"Student by {method}" if method else "Student", "student", "top1"),
    ]
    published = report.get("published") or {}
    return [(name, {**report[side], "published": published.get(key)}) for name, side, key in named if report.get(side)]


def settings_of(job: Job) -> list[tuple[str, str]]:
    """The resolved request, flat: dotted names and values."""
    config = job.config_resolved or job.spec
    parts = {name: config.get(name) for name in ("recipe", "student", "method", "training", "outputs")}
    return [(name, str(value)) for name, value in _flat(parts) if value is not None]


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, ", ".join(map(str, value)) if isinstance(value, list) else value)]
    return [pair for name, inner in value.items() for pair in _flat(inner, f"{prefix}.{name}" if prefix else name)]
