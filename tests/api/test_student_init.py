"""Students that start from an upload, seen at the API: looked at in outline, kept for the job, or refused."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from safetensors.numpy import load, save

from models import Upload
from service import database, jobs
from service.settings import settings

Body = dict[str, Any]
Send = Callable[..., str]
Bytes = Callable[..., bytes]


def starting_from(body: Body, upload_id: str) -> Body:
    return body | {"student": body["student"] | {"init": {"upload_id": upload_id}}}


def flaw_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 422, answer.text
    (flaw,) = answer.json()["errors"]
    assert flaw["hint"]
    return dict(flaw)


def test_a_student_starts_at_random_unless_told_otherwise(client: httpx.Client, body: Body) -> None:
    plan = client.post("/distill", params={"dry_run": "true"}, json=body).json()
    assert plan["config_resolved"]["student"]["init"] is None
    assert plan["facts"]["student"]["init"] is None


def test_weights_under_wrappers_names_are_taken(
    client: httpx.Client, body: Body, upload: Send, teacher_bytes: Bytes
) -> None:
    wrapped = save({f"module._orig_mod.{name}": value for name, value in load(teacher_bytes(width=0.5)).items()})
    upload_id = upload(wrapped, "student_init", "pruned.safetensors")
    job = client.post("/distill", json=starting_from(body, upload_id)).raise_for_status().json()
    assert job["config"]["student"]["init"] == job["config_resolved"]["student"]["init"] == {"upload_id": upload_id}
    kept = job["student"]["init"]
    assert (kept["upload_id"], kept["filename"], kept["bytes"]) == (upload_id, "pruned.safetensors", len(wrapped))
    assert (kept["num_classes"], kept["head"]) == (3, "kept")
    assert kept["sha256"] == client.get(f"/uploads/{upload_id}").json()["sha256"]


def test_a_head_of_other_classes_is_left_out_and_that_is_told(
    client: httpx.Client, body: Body, upload: Send, teacher_bytes: Bytes
) -> None:
    upload_id = upload(teacher_bytes(width=0.5, num_classes=7), "student_init")
    plan = client.post("/distill", params={"dry_run": "true"}, json=starting_from(body, upload_id)).json()
    assert plan["facts"]["student"]["init"]["head"] == "left out"
    assert plan["facts"]["student"]["init"]["num_classes"] == 7


@pytest.mark.parametrize(
    ("made", "words", "did_you_mean"),
    [
        ({"architecture": "resnet8"}, "of another shape", ["resnet8"]),
        ({"architecture": "resnet14", "width": 0.5}, "unexpected 36", []),
        ({"architecture": "resnet8", "width": 0.5, "in_channels": 3}, "3 channels, the student's have 1", []),
    ],
)
def test_weights_of_another_network_are_refused(
    client: httpx.Client,
    body: Body,
    upload: Send,
    teacher_bytes: Bytes,
    made: Body,
    words: str,
    did_you_mean: list[str],
) -> None:
    answer = client.post("/distill", json=starting_from(body, upload(teacher_bytes(**made), "student_init")))
    flaw = flaw_of(answer)
    assert (flaw["pointer"], flaw["code"]) == ("/student/init", "state_dict_mismatch")
    assert words in flaw["detail"]
    assert flaw["did_you_mean"] == did_you_mean
    assert client.get("/distill").json()["data"] == []


def test_a_missing_layer_is_named(client: httpx.Client, body: Body, upload: Send, teacher_bytes: Bytes) -> None:
    tensors = load(teacher_bytes(width=0.5))
    del tensors["fc.bias"]
    flaw = flaw_of(client.post("/distill", json=starting_from(body, upload(save(tensors), "student_init"))))
    assert flaw["details"]["missing"] == ["fc.bias"]


@pytest.mark.parametrize(
    ("content", "purpose", "code"),
    [
        (b"\x80\x04pickled", "student_init", "unsupported_format"),
        (save({"a": np.zeros(9, np.float32)})[:-5], "student_init", "upload_corrupt"),
        (save({"a": np.zeros(9, np.float32)}), "teacher", "unsupported_format"),
    ],
)
def test_a_file_that_is_none_is_refused(
    client: httpx.Client, body: Body, upload: Send, content: bytes, purpose: str, code: str
) -> None:
    flaw = flaw_of(client.post("/distill", json=starting_from(body, upload(content, purpose))))
    assert (flaw["pointer"], flaw["code"]) == ("/student/init/upload_id", code)


def test_an_upload_that_is_none_or_not_complete_is_refused(client: httpx.Client, body: Body) -> None:
    announced = {"filename": "a.safetensors", "bytes": 9, "purpose": "student_init"}
    pending = client.post("/uploads", json=announced).raise_for_status().json()["id"]
    for upload_id, code in (("up_none", "not_found"), (pending, "upload_corrupt")):
        problem = client.post("/distill", json=starting_from(body, upload_id)).json()
        (flaw,) = problem["errors"]
        assert (problem["status"], flaw["pointer"], flaw["code"]) == (422, "/student/init/upload_id", code)


def test_a_job_that_waits_for_its_inputs_keeps_its_start_without_the_uploads_row(
    client: httpx.Client,
    upload: Send,
    teacher_bytes: Bytes,
    teacher_id: str,
    dataset_id: str,
    prepare: Callable[[], None],
) -> None:
    upload_id = upload(teacher_bytes(), "student_init", "start.safetensors")
    body = {
        "teacher": {"id": teacher_id},
        "dataset": {"id": dataset_id},
        "student": {"architecture": "resnet8", "init": {"upload_id": upload_id}},
    }
    job = client.post("/distill", json=body).raise_for_status().json()
    assert job["config_resolved"] is None
    with database.begin() as session:
        session.delete(session.get_one(Upload, upload_id))
    prepare()
    claim = jobs.claim(job["id"], owner="tester")
    assert claim is not None
    assert claim.start_key == f"uploads/{upload_id}.safetensors"


def test_a_sweep_compares_starts(client: httpx.Client, sweep: Body, upload: Send, teacher_bytes: Bytes) -> None:
    upload_id = upload(teacher_bytes(width=0.5), "student_init")
    starts = {"path": "/student/init", "values": [None, {"upload_id": upload_id}], "labels": ["random", "pruned"]}
    made = client.post("/distill/sweep", json=sweep | {"axes": [starts, sweep["axes"][1]]}).raise_for_status().json()
    found = [client.get(f"/distill/{child['id']}").json()["student"]["init"] for child in made["children"]]
    assert [start and start["head"] for start in found] == [None] * 3 + ["kept"] * 3

    wrong = upload(teacher_bytes(), "student_init")
    starts["values"] = [None, {"upload_id": wrong}]
    flaw = flaw_of(client.post("/distill/sweep", json=sweep | {"axes": [starts, sweep["axes"][1]]}))
    assert (flaw["pointer"], flaw["code"]) == ("/axes/0/values/1", "state_dict_mismatch")


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.fixture
def pickles(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are let in."""
    monkeypatch.setenv("LIMBECK_ALLOW_PICKLE", "1")
    settings.cache_clear()


@pytest.mark.usefixtures("pickles")
def test_a_checkpoint_of_torch_save_is_told_from_its_outline(
    client: httpx.Client, body: Body, upload: Send, teacher_bytes: Bytes
) -> None:
    weights = {name: torch.from_numpy(value) for name, value in load(teacher_bytes(width=0.5)).items()}
    upload_id = upload(saved({"epoch": 3, "state_dict": weights}), "student_init", "start.pth")
    job = client.post("/distill", json=starting_from(body, upload_id)).raise_for_status().json()
    assert job["student"]["init"]["file"] == {"format": "pytorch", "taken": "state_dict", "ignored": ["epoch"]}
    claim = jobs.claim(job["id"], owner="tester")
    assert claim is not None
    assert (claim.start_key, claim.start_is_pickled) == (f"uploads/{upload_id}.pth", True)

    wrong = upload(saved({name: value for name, value in weights.items() if name != "fc.bias"}), "student_init")
    flaw = flaw_of(client.post("/distill", json=starting_from(body, wrong)))
    assert (flaw["pointer"], flaw["details"]["missing"]) == ("/student/init", ["fc.bias"])


@pytest.mark.usefixtures("pickles")
def test_a_pickle_that_carries_more_than_weights_is_refused(client: httpx.Client, body: Body, upload: Send) -> None:
    for content, code in ((saved(torch.nn.Linear(2, 2)), "unsafe_file"), (pickle.dumps([1]), "unsupported_format")):
        flaw = flaw_of(client.post("/distill", json=starting_from(body, upload(content, "student_init", "a.pth"))))
        assert (flaw["pointer"], flaw["code"]) == ("/student/init/upload_id", code)


def test_pickles_need_the_operators_leave(client: httpx.Client, body: Body, upload: Send) -> None:
    upload_id = upload(saved({"fc.bias": torch.zeros(3)}), "student_init", "a.pth")
    flaw = flaw_of(client.post("/distill", json=starting_from(body, upload_id)))
    assert flaw["code"] == "unsupported_format"
    assert "LIMBECK_ALLOW_PICKLE" in flaw["hint"]
