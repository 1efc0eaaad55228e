"""How jobs end that nobody ran to their end: after too long a wait, and by their user's wish; on both engines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from distill import events
from distill.spec import DistillSpec
from models import Job, Teacher, db_now
from service import database as database_module
from service import job_views, jobs, results, wishes
from service.errors import Conflict
from service.settings import settings
from worker import sweeper

pytestmark = pytest.mark.usefixtures("database")
DAY = 86400.0


@pytest.fixture
def submit(body: dict[str, Any]) -> Callable[[], str]:
    return lambda: jobs.submit(DistillSpec.model_validate(body)).id


def has_waited(job_id: str, *, days: float) -> None:
    with database_module.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(waiting_since=db_now() - days * DAY))


def error_of(job_id: str) -> dict[str, Any]:
    error = job_views.get(job_id).error
    assert error is not None
    return error


def test_a_job_waits_for_seven_days_and_no_longer(submit: Callable[[], str]) -> None:
    patient, late, fresh = submit(), submit(), submit()
    has_waited(patient, days=6.9)
    has_waited(late, days=7.1)

    sweeper.sweep()
    sweeper.sweep()

    assert [job_views.get(job_id).status for job_id in (patient, late, fresh)] == ["queued", "failed", "queued"]
    error = error_of(late)
    assert (error["code"], error["phase"], error["retryable"]) == ("queue_timeout", None, True)
    assert error["message"] == "The job waited for a worker for longer than 604800 s."
    assert "LIMBECK_QUEUE_TIMEOUT_SECONDS" in error["hint"]
    assert [(e.type, e.data.get("status")) for e in job_views.events(late)] == [
        ("status", "queued"),
        ("status", "failed"),
        ("end", "failed"),
    ]
    assert jobs.claim(late, owner="one") is None
    with pytest.raises(Conflict):
        wishes.cancel(late)


def test_the_operator_sets_how_long(submit: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_QUEUE_TIMEOUT_SECONDS", "60")
    settings.cache_clear()
    job_id = submit()
    assert jobs.time_out() == 0
    has_waited(job_id, days=61 / DAY)
    assert jobs.time_out() == 1
    assert "for longer than 60 s" in error_of(job_id)["message"]


def test_a_job_that_waits_for_its_inputs_does_not_wait_for_ever(
    submit: Callable[[], str], body: dict[str, Any]
) -> None:
    with database_module.begin() as session:
        session.get_one(Teacher, body["teacher"]["id"]).status = "processing"
    job_id = submit()
    assert job_views.get(job_id).dispatched_at is None
    has_waited(job_id, days=8)

    assert jobs.time_out() == 1

    assert "for its inputs to be checked" in error_of(job_id)["message"]
    with database_module.begin() as session:
        session.get_one(Teacher, body["teacher"]["id"]).status = "ready"
    assert jobs.settle_waiting() == 0
    assert job_views.get(job_id).status == "failed"


def test_what_runs_does_not_wait_and_coming_back_begins_a_new_wait(submit: Callable[[], str]) -> None:
    job_id = submit()
    has_waited(job_id, days=6.9)
    held = jobs.claim(job_id, owner="one")
    assert held is not None
    has_waited(job_id, days=30)
    assert jobs.time_out() == 0

    jobs.release(job_id, fence=held.fence)

    assert jobs.time_out() == 0
    assert job_views.get(job_id).status == "queued"


def test_a_cancelled_job_tells_when_and_where(submit: Callable[[], str], tmp_path: Path) -> None:
    waiting, begun, trained = submit(), submit(), submit()
    fences = {}
    for job_id in (begun, trained):
        held = jobs.claim(job_id, owner="one")
        assert held is not None
        fences[job_id] = held.fence
    file = tmp_path / "student"
    file.write_bytes(b"weights")
    said = [events.Phase(phase="training", run="student"), events.Metric(step=4, epoch=1, values={"val/top1": 0.5})]
    jobs.record(trained, fence=fences[trained], batch=said)
    results.keep(trained, fence=fences[trained], name=results.STUDENT, path=file, content_type="x")
    for job_id in (waiting, begun, trained):
        wishes.cancel(job_id)
    for job_id, fence in fences.items():
        assert job_views.get(job_id).error is None  # it has not ended yet
        jobs.release(job_id, fence=fence)

    for job_id, phase, words in (
        (waiting, None, "while it waited in the queue."),
        (begun, "preparing", "in the phase preparing."),
        (trained, "training", "in the phase training, after 1 epoch."),
    ):
        error = error_of(job_id)
        assert (error["code"], error["phase"], error["retryable"]) == ("cancelled_by_user", phase, False)
        assert re.fullmatch(r"Cancelled by its user at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, " + words, error["message"])
        has_student = f"GET /distill/{job_id}/student" in error["hint"]
        assert has_student == (job_id == trained)
        assert "submit the request again" in error["hint"]
        assert job_views.events(job_id)[-2].data["error"] == error
