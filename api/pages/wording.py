"""Numbers and states in words, as the pages show them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from api.job_schemas import ProgressSchema, progress_of, waiting_for
from models import Job, JobStatus, utcnow

_PHASES = {
    "preparing": "Preparing: the teacher is proved on the data",
    "evaluating": "Measuring teacher and student side by side",
    "exporting": "Writing the student's file",
}
_RUNS = {"student": "Training the student", "baseline": "Training the same student on labels alone, to compare"}


def sentence(job: Job, *, position: int | None = None) -> str:
    """The job's state as one sentence."""
    match job.status:
        case JobStatus.QUEUED:
            return _waiting(job, position)
        case JobStatus.RUNNING:
            return _running(job)
        case JobStatus.CANCELLING:
            return "Stopping; the best student so far is kept"
        case JobStatus.SUCCEEDED:
            return _done(job)
        case JobStatus.FAILED:
            error = job.error or {}
            phase = f" while {error['phase']}" if error.get("phase") else ""
            return f"Failed{phase}: {error.get('message', 'no reason was recorded')}"
        case JobStatus.CANCELLED:
            return "Cancelled" + (f" after {_epochs(job)}" if job.metrics.get("last") else " before it began")
        case _:
            return job.status.capitalize()


def _waiting(job: Job, position: int | None) -> str:
    wanted = waiting_for(job)
    if wanted in ("teacher", "dataset"):
        return f"Waiting until the {'data set' if wanted == 'dataset' else wanted} is checked"
    place = f"number {position} in the queue" if position else "in the queue"
    if job.status_reason:
        return f"Waiting again, {place}: {job.status_reason}"
    return f"Waiting for a worker, {place}"


def _running(job: Job) -> str:
    if job.phase != "training":
        return _PHASES.get(job.phase or "", "Running")
    progress = progress_of(job)
    if progress is None:
        return "Training begins"
    left = f", about {duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
    return f"{_RUNS.get(progress.run, 'Training')}: epoch {progress.epoch} of {progress.epochs}{left}"


def _done(job: Job) -> str:
    report = job.report or {}
    student, baseline = report.get("student") or {}, report.get("baseline") or {}
    if "top1" not in student:
        return "Done"
    if "top1" not in baseline:
        return f"Done: the student is right on {percent(student['top1'])} of the test images"
    gain = 100 * (student["top1"] - baseline["top1"])
    side = "above" if gain >= 0 else "below"
    return f"Done: {percent(student['top1'])} correct, {abs(gain):.2f} points {side} the same student on labels alone"


def _epochs(job: Job) -> str:
    count = job.metrics["last"].get("epoch", 0)
    return f"{count} epoch{'' if count == 1 else 's'}; the student so far is kept"


def facts(progress: ProgressSchema | None, job: Job) -> dict[str, str]:
    """The live numbers of a job, by the name under which the page shows them."""
    # The report is of the files that are handed out, and so has the last word.
    metrics, report = job.metrics, job.report or {}
    top1 = {
        side: (report.get(side) or metrics.get("best" if side == "student" else side) or {}).get("top1")
        for side in ("student", "teacher", "baseline")
    }
    return {
        **{side: percent(share) for side, share in top1.items()},
        "speed": f"{progress.images_per_second:,.0f} images/s" if progress else "–",
        "steps": f"{progress.step:,} of {progress.total_steps:,}" if progress else "–",
    }


def duration(seconds: float | None) -> str:
    """40 s, 3 min, 2 h 5 min."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def ago(moment: datetime) -> str:
    """just now, 3 min ago, 2 days ago."""
    seconds = max(0.0, (utcnow() - moment).total_seconds())
    if seconds < 10:
        return "just now"
    if seconds < 2 * 86400:
        return f"{duration(seconds)} ago"
    return f"{seconds / 86400:.0f} days ago"


def percent(share: float | None) -> str:
    """A share of 1 as 88.54 %."""
    return "–" if share is None else f"{100 * share:.2f} %"


def count(number: float | None) -> str:
    """Digits in groups of three."""
    return "–" if number is None else f"{number:,.0f}"


def marked(text: str) -> Markup:
    """Text with `code` in backticks as HTML, everything else escaped."""
    pieces = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if number % 2 else escape(piece) for number, piece in enumerate(pieces)
    )


def size(num_bytes: float | None) -> str:
    """1.2 MB."""
    if num_bytes is None:
        return "–"
    for unit in ("bytes", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "bytes" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def milliseconds(value: float | None) -> str:
    """0.42 ms."""
    return "–" if value is None else f"{value:.2f} ms"


ROWS: list[tuple[str, str, Any]] = [
    ("Accuracy", "top1", percent),
    ("Accuracy as published", "published", percent),
    ("Top 5", "top5", percent),
    ("Agrees with the teacher", "agreement", percent),
    ("Parameters", "parameters", count),
    ("Multiply-adds per image", "macs", count),
    ("File", "bytes", size),
    ("CPU time per image", "latency_ms", milliseconds),
]
"""Of the table of results: what it says, the key in the report, how it is shown."""
