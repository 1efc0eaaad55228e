"""A disk that fills up under a run: it goes on, says so, and loses nothing."""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from distill import checkpoint, events, plan
from distill.errors import RunError
from distill.spec import DistillSpec
from distill.trainer import Inputs, train
from tests.fixtures.tiny import STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

EPOCHS, STEPS = 4, 4


def spec(**training: Any) -> DistillSpec:
    body = {
        "teacher": {"id": "t"},
        "dataset": {"id": "d"},
        "student": STUDENT,
        "training": {"epochs": EPOCHS, "batch_size": 32, "learning_rate": 0.05, "baseline": False, **training},
    }
    return plan.resolve(DistillSpec.model_validate(body), num_images=128)


@pytest.fixture
def inputs(tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path) -> Inputs:
    return Inputs(teacher=tiny_teacher, dataset_path=tiny_dataset, workdir=tmp_path / "work", device="cpu")


class Room:
    """How much may still be written."""

    def take(self) -> None:
        """All of it."""
        raise NotImplementedError

    def give(self) -> None:
        """Again."""
        raise NotImplementedError


class SmallDisk(Room):
    """A file system of 8 MB, filled up by a file."""

    def __init__(self, folder: Path) -> None:
        self.ballast = folder / "ballast"

    def take(self) -> None:
        with contextlib.suppress(OSError), self.ballast.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass

    def give(self) -> None:
        self.ballast.unlink()


class SmallFiles(Room):
    """No file may grow beyond its beginning: the limit that needs no rights."""

    def __init__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def take(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, self.before[1]))

    def give(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture(params=["mounted", "limited"])
def room(request: pytest.FixtureRequest, inputs: Inputs) -> Iterator[Room]:
    inputs.workdir.mkdir()
    if request.param == "mounted":
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(inputs.workdir)]
        try:
            mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
        except FileNotFoundError:
            mounted = False
        if not mounted:
            pytest.skip("no file system may be mounted here")
        yield SmallDisk(inputs.workdir)
        subprocess.run(["umount", "--lazy", str(inputs.workdir)], check=True)
        return
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = SmallFiles()
    yield limit
    limit.give()
    signal.signal(signal.SIGXFSZ, ignored)


def undisturbed(inputs: Inputs, name: str = "whole") -> dict[str, torch.Tensor]:
    return student(list(train(spec(), replace(inputs, workdir=inputs.workdir.with_name(name)))))


def student(seen: list[events.Event]) -> dict[str, torch.Tensor]:
    return load_file(Path([e for e in seen if isinstance(e, events.Artifact)][-1].path))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_goes_on_without_room_and_saves_again_with_it(inputs: Inputs, room: Room) -> None:
    """Room for the first epoch, none for the second, and again from the third on."""
    expected = undisturbed(inputs)
    seen: list[events.Event] = []
    told: list[tuple[str, int]] = []
    for event in train(spec(), inputs):
        seen.append(event)
        if isinstance(event, events.Checkpoint):
            told.append(("checkpoint", event.step))
            if event.step == STEPS:
                room.take()
        if isinstance(event, events.Degraded) and "No checkpoint" in event.reason:
            room.give()
            told.append(("degraded", 2 * STEPS))
            found, refused = checkpoint.load_latest(inputs.workdir / "checkpoints")
            assert found is not None
            assert (found["step"], refused) == (STEPS, [])
            assert not list(inputs.workdir.glob("checkpoints/.tmp-*"))
            assert f"at step {2 * STEPS}" in event.reason
            assert f"from step {STEPS}" in event.reason

    assert told == [
        ("checkpoint", STEPS),
        ("degraded", 2 * STEPS),
        ("checkpoint", 3 * STEPS),
        ("checkpoint", 4 * STEPS),
    ]
    assert seen[-1] == events.Finished(step=EPOCHS * STEPS)
    assert same(student(seen), expected)


def test_stopped_without_room_it_goes_on_from_the_checkpoint_before(inputs: Inputs, room: Room) -> None:
    expected = undisturbed(inputs)
    stream = train(spec(), inputs)
    for event in stream:
        if isinstance(event, events.Checkpoint):
            room.take()
        if isinstance(event, events.Metric) and event.step == 3 * STEPS:
            break
    stream.close()
    room.give()

    after = list(train(spec(), inputs))

    assert events.Resumed(step=STEPS) in after
    assert same(student(after), expected)


def test_without_room_from_the_start_a_run_still_trains(inputs: Inputs, room: Room) -> None:
    """There is nothing to go back to, and in the end no place for the student either."""
    inputs.workdir.joinpath("checkpoints").mkdir()
    room.take()
    seen: list[events.Event] = []

    with pytest.raises(RunError, match="could not be written") as caught:
        seen.extend(train(spec(), inputs))

    room.give()
    assert caught.value.code == "storage_full"
    assert [m.step for m in seen if isinstance(m, events.Metric) and "val/top1" in m.values] == [4, 8, 12, 16]
    reasons = [event.reason for event in seen if isinstance(event, events.Degraded)]
    assert "repeat everything from the start" in reasons[0]
    assert checkpoint.load_latest(inputs.workdir / "checkpoints") == (None, [])
