"""Numbers and states in words, as the pages show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from markupsafe import Markup, escape

from api.job_schemas import ProgressSchema, progress_of, waiting_for
from distill.headlines import Headline, headline_of
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
        case JobStatus.PAUSING:
            return "Pausing: a checkpoint is written"
        case JobStatus.PAUSED:
            return "Paused" + (f" after {_epochs(job)}" if job.metrics.get("last") else "; it has not begun")
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
    return _under_way(job) + (f". {job.status_reason}" if job.status_reason else "")


def _under_way(job: Job) -> str:
    if job.phase != "training":
        return _PHASES.get(job.phase or "", "Running")
    progress = progress_of(job)
    if progress is None:
        return "Training begins"
    left = f", about {duration(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
    return f"{_RUNS.get(progress.run, 'Training')}: epoch {progress.epoch} of {progress.epochs}{left}"


def _done(job: Job) -> str:
    report = job.report or {}
    figures, baseline = report.get("student") or {}, report.get("baseline") or {}
    headline = headline_of(figures)
    if headline is None:
        return "Done"
    value, plain = figures[headline.name], baseline.get(headline.name)
    if plain is None:
        return f"Done: the student {headline.clause.format(percent(value))}"
    gap = 100 * (value - plain)
    side = "above" if gap >= 0 else "below"
    return f"Done: {percent(value)} {headline.verdict}, {abs(gap):.2f} points {side} the same student on labels alone"


def _epochs(job: Job) -> str:
    count = job.metrics["last"].get("epoch", 0)
    return f"{count} epoch{'' if count == 1 else 's'}; the student so far is kept"


def headline_of_job(job: Job) -> Headline | None:
    """What its students are followed by; None until something was measured."""
    sides = [*job.metrics.values(), (job.report or {}).get("student")]
    return next(filter(None, map(headline_of, sides)), None)


def facts(progress: ProgressSchema | None, job: Job) -> dict[str, str]:
    """The live numbers of a job, by the name under which the page shows them."""
    headline = headline_of_job(job)
    return {
        **{side: percent(_value(job, side, headline)) for side in ("student", "teacher", "baseline")},
        "measure": headline.noun if headline else "",
        "speed": f"{progress.images_per_second:,.0f} images/s" if progress else "–",
        "steps": f"{progress.step:,} of {progress.total_steps:,}" if progress else "–",
    }


def _value(job: Job, side: str, headline: Headline | None) -> float | None:
    if headline is None or (headline.against_teacher and side == "teacher"):
        return None
    # The report is of the files that are handed out, and so has the last word.
    figures = (job.report or {}).get(side) or job.metrics.get("best" if side == "student" else side) or {}
    value: float | None = figures.get(headline.name)
    return value


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


def decimals(value: float | None) -> str:
    """0.123."""
    return "–" if value is None else f"{value:.3f}"


ROWS: list[tuple[str, str, Any]] = [
    ("Accuracy", "top1", percent),
    ("Accuracy as published", "published", percent),
    ("Top 5", "top5", percent),
    ("Calibration error", "ece", percent),
    ("Mean error of points", "nme", percent),
    ("Images off by more than 10 %", "failure_rate", percent),
    ("Area under the curve of errors up to 10 %", "auc", percent),
    ("Agrees with the teacher", "agreement", percent),
    ("KL to the teacher", "kl_to_teacher", decimals),
    ("Mean distance from the teacher's points", "nme_to_teacher", percent),
    ("CKA of features with the teacher's", "cka", decimals),
    ("Clusters shared with the teacher (NMI)", "nmi_to_teacher", decimals),
    ("Clusters that are the classes (NMI)", "nmi_to_labels", decimals),
    ("Parameters", "parameters", count),
    ("Binary weights", "binary_parameters", count),
    ("Multiply-adds per image", "macs", count),
    ("Multiply-adds of signs per image", "binary_macs", count),
    ("Operations per image (64 signs count as one)", "operations", count),
    ("File", "bytes", size),
    ("CPU time per image", "latency_ms", milliseconds),
]
"""Of the table of results: what it says, the key in the report, how it is shown."""
_OF_BINARY = {"binary_parameters", "binary_macs", "operations"}


def rows_of(columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, Any]]:
    """The rows in which these columns say anything; what counts signs only where some network has them."""
    is_binary = any(figures.get("binary_parameters") for figures in columns)
    return [
        row
        for row in ROWS
        if any(figures.get(row[1]) is not None for figures in columns) and (is_binary or row[1] not in _OF_BINARY)
    ]
