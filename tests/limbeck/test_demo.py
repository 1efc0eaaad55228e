"""The whole road as a user walks it, with a tiny teacher and tiny images: one command, twice, and interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from limbeck import Client
from limbeck.instance import running_instance
from tests.fixtures.processes import offspring

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

pytest.importorskip("torch")

Demo = Callable[..., subprocess.Popen[str]]
ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture
def demo(tmp_path: Path, tiny_npz: Path, tiny_teacher: TeacherFile) -> Iterator[Demo]:
    """Start `limbeck demo` in an empty folder, on tiny files, for so many epochs."""
    request: dict[str, Any] = {
        "name": "tiny",
        "teacher_upload": {
            "file": str(tiny_teacher.path),
            "architecture": tiny_teacher.architecture,
            "options": tiny_teacher.options.model_dump(),
        },
        "dataset_upload": {"file": str(tiny_npz), "format": "npz"},
        "student": {"architecture": "resnet8", "options": {"width": 0.25, "stem_stride": 2}},
    }
    started: list[subprocess.Popen[str]] = []

    def run(*, epochs: int = 3) -> subprocess.Popen[str]:
        training = {"epochs": epochs, "batch_size": 32}
        (tmp_path / "demo.json").write_text(json.dumps({**request, "training": training}))
        env = {k: v for k, v in os.environ.items() if not k.startswith("LIMBECK_")}
        process = subprocess.Popen(
            [sys.executable, "-m", "limbeck", "demo", "--example", "demo.json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env=env | {"PYTHONPATH": ROOT},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.returncode is None:
            process.kill()
            process.communicate()
    deadline = time.monotonic() + 30
    while left := offspring(tmp_path):
        if time.monotonic() > deadline:
            for each in left:
                each.kill()
        time.sleep(0.1)


def test_twice_in_a_row(demo: Demo, tmp_path: Path) -> None:
    first = demo()
    output, _ = first.communicate(timeout=240)
    assert first.returncode == 0, output
    for part in ("teacher.safetensors: sent", "student, labels alone", "student by SRRL", "head: own", "make serve"):
        assert part in output
    student = tmp_path / "demo-student" / "student.safetensors"
    written = student.stat().st_mtime_ns
    assert offspring(tmp_path) == []

    second = demo()
    output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    assert output.count("already there") == 2
    assert student.stat().st_mtime_ns > written
    assert not list(student.parent.glob("*.part*"))
    assert offspring(tmp_path) == []


def test_ctrl_c_in_the_middle_leaves_nothing(demo: Demo, tmp_path: Path) -> None:
    process = demo(epochs=1000)
    assert process.stdout is not None
    job_id = ""
    for line in process.stdout:
        if line.startswith("job dj_"):
            job_id = line.split()[1]
        if line.startswith(("preparing", "training")):  # the first may pass between two looks
            break
    assert len(offspring(tmp_path)) >= 4  # the command, the API, the worker, the broker
    service = running_instance(tmp_path / ".limbeck" / "demo")
    assert service is not None
    with Client(service.url) as client:
        events = client.events(job_id)  # an open stream must not hold the service up
        assert next(events).id == 1
        process.send_signal(signal.SIGINT)
        assert [event.type for event in events][-1] == "end"
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "cancelling the job" in output
    assert "Traceback" not in output
    assert offspring(tmp_path) == []


def test_killed_outright_it_takes_the_service_along(demo: Demo, tmp_path: Path) -> None:
    process = demo(epochs=1000)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("job dj_"):
            break
    assert running_instance(tmp_path / ".limbeck" / "demo") is not None
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 45
    while offspring(tmp_path):
        assert time.monotonic() < deadline, offspring(tmp_path)
        time.sleep(0.1)
