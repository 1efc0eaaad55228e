"""What the pages show, ready for template and script alike: plain strings and numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

from api.job_schemas import ArtifactSchema, progress_of
from api.pages import chart, sweeps, wording
from distill.headlines import Headline
from distill.method_names import student_title
from distill.published import in_words
from models import Job, JobStatus
from service import job_views, results, sweep_views
from service.results import STUDENT

_LISTED = 50
_LOG_LINES = 200


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
    headline = wording.headline_of_job(job)
    drawn = _chart(job, headline) if headline is not None else None
    return {
        **_state(job),
        "chart": dataclasses.asdict(drawn) if drawn is not None else None,
        # Whatever adds or removes parts of the page; the script loads it anew then.
        "layout": [
            job.is_terminal,
            [row.name for row in artifacts],
            ([line.name for line in drawn.lines], len(drawn.y_ticks)) if drawn is not None else None,
            job.attempt,
            headline and headline.name,
        ],
    }


def _chart(job: Job, headline: Headline) -> chart.Chart | None:
    epochs = (job.config_resolved or {}).get("training", {}).get("epochs")
    return chart.draw(
        job_views.series(job.id, names=[headline.metric("student"), headline.metric("baseline")]),
        headline=headline,
        teacher=None if headline.against_teacher else job.metrics.get("teacher", {}).get(headline.name),
        epochs=epochs if isinstance(epochs, int) else 1,
    )


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
    log = job_views.events(job.id, types=["log"], limit=_LOG_LINES, newest=True)
    side_by_side = columns(job)
    headline = wording.headline_of_job(job)
    return {
        "job": job,
        "sweep_title": sweeps.title(sweep_views.get(job.sweep_id)) if job.sweep_id else "",
        "title": title(job),
        "pair": pair(job),
        "state": job_state(job),
        "columns": side_by_side,
        "rows": wording.rows_of([figures for _, figures in side_by_side]),
        "has_rivals": headline is None or not headline.against_teacher,
        "artifacts": [ArtifactSchema.of(row) for row in results.listing(job.id)],
        "student_name": STUDENT,
        "attempts": job_views.attempts(job.id),
        "settings": settings_of(job),
        "log": [(row.at, row.data["level"], row.data["message"]) for row in log],
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
    named = [
        ("Teacher", "teacher", "teacher_top1"),
        ("Student, labels alone", "baseline", "baseline_top1"),
        (student_title(report.get("method")), "student", "top1"),
    ]
    published = report.get("published") or {}
    return [(name, {**report[side], "published": published.get(key)}) for name, side, key in named if report.get(side)]


def settings_of(job: Job) -> list[tuple[str, str]]:
    """The resolved request, flat: dotted names and values."""
    config = job.config_resolved or job.spec
    parts = {name: config.get(name) for name in ("recipe", "student", "method", "landmarks", "training", "outputs")}
    return [(name, str(value)) for name, value in _flat(parts) if value is not None]


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, ", ".join(map(str, value)) if isinstance(value, list) else value)]
    return [pair for name, inner in value.items() for pair in _flat(inner, f"{prefix}.{name}" if prefix else name)]
