"""A job's life with real processes and real faults, on both stacks."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models import InputStatus, Job
from service import job_views, queue, results, wishes, workers
from service.artifacts import store

LONG = {"epochs": 1000, "batch_size": 4}
"""Outlasts any test."""
BRIEF = {"epochs": 12, "batch_size": 4}
"""Some seconds: enough to be disturbed in."""


def student(job_id: str) -> dict[str, torch.Tensor]:
    return load_file(store().local_path(results.get(job_id, name="student.safetensors").key))


def outcomes(job_id: str) -> list[str | None]:
    return [attempt.outcome for attempt in job_views.attempts(job_id)]


def assert_orderly(job_id: str) -> None:
    """What must hold of any ended job's events, whatever happened."""
    events = job_views.events(job_id, limit=100_000)
    assert [e.seq for e in events] == list(range(1, len(events) + 1))
    fences = [e.fence for e in events]
    assert fences == sorted(fences)
    assert [e.type for e in events].count("end") == 1
    assert events[-1].type == "end"


def trained(job: Job) -> bool:
    """It has a finished epoch behind it."""
    return any(e.type == "checkpoint" for e in job_views.events(job.id))


def test_a_job_goes_from_queue_to_student(stack: Any, submit: Callable[..., str], until: Callable[..., Job]) -> None:
    stack.start_worker()
    job_id = submit(epochs=15, baseline=True, outputs=["safetensors", "connector"])

    job = until(job_id, lambda j: j.is_terminal)

    assert job.status == "succeeded", job.error
    assert job.report is not None
    assert job.report["student"]["top1"] > 0.4  # four classes
    assert [a.name for a in results.listing(job_id)] == [
        "baseline.safetensors",
        "connector.safetensors",
        "student.safetensors",
    ]
    assert set(job_views.series(job_id)) >= {"train/loss", "train/fm", "val/top1", "baseline/val/top1", "lr"}
    assert "auto" not in str(job.config_resolved)
    assert outcomes(job_id) == ["succeeded"]
    assert_orderly(job_id)
    assert stack.trainers() == []


def test_killed_trainer_and_killed_worker_change_nothing_in_the_result(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    worker = stack.start_worker()
    undisturbed, disturbed = submit(**BRIEF), submit(**BRIEF)
    until(undisturbed, lambda j: j.is_terminal)
    until(disturbed, trained)

    stack.trainers()[0].kill()
    until(disturbed, lambda j: j.attempt == 2 and len(job_views.events(j.id, types=["checkpoint"])) >= 3)
    worker.kill()
    worker.wait()
    time.sleep(1.0)
    assert stack.trainers() == []  # it does not outlive its supervisor
    stack.start_worker()
    job = until(disturbed, lambda j: j.is_terminal)

    assert job.status == "succeeded", job.error
    assert outcomes(disturbed) == ["crashed", "crashed", "succeeded"]
    assert job_views.attempts(disturbed)[2].resumed_from_step > 0
    expected, found = student(undisturbed), student(disturbed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert results.get(undisturbed, name="student.safetensors").sha256 == (
        results.get(disturbed, name="student.safetensors").sha256
    )
    assert job_views.series(disturbed, names=["val/top1"]) == job_views.series(undisturbed, names=["val/top1"])
    assert_orderly(disturbed)


def test_a_worker_that_is_stopped_hands_its_job_back(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    worker = stack.start_worker()
    job_id = submit(**BRIEF)
    until(job_id, trained)

    worker.terminate()
    worker.wait(20)

    job = job_views.get(job_id)
    assert job.status == "queued"
    assert job.crash_count == 0
    assert outcomes(job_id) == ["released"]
    stack.start_worker()
    assert until(job_id, lambda j: j.is_terminal).status == "succeeded"
    assert job_views.attempts(job_id)[1].resumed_from_step > 0


def test_a_cancelled_job_leaves_its_best_student(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    stack.start_worker()
    job_id = submit(**LONG)
    until(job_id, trained)

    asked = time.monotonic()
    assert wishes.cancel(job_id).status == "cancelling"
    job = until(job_id, lambda j: j.is_terminal, seconds=10)

    assert time.monotonic() - asked < 10
    assert job.status == "cancelled"
    assert stack.trainers() == []
    assert job.error is not None
    assert job.error["code"] == "cancelled_by_user"
    assert "in the phase training, after" in job.error["message"]
    assert f"GET /distill/{job_id}/student" in job.error["hint"]
    row = results.get(job_id, name="student.safetensors")
    results.verify(job_id)
    assert row.size > 0
    assert wishes.cancel(job_id).status == "cancelled"
    assert_orderly(job_id)


def test_a_trainer_that_always_dies_fails_its_job_and_not_the_worker(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    stack.start_worker()
    poison = submit(**LONG)

    def kill_at_once(job: Job) -> bool:
        for trainer in stack.trainers():
            trainer.kill()
        return job.is_terminal

    job = until(poison, kill_at_once, seconds=90)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "internal_error"
    assert "signal 9" in job.error["message"]
    assert outcomes(poison) == ["crashed"] * 3

    healthy = submit()
    assert until(healthy, lambda j: j.is_terminal).status == "succeeded"


def test_a_frozen_worker_loses_its_job_and_can_write_nothing_more(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    frozen = stack.start_worker()
    job_id = submit(**LONG)
    until(job_id, trained)
    old_trainer = stack.trainers()[0]
    stack.freeze(frozen, job_id)
    stack.start_worker()
    until(job_id, lambda j: j.attempt == 2 and j.status == "running")

    os.kill(frozen.pid, signal.SIGCONT)

    deadline = time.monotonic() + 10
    while old_trainer.is_running() and old_trainer.status() != "zombie" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not old_trainer.is_running() or old_trainer.status() == "zombie"
    until(job_id, lambda j: j.status == "running" and trained(j))
    fences = [e.fence for e in job_views.events(job_id, limit=100_000)]
    assert fences == sorted(fences)
    wishes.cancel(job_id)
    until(job_id, lambda j: j.is_terminal, seconds=15)


def test_repeated_and_forged_messages_change_nothing(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    stack.start_worker()
    job_id = submit()
    app = queue.configure()
    with app.connection_for_write() as connection:  # the app's own pool keeps the broker of the first test that used it
        for _ in range(20):
            app.send_task(queue.RUN_JOB, args=[job_id], connection=connection)
            app.send_task(queue.RUN_JOB, args=["dj_unknown"], connection=connection)

    until(job_id, lambda j: j.is_terminal)

    assert outcomes(job_id) == ["succeeded"]
    later = submit()
    assert until(later, lambda j: j.is_terminal).status == "succeeded"


def test_a_job_whose_message_was_lost_is_rung_for_again(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    job_id = submit()
    from sqlalchemy import delete

    from models import OutboxMessage
    from service import database

    stack.start_worker()
    until(job_id, lambda j: j.dispatched_at is not None)
    with database.begin() as session:
        session.execute(delete(OutboxMessage))
    app = queue.configure()
    with app.connection_for_write() as connection:
        app.control.purge(connection)

    assert until(job_id, lambda j: j.is_terminal).status == "succeeded"


def test_the_job_ends_when_its_time_is_over_and_keeps_its_student(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    stack.start_worker()
    job_id = submit(**LONG, max_runtime_seconds=12)

    job = until(job_id, lambda j: j.is_terminal, seconds=40)

    assert job.error is not None
    assert job.error["code"] == "max_runtime_exceeded"
    assert results.get(job_id, name="student.safetensors").size > 0


def test_a_data_set_that_cannot_be_read_fails_its_waiting_job(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job], tmp_path: Any
) -> None:
    """The archive's outline is sound, its bytes are not: only the full check finds it."""
    from sqlalchemy import select

    from models import Dataset
    from service import database

    job_id = submit()
    with database.read() as session:
        key = session.scalars(select(Dataset)).one().source_key
    path = store().local_path(key)
    raw = bytearray(path.read_bytes())
    raw[200:260] = bytes(60)
    path.write_bytes(raw)
    stack.start_worker()

    job = until(job_id, lambda j: j.is_terminal)

    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] in {"upload_corrupt", "dataset_unreadable"}
    with database.read() as session:
        assert session.scalars(select(Dataset)).one().status == InputStatus.ERROR


@pytest.fixture(autouse=True)
def _no_leftovers(stack: Any) -> Any:
    yield
    stack.stop()
    assert stack.trainers() == []


def test_a_paused_job_frees_its_worker_and_goes_on_to_the_same_weights(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    stack.start_worker()
    disturbed = submit(**BRIEF)
    until(disturbed, trained)

    wishes.pause(disturbed)
    undisturbed = submit(**BRIEF)
    until(disturbed, lambda j: j.status == "paused", seconds=15)
    assert until(undisturbed, lambda j: j.is_terminal).status == "succeeded"  # its worker is free
    assert job_views.get(disturbed).status == "paused"
    wishes.resume(disturbed)
    job = until(disturbed, lambda j: j.is_terminal)

    assert job.status == "succeeded", job.error
    assert outcomes(disturbed) == ["paused", "succeeded"]
    assert job_views.attempts(disturbed)[1].resumed_from_step > 0
    expected, found = student(undisturbed), student(disturbed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert_orderly(disturbed)


def test_a_worker_that_drains_ends_its_job_and_stops(
    stack: Any, submit: Callable[..., str], until: Callable[..., Job]
) -> None:
    worker = stack.start_worker()
    first = submit(**BRIEF)
    until(first, trained)
    second = submit(**BRIEF)

    (row,) = workers.alive()
    workers.drain(row.name)
    assert until(first, lambda j: j.is_terminal).status == "succeeded"
    worker.wait(timeout=60)

    assert job_views.get(second).status == "queued"
    assert workers.alive() == []
    stack.start_worker()
    assert until(second, lambda j: j.is_terminal).status == "succeeded"
