"""What a request may say of a teacher beside its weights."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

Upload = Callable[..., str]
Bytes = Callable[..., bytes]
NAMES = ["cat", "dog", "eel"]


@pytest.fixture
def teacher(client: httpx.Client, upload: Upload, teacher_bytes: Bytes) -> Callable[..., httpx.Response]:
    """Registers a teacher of three classes and one channel."""
    upload_id = upload(teacher_bytes(), "teacher")

    def make(**traits: Any) -> httpx.Response:
        return client.post("/teachers", json={"upload_id": upload_id, "architecture": "resnet8", **traits})

    return make


@pytest.fixture
def named(client: httpx.Client, upload: Upload) -> Callable[[list[str]], str]:
    """Registers a data set whose classes have these names."""

    def make(names: list[str]) -> str:
        buffer = io.BytesIO()
        images, labels = np.zeros((9, 8, 8), np.uint8), np.arange(9) % 3
        np.savez(buffer, x_train=images, y_train=labels, x_test=images, y_test=labels, classes=np.array(names))
        made = client.post("/datasets", json={"upload_id": upload(buffer.getvalue(), "dataset")})
        return str(made.raise_for_status().json()["id"])

    return make


def test_they_are_kept_and_shown(teacher: Callable[..., httpx.Response], client: httpx.Client) -> None:
    said = {"mean": [0.5], "std": [0.25], "channels": "rgb"}
    made = teacher(classes=NAMES, preprocessing=said).raise_for_status().json()
    assert (made["classes"], made["preprocessing"]) == (NAMES, said)
    shown = client.get(f"/teachers/{made['id']}").json()
    assert (shown["classes"], shown["preprocessing"]) == (NAMES, said)

    plain = teacher().raise_for_status().json()
    assert (plain["classes"], plain["preprocessing"]) == (None, {"mean": None, "std": None, "channels": "rgb"})


@pytest.mark.parametrize(
    ("traits", "pointer", "code"),
    [
        ({"classes": ["cat", "dog"]}, "/classes", "teacher_head_mismatch"),
        ({"classes": ["cat", "dog", "cat"]}, "/classes", "invalid_value"),
        ({"classes": ["cat", "dog", ""]}, "/classes/2", "invalid_value"),
        ({"preprocessing": {"mean": [0.5]}}, "/preprocessing", "invalid_value"),
        ({"preprocessing": {"mean": [0.5], "std": [0]}}, "/preprocessing/std/0", "invalid_value"),
        ({"preprocessing": {"mean": [0.5] * 3, "std": [1.0] * 3}}, "/preprocessing/mean", "invalid_value"),
        ({"preprocessing": {"channels": "bgr"}}, "/preprocessing/channels", "invalid_value"),
        ({"preprocessing": {"channels": "yuv"}}, "/preprocessing/channels", "invalid_value"),
        ({"preprocessing": {"size": 3}}, "/preprocessing/size", "unknown_field"),
    ],
)
def test_what_cannot_be_is_refused_at_its_place(
    teacher: Callable[..., httpx.Response], traits: dict[str, Any], pointer: str, code: str
) -> None:
    answer = teacher(**traits)
    (flaw,) = answer.json()["errors"]
    assert (answer.status_code, flaw["pointer"], flaw["code"]) == (422, pointer, code)


def test_a_teacher_by_id_has_its_own(teacher: Callable[..., httpx.Response], client: httpx.Client) -> None:
    made = teacher().json()
    body = {
        "teacher": {"id": made["id"], "classes": NAMES},
        "dataset": {"id": "ds_x"},
        "student": {"architecture": "resnet8"},
    }
    (flaw,) = client.post("/distill", json=body).json()["errors"]
    assert flaw["pointer"] == "/teacher"
    assert "upload_id" in flaw["detail"]


@pytest.mark.parametrize(
    ("theirs", "fits"),
    [
        (["eel", "cat", "dog"], True),
        (["Eel", "CAT", "dog"], True),
        (["Katze", "Hund", "Aal"], True),
        (["cat", "dog", "ant"], False),
    ],
)
def test_names_of_teacher_and_data_are_held_against_each_other(
    teacher: Callable[..., httpx.Response],
    named: Callable[[list[str]], str],
    client: httpx.Client,
    prepare: Callable[[], None],
    theirs: list[str],
    fits: bool,
) -> None:
    """In another order, or in another language, they may be; not half the same."""
    body = {
        "teacher": {"id": teacher(classes=theirs).json()["id"]},
        "dataset": {"id": named(NAMES)},
        "student": {"architecture": "resnet8", "options": {"width": 0.5}},
    }
    prepare()
    answer = client.post("/distill?dry_run=true", json=body)
    if fits:
        assert answer.status_code == 200, answer.text
        return
    (flaw,) = answer.json()["errors"]
    assert (answer.status_code, flaw["pointer"], flaw["code"]) == (422, "/teacher/classes", "teacher_head_mismatch")
    assert "'ant'" in flaw["detail"]
    assert "'eel'" in flaw["detail"]
    assert flaw["details"] == {"only_teacher": ["ant"], "only_dataset": ["eel"]}
    assert flaw["hint"]
