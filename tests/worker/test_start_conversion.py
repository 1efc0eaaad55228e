"""A pickle that a student starts from, made into safetensors by the worker: what ends that, ends the attempt."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from distill.registry import build_network
from distill.spec import NetworkOptions
from models import Job
from service import database as database_module
from service import job_views, jobs, starts, wishes
from service import settings as settings_module
from service.artifacts import store
from service.jobs import Claim
from tests.fixtures.tiny import CLASSES, STUDENT
from worker.preparer import prepare_next
from worker.supervisor import Supervisor

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


def allow(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("LIMBECK_ALLOW_PICKLE", value)
    settings_module.settings.cache_clear()


@pytest.fixture
def job_id(
    stack: Any,
    submit: Callable[..., str],
    upload: Callable[[Path, Any], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A job that is ready to be run and starts from a file of torch.save."""
    allow(monkeypatch, "1")
    options = NetworkOptions.model_validate(STUDENT["options"])
    network = build_network("resnet8", options=options, num_classes=CLASSES, in_channels=1)
    torch.save(network.state_dict(), tmp_path / "start.pth")
    upload_id = upload(tmp_path / "start.pth", "student_init")
    job_id = submit(student=STUDENT | {"init": {"upload_id": upload_id}}, epochs=1000, batch_size=4)
    while prepare_next("tester", stopping=threading.Event()):
        continue
    return job_id


def claimed(job_id: str) -> Claim:
    claim = jobs.claim(job_id, owner="tester")
    assert claim is not None
    assert claim.start_is_pickled
    return claim


def run(job_id: str, *, stopping: bool = False) -> Job:
    """The job after one attempt."""
    told = threading.Event()
    if stopping:
        told.set()
    Supervisor(claimed(job_id), stopping=told).run()
    return job_views.get(job_id)


def error_of(job: Job) -> tuple[str, str]:
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["hint"]
    return job.error["code"], job.error["param"]


@contextmanager
def readers_killed() -> Iterator[None]:
    """Every reader of uploads that this process starts, as soon as it is there."""
    done = threading.Event()

    def kill() -> None:
        while not done.wait(0.02):
            for child in psutil.Process().children():
                if child.status() != psutil.STATUS_ZOMBIE and "worker.ingest_process" in child.cmdline():
                    child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        done.set()
        killer.join()


def test_a_worker_whose_operator_does_not_let_pickles_in(job_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, "0")
    job = run(job_id)
    assert error_of(job) == ("unsupported_format", "/student/init")
    assert job.error is not None
    assert "LIMBECK_ALLOW_PICKLE" in job.error["hint"]


def test_a_file_that_was_damaged_in_the_store(job_id: str) -> None:
    with database_module.read() as session:
        key = starts.key_of(session.get_one(Job, job_id).facts)
    assert key is not None
    path = store().local_path(key)
    path.write_bytes(path.read_bytes()[:-100])
    assert error_of(run(job_id)) == ("upload_corrupt", "/student/init")


def test_a_reader_that_always_dies(job_id: str) -> None:
    with readers_killed():
        found = [run(job_id) for _ in range(3)]
    assert [job.status for job in found] == ["queued", "queued", "failed"]
    assert error_of(found[-1]) == ("unsafe_file", "/student/init")
    assert [attempt.outcome for attempt in job_views.attempts(job_id)] == ["crashed"] * 3


def test_a_worker_that_stops_hands_the_job_back(job_id: str) -> None:
    assert run(job_id, stopping=True).status == "queued"
    assert [attempt.outcome for attempt in job_views.attempts(job_id)] == ["released"]


def test_a_user_who_does_not_want_it_any_more(job_id: str) -> None:
    claim = claimed(job_id)
    wishes.cancel(job_id)
    Supervisor(claim, stopping=threading.Event()).run()
    job = job_views.get(job_id)
    assert job.status == "cancelled"
    assert job.error is not None
    assert job.error["code"] == "cancelled_by_user"
