from __future__ import annotations

import dataclasses
import json
import typing

import pytest

from distill import events
from distill.errors import DistillError, InputError, RunError

SAMPLES: list[events.Event] = [
    events.Phase(phase="training", run="baseline"),
    events.Phase(phase="preparing"),
    events.Resolved(values={"training": {"epochs": 3}, "runtime": {"device": "cpu"}}),
    events.Progress(run="student", epoch=1, epochs=3, step=5, total_steps=30, images_per_second=12.5),
    events.Metric(step=5, epoch=1, values={"train/loss": 0.25, "lr": 1e-05}),
    events.Log(level="warning", message="Zeile – 線"),
    events.Alive(),
    events.Degraded(reason="No checkpoint at step 5: No space left on device."),
    events.Checkpoint(step=5, epoch=1, run="student"),
    events.Artifact(name="student.safetensors", path="out/student-1.safetensors"),
    events.Report(report={"teacher": {"top1": 0.9, "per_class": [1.0, None]}, "baseline": None}),
    events.Resumed(step=5),
    events.Failed(error=RunError("loss_diverged", "The loss was not finite.", hint="Lower the rate.").as_json()),
    events.Finished(step=30),
]


def test_there_is_a_sample_of_every_event() -> None:
    assert {type(event) for event in SAMPLES} == set(typing.get_args(events.Event))


@pytest.mark.parametrize("event", SAMPLES, ids=lambda event: type(event).__name__)
def test_event_survives_a_json_line(event: events.Event) -> None:
    line = json.dumps(events.to_json(event), allow_nan=False)
    assert "\n" not in line
    assert events.from_json(json.loads(line)) == event


def test_json_is_flat_with_the_name_of_the_event() -> None:
    event = events.Checkpoint(step=5, epoch=1, run="student")
    assert events.to_json(event) == {"event": "checkpoint", "step": 5, "epoch": 1, "run": "student"}


def test_reading_leaves_the_object_as_it_is() -> None:
    data = {"event": "resumed", "step": 3}
    events.from_json(data)
    assert data == {"event": "resumed", "step": 3}


@pytest.mark.parametrize("data", [{}, {"step": 3}, {"event": "explosion"}, {"event": "Resumed", "step": 3}])
def test_unknown_event_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(KeyError):
        events.from_json(data)


def test_events_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        events.Resumed(step=1).step = 2  # type: ignore[misc]


def test_error_survives_json_with_all_it_says() -> None:
    error = InputError(
        "state_dict_mismatch",
        "The weights do not fit.",
        hint="Ask for resnet14.",
        param="/teacher/architecture",
        details={"missing": ["fc.bias"]},
        did_you_mean=["resnet14"],
    )
    found = DistillError.from_json(json.loads(json.dumps(error.as_json())))
    assert found.as_json() == error.as_json()
    assert str(found) == found.message == "The weights do not fit."


def test_error_of_an_older_record_has_defaults_for_what_it_lacks() -> None:
    found = RunError.from_json({"code": "out_of_memory", "message": "No.", "hint": "Take less."})
    assert isinstance(found, RunError)
    assert found.as_json() == {
        "code": "out_of_memory",
        "message": "No.",
        "hint": "Take less.",
        "param": None,
        "details": {},
        "did_you_mean": [],
    }
