"""What happens to trainers in the worst of days: frozen, orphaned, crashing at their start, without room."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models import Job
from service import job_views, results, settings
from service.artifacts import store

BRIEF = {"epochs": 12, "batch_size": 4}
LONG = {"epochs": 1000, "batch_size": 4}
# What is tried here lies between worker and trainer: one kind of database will do.
pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
STALL_SECONDS = 10.0
"""Short for a test, and longer than a busy machine lets a trainer of tiny networks wait."""

Until = Callable[..., Job]


def student(job_id: str) -> dict[str, torch.Tensor]:
    return load_file(store().local_path(results.get(job_id, name="student.safetensors").key))


def outcomes(job_id: str) -> list[str | None]:
    return [attempt.outcome for attempt in job_views.attempts(job_id)]


def warnings(job_id: str) -> list[str]:
    return [e.data["message"] for e in job_views.events(job_id, types=["log"]) if e.data["level"] == "warning"]


def trained(job: Job) -> bool:
    return any(e.type == "checkpoint" for e in job_views.events(job.id))


def test_a_frozen_trainer_is_killed_and_its_job_goes_on(
    stack: Any, submit: Callable[..., str], until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_STALL_SECONDS", str(STALL_SECONDS))
    stack.start_worker()
    undisturbed, job_id = submit(**BRIEF), submit(**BRIEF)
    until(job_id, trained)

    stack.trainers()[0].send_signal(signal.SIGSTOP)

    job = until(job_id, lambda j: j.is_terminal, seconds=180)
    assert job.status == "succeeded", job.error
    assert outcomes(job_id) == ["crashed", "succeeded"]
    assert job_views.attempts(job_id)[1].resumed_from_step > 0
    assert any("took no step for" in message for message in warnings(job_id))
    expected, found = student(undisturbed), student(job_id)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_frozen_trainer_does_not_outlive_its_killed_worker(
    stack: Any, submit: Callable[..., str], until: Until
) -> None:
    """It cannot see the end of its standard input: the kernel ends it."""
    if sys.platform != "linux":
        pytest.skip("the kernel's parent-death signal is Linux's")
    worker = stack.start_worker()
    job_id = submit(**LONG)
    until(job_id, trained)
    (trainer,) = stack.trainers()
    trainer.send_signal(signal.SIGSTOP)

    worker.kill()
    worker.wait()

    trainer.wait(timeout=10)
    assert stack.trainers() == []


SITE = """
import ctypes, pathlib, sys, time

trouble = pathlib.Path({trouble!r})

class Importer:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" and trouble.exists():
            ctypes.string_at(0) if trouble.read_text() == "crash" else stand_still()

def stand_still():
    time.sleep(1000)

if "worker.trainer_process" in sys.orig_argv:
    sys.meta_path.insert(0, Importer())
"""


@pytest.fixture
def trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, importing torch in a trainer is a real segmentation fault, or takes for ever."""
    file, folder = tmp_path / "trouble", tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE.format(trouble=str(file)))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return file


def test_a_trainer_that_crashes_at_its_start_fails_its_job_and_not_the_worker(
    stack: Any, submit: Callable[..., str], until: Until, trouble: Path
) -> None:
    """Within two minutes, of which almost all are the time that three trainers take to start."""
    trouble.write_text("crash")
    worker = stack.start_worker()
    poison = submit()

    job = until(poison, lambda j: j.is_terminal, seconds=120)

    assert job.status == "failed"
    assert job.error is not None
    assert job.error["code"] == "internal_error"
    assert f"signal {int(signal.SIGSEGV)}" in job.error["message"]
    assert any("Segmentation fault" in line for line in job.error["log_excerpt"])
    assert outcomes(poison) == ["crashed"] * 3
    assert worker.poll() is None
    trouble.unlink()
    healthy = submit()
    assert until(healthy, lambda j: j.is_terminal).status == "succeeded"


def test_a_trainer_that_stands_still_is_killed_and_tells_what_it_was_at(
    stack: Any, submit: Callable[..., str], until: Until, trouble: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first step it is given ten times the seconds of the setting."""
    monkeypatch.setenv("LIMBECK_STALL_SECONDS", "1.5")
    monkeypatch.setenv("LIMBECK_MAX_CRASHES", "1")
    trouble.write_text("stand still")
    stack.start_worker()
    job_id = submit()

    job = until(job_id, lambda j: j.is_terminal, seconds=90)

    assert job.error is not None
    assert job.error["message"] == "The trainer took no step for 15 s and was killed."
    assert any("in stand_still" in line for line in job.error["log_excerpt"])
    assert any("in main" in line for line in job.error["log_excerpt"])
    assert outcomes(job_id) == ["crashed"]


@pytest.fixture
def small_disk(stack: Any) -> Iterator[Callable[[Path], Path]]:
    """Put a file system of 8 MB in the place of a folder; the answer is a file to fill it up with."""
    mounted: list[Path] = []

    def mount(folder: Path) -> Path:
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
        try:
            done = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError:
            done = None
        if done is None or done.returncode != 0:
            pytest.skip("no file system may be mounted here")
        mounted.append(folder)
        return folder / "ballast"

    yield mount
    stack.stop()
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_full_store_leaves_out_what_it_cannot_hold_and_takes_what_comes_later(
    stack: Any, submit: Callable[..., str], until: Until, small_disk: Callable[[Path], Path]
) -> None:
    ballast = small_disk(settings.settings().artifacts_dir)
    stack.start_worker()
    job_id = submit(epochs=20, batch_size=4)
    until(job_id, lambda j: j.status == "running")
    fill(ballast)

    until(job_id, lambda _: any("student.safetensors could not be stored" in each for each in warnings(job_id)))
    assert results.listing(job_id) == []
    ballast.unlink()

    job = until(job_id, lambda j: j.is_terminal)
    assert job.status == "succeeded", job.error
    assert outcomes(job_id) == ["succeeded"]
    assert student(job_id)


def test_a_full_disk_leaves_a_job_degraded_until_there_is_room(
    stack: Any, submit: Callable[..., str], until: Until, small_disk: Callable[[Path], Path]
) -> None:
    ballast = small_disk(settings.settings().work_dir)
    stack.start_worker()
    job_id = submit(epochs=40, batch_size=4)
    until(job_id, trained)
    fill(ballast)

    job = until(job_id, lambda j: "No checkpoint" in (j.status_reason or ""))
    assert job.status == "running"
    assert "No space left on device" in job.status_reason
    saved = [e.seq for e in job_views.events(job_id, limit=100_000, types=["checkpoint"])][-1]
    ballast.unlink()

    until(job_id, lambda j: j.status_reason is None)
    assert job_views.events(job_id, after=saved, limit=100_000, types=["checkpoint"])
    job = until(job_id, lambda j: j.is_terminal)
    assert (job.status, job.status_reason) == ("succeeded", None)
    assert outcomes(job_id) == ["succeeded"]
    assert any("No checkpoint could be written" in message for message in warnings(job_id))


@pytest.fixture(autouse=True)
def _no_leftovers(stack: Any) -> Iterator[None]:
    yield
    stack.stop()
    assert stack.trainers() == []
