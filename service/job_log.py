"""What is written about a job: its events, and what of them its row remembers. Always within a caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from distill import events
from distill.headlines import HEADLINES
from models import Attempt, Job, JobEvent


def say(session: Session, job: Job, type: str, data: dict[str, Any]) -> None:
    """Append an event."""
    job.last_seq += 1
    session.add(JobEvent(job_id=job.id, seq=job.last_seq, type=type, fence=job.fence, data=data))


def state(job: Job) -> dict[str, Any]:
    """What a status event tells."""
    return {"status": job.status, "phase": job.phase, "reason": job.status_reason, "error": job.error}


def touch(job: Job) -> None:
    """Count up the version: what a reader holds is stale, and its ETag with it."""
    job.version += 1


def apply(session: Session, job: Job, event: events.Event) -> None:
    """Write one event of training."""
    match event:
        case events.Phase():
            job.phase = event.phase
            say(session, job, "status", {**state(job), "run": event.run})
        case events.Resolved():
            training = {**(job.config_resolved or {})["training"], **event.values.get("training", {})}
            job.config_resolved = {**(job.config_resolved or {}), "training": training}
            if method := event.values.get("method"):
                job.config_resolved = {**job.config_resolved, "method": method}
            job.facts = {**job.facts, "runtime": event.values.get("runtime", {})}
        case events.Progress():
            job.progress = {k: v for k, v in events.to_json(event).items() if k != "event"}
        case events.Metric():
            job.step = max(job.step, event.step)
            job.metrics = _merge(job.metrics, event)
            say(session, job, "metric", {"step": event.step, "epoch": event.epoch, "values": event.values})
        case events.Log():
            say(session, job, "log", {"level": event.level, "message": event.message})
        case events.Degraded():
            job.status_reason = event.reason
            say(session, job, "log", {"level": "warning", "message": event.reason})
        case events.Checkpoint():
            job.step, job.status_reason = max(job.step, event.step), None
            say(session, job, "checkpoint", {"step": event.step, "epoch": event.epoch, "run": event.run})
        case events.Resumed():
            attempt = session.get_one(Attempt, (job.id, job.attempt))
            attempt.resumed_from_step = event.step
            say(session, job, "log", {"level": "info", "message": f"resumed from step {event.step}"})
        case events.Report():
            job.report = event.report
        case events.Artifact() | events.Failed() | events.Finished() | events.Alive():
            raise AssertionError(f"{event!r} is the supervisor's, not a record")


def _merge(metrics: dict[str, Any], event: events.Metric) -> dict[str, Any]:
    """``metrics`` of the job: the teacher's, the best and the last evaluation, the baseline's last."""
    merged = dict(metrics)
    for name, headline in HEADLINES.items():
        if (teacher := event.values.get(headline.metric("teacher"))) is not None:
            merged["teacher"] = {name: teacher}
        if (value := event.values.get(headline.metric("student"))) is not None:
            last = {name: value, "epoch": event.epoch}
            merged["last"] = last
            best = merged.get("best", last)[name]
            if headline.goodness(value) >= headline.goodness(best):
                merged["best"] = last
        if (baseline := event.values.get(headline.metric("baseline"))) is not None:
            merged["baseline"] = {name: baseline, "epoch": event.epoch}
    return merged
