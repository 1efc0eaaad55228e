"""Stopped after any step, or killed, a run goes on as if nothing had been: all that is saved, and all that is said."""

from __future__ import annotations

import functools
import itertools
import math
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

import distill.registry
from distill import checkpoint, events, plan
from distill.batch import Batch
from distill.files import sha256_of
from distill.methods.srrl import SRRL
from distill.spec import DistillSpec
from distill.trainer import Inputs, train
from tests.fixtures import face_jobs
from tests.fixtures.tiny import STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

EPOCHS, STEPS = 2, 5
"""Five steps are windows of two, two and one: a stop falls into the middle of one, or to its end."""
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "srrl_and_baseline": ({"type": "srrl"}, {"baseline": True, "views": 2}),
    "layers_and_memory": ({"type": "crd", "crd": {"num_negatives": 16, "width": 8}}, {"views": "fresh"}),
    "layers_on_maps": ({"type": "reviewkd"}, {"precision": "bf16"}),
    "composed": ({"type": "vid", "extra": [{"type": "kd"}, {"type": "srrl"}]}, {"views": "fresh"}),
}


def spec(method: dict[str, Any], **training: Any) -> DistillSpec:
    body = {
        "teacher": {"id": "t"},
        "dataset": {"id": "d"},
        "student": STUDENT,
        "method": method,
        "training": {
            "epochs": EPOCHS, "batch_size": 24, "learning_rate": 0.05, "baseline": False, "augmentation": "crop_flip",
            "precision": "fp32", **training,
        },
    }  # fmt: skip
    return plan.resolve(DistillSpec.model_validate(body), num_images=128)


@pytest.fixture
def inputs(tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path) -> Inputs:
    return Inputs(teacher=tiny_teacher, dataset_path=tiny_dataset, workdir=tmp_path / "work", device="cpu")


@pytest.fixture(autouse=True)
def _every_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distill.runs._PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("distill.evaluation._LATENCY_RUNS", 1)


Said = dict[str, Any]


def plain(event: events.Event) -> Said:
    """What an event says, without times and places; of a file its bytes."""
    said = events.to_json(event)
    said.pop("images_per_second", None)
    if isinstance(event, events.Artifact):
        said["path"] = sha256_of(Path(event.path))
    if isinstance(event, events.Report):
        for figures in (said["report"][name] or {} for name in ("teacher", "student", "baseline")):
            figures.pop("latency_ms", None)
    return said


def is_at(said: Said, step: int) -> bool:
    return said["event"] == "progress" and said["step"] == step


def heard(stream: Iterator[events.Event], *, until: Callable[[Said], bool] = lambda said: False) -> list[Said]:
    """All that is said up to the first thing of a kind, after which the stream is closed."""
    found = []
    for event in stream:
        found.append(plain(event))
        if until(found[-1]):
            break
    stream.close()  # type: ignore[attr-defined]
    return found


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, tensors within containers included."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def state(inputs: Inputs) -> dict[str, Any]:
    """The newest checkpoint: student, layers, banks, momentum, random numbers, history."""
    found, refused = checkpoint.load_latest(inputs.workdir / "checkpoints")
    assert refused == []
    assert found is not None
    return found


def assert_goes_on(whole: list[Said], after: list[Said], *, heard_before: int) -> None:
    """What follows a resume is the end of the undisturbed run, and nothing that was not heard is missing."""
    begin = next(i for i, said in enumerate(after) if (said["event"], said.get("phase")) == ("phase", "training"))
    rest, missing = after[begin + 1 :], whole[heard_before:]
    if missing[0] == after[begin] or missing[0]["event"] == "progress":
        missing = missing[1:]  # the phase is said again; how fast it goes, which is no record, need not be
    assert len(rest) >= len(missing)
    assert rest == whole[len(whole) - len(rest) :]


def check(asked: DistillSpec, inputs: Inputs) -> None:
    """Stop a run after each of its steps in turn, and let it go on."""
    undisturbed = replace(inputs, workdir=inputs.workdir / "whole")
    whole = heard(train(asked, undisturbed))
    for step in range(1, whole[-1]["step"] + 1):
        stopped = replace(inputs, workdir=inputs.workdir / f"{step}", recorded_step=step)
        before = heard(train(asked, stopped), until=lambda said, step=step: is_at(said, step))
        assert before == whole[: len(before)]

        after = heard(train(asked, stopped))

        assert {"event": "resumed", "step": step} in after
        assert_goes_on(whole, after, heard_before=len(before))
        assert same(state(undisturbed), state(stopped)), step


@pytest.mark.parametrize("case", CASES)
def test_stopped_after_any_step_a_run_goes_on_bit_for_bit(inputs: Inputs, case: str) -> None:
    method, training = CASES[case]
    check(spec(method, **training), inputs)


def test_stopped_after_any_step_a_run_on_points_goes_on_bit_for_bit(face_inputs: Inputs) -> None:
    check(face_jobs.spec(epochs=2, batch_size=48, baseline=True, augmentation="crop_flip"), face_inputs)


class Drawing(SRRL):
    """SRRL with a part that chance decides, from each source of random numbers there is."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().forward(batch)
        chance = random.random() + float(np.random.rand()) + float(torch.rand(()))
        return {**losses, "loss": losses["loss"] * chance}


def test_all_random_numbers_go_on_where_they_stood(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill.registry, "build_method", lambda spec, *, pair: Drawing(spec.srrl, pair=pair))
    check(spec({"type": "srrl"}, epochs=1), inputs)


class Failing(SRRL):
    """SRRL whose loss is not a number in one call."""

    def __init__(self, *args: Any, calls: Iterator[int], bad: int, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.calls, self.bad = calls, bad

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().forward(batch)
        return {**losses, "loss": losses["loss"] * math.nan} if next(self.calls) == self.bad else losses


@pytest.mark.parametrize("stopped_at", [6, 7, 8])
def test_a_run_that_diverges_after_a_stop_goes_back_as_far_as_without_it(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, stopped_at: int
) -> None:
    """The ninth step of ten is bad; the stop before it wrote a checkpoint in the middle of the epoch."""

    def counted() -> None:
        calls = itertools.count()
        build = functools.partial(Failing, calls=calls, bad=8)
        monkeypatch.setattr(distill.registry, "build_method", lambda spec, *, pair: build(spec.srrl, pair=pair))

    asked = spec({"type": "srrl"})
    counted()
    undisturbed = replace(inputs, workdir=inputs.workdir / "whole")
    whole = heard(train(asked, undisturbed))
    assert any("Back to step 5 " in said.get("message", "") for said in whole)
    counted()
    before = heard(train(asked, inputs), until=lambda said: is_at(said, stopped_at))

    after = heard(train(asked, inputs))

    assert_goes_on(whole, after, heard_before=len(before))
    assert same(state(undisturbed), state(inputs))


@pytest.mark.parametrize("kind", ["metric", "artifact", "alive", "checkpoint", "phase"])
def test_stopped_at_whatever_it_says_a_run_goes_on_bit_for_bit(inputs: Inputs, kind: str) -> None:
    """Between an epoch and the next stand an evaluation, a file and a checkpoint."""
    asked = spec({"type": "srrl"}, baseline=True)
    undisturbed = replace(inputs, workdir=inputs.workdir / "whole")
    whole = heard(train(asked, undisturbed))
    begin = next(i for i, said in enumerate(whole) if is_at(said, 1))
    places = [i for i, said in enumerate(whole) if i > begin and said["event"] == kind]
    assert places
    for place in places:
        stopped = replace(inputs, workdir=inputs.workdir / f"{place}", recorded_step=10**9)
        numbers = itertools.count()
        before = heard(train(asked, stopped), until=lambda _, place=place, numbers=numbers: next(numbers) == place)
        assert before == whole[: place + 1]

        after = heard(train(asked, stopped))

        if {"event": "phase", "phase": "training", "run": "baseline"} in after:
            assert_goes_on(whole, after, heard_before=len(before))
        assert after[-2:] == whole[-2:]
        assert same(state(undisturbed), state(stopped)), place


def test_killed_anywhere_a_run_goes_on_bit_for_bit_from_the_checkpoint_before(inputs: Inputs) -> None:
    """Nothing runs after kill -9: the folder is taken as it lies, after each thing that is said."""
    asked = spec({"type": "srrl"}, baseline=True)
    undisturbed = replace(inputs, workdir=inputs.workdir / "whole")
    whole, lying = [], {}
    for number, event in enumerate(train(asked, undisturbed)):
        whole.append(plain(event))
        newest = max(undisturbed.workdir.glob("checkpoints/step-*"), default=None)
        if newest is not None and newest.name not in lying:  # between checkpoints nothing changes in the folder
            lying[newest.name] = number
            shutil.copytree(undisturbed.workdir / "checkpoints", inputs.workdir / newest.name / "checkpoints")
    assert [int(name.removeprefix("step-")) for name in lying] == [0, 5, 10, 15, 20]
    for name, number in lying.items():
        killed = replace(inputs, workdir=inputs.workdir / name, recorded_step=10**9)

        after = heard(train(asked, killed))

        assert {"event": "resumed", "step": int(name.removeprefix("step-"))} in after
        if int(name.removeprefix("step-")) < 20:
            assert_goes_on(whole, after, heard_before=number + 1)
        assert after[-2:] == whole[-2:]
        assert same(state(undisturbed), state(killed)), name


@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_damaged_checkpoint_is_passed_over_said_so_and_costs_nothing_but_time(inputs: Inputs, damage: str) -> None:
    asked = spec({"type": "crd", "crd": {"num_negatives": 16, "width": 8}})
    undisturbed = replace(inputs, workdir=inputs.workdir / "whole")
    whole = heard(train(asked, undisturbed))
    before = heard(train(asked, inputs), until=lambda said: is_at(said, 8))
    newest = max(inputs.workdir.glob("checkpoints/step-*")) / "state.pt"
    content = bytearray(newest.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    newest.write_bytes(content if damage == "flipped" else content[: len(content) // 2])

    after = heard(train(asked, inputs))

    said = "Checkpoint passed over: step-000000000008: its bytes have changed."
    assert {"event": "log", "level": "warning", "message": said} in after
    assert {"event": "resumed", "step": 5} in after
    assert_goes_on(whole, after, heard_before=len(before))
    assert same(state(undisturbed), state(inputs))
