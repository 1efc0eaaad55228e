"""Students that start from files as people have them: of torch.save, and of Limbeck's own earlier jobs."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from safetensors.torch import load
from torch import Tensor, nn

from distill.registry import build_network
from distill.spec import NetworkOptions
from tests.fixtures import tiny
from tests.fixtures.served import served

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

SECONDS = 200.0
BINARY = {"architecture": "binary_resnet8", "options": tiny.STUDENT["options"]}
BARELY = {"epochs": 1, "batch_size": 32, "learning_rate": 1e-9, "weight_decay": 0.0, "baseline": False}
"""Steps too small to lead away from where they start."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with (
        served(folder, LIMBECK_ALLOW_PICKLE="1") as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as opened,
    ):
        yield opened


def upload(client: httpx.Client, content: bytes, purpose: str, filename: str) -> str:
    told = {"filename": filename, "bytes": len(content), "purpose": purpose}
    upload_id = str(client.post("/uploads", json=told).raise_for_status().json()["id"])
    client.put(f"/uploads/{upload_id}/content", content=content).raise_for_status()
    client.post(f"/uploads/{upload_id}/complete").raise_for_status()
    return upload_id


@pytest.fixture(scope="module")
def inputs(client: httpx.Client, tiny_teacher: TeacherFile, tiny_npz: Path) -> dict[str, Any]:
    """Teacher and data set, once they are ready."""
    weights = upload(client, tiny_teacher.path.read_bytes(), "teacher", "teacher.safetensors")
    data = upload(client, tiny_npz.read_bytes(), "dataset", "data.npz")
    found = {}
    for kind, body in (("teacher", {"upload_id": weights, **tiny.TEACHER}), ("dataset", {"upload_id": data})):
        made = client.post(f"/{kind}s", json=body).raise_for_status().json()
        deadline = time.monotonic() + SECONDS
        while made["status"] == "processing":
            assert time.monotonic() < deadline
            time.sleep(0.1)
            made = client.get(f"/{kind}s/{made['id']}").json()
        found[kind] = {"id": made["id"]}
    return found


def distilled(client: httpx.Client, body: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The job, once it has succeeded, and its student."""
    job: dict[str, Any] = client.post("/distill", json=body).raise_for_status().json()
    deadline = time.monotonic() + SECONDS
    while not job["is_terminal"]:
        assert time.monotonic() < deadline, job
        job = client.get(f"/distill/{job['id']}", params={"wait": 20}).json()
    assert job["status"] == "succeeded", job["error"]
    return job, client.get(f"/distill/{job['id']}/student").raise_for_status().content


def is_where_it_started(student: bytes, start: dict[str, Tensor]) -> bool:
    """Whether all that is trained is as in the start; running statistics have moved on."""
    found = load(student)
    trained = [name for name in start if name.endswith(("weight", "bias", "scale", "weight_bits"))]
    assert len(trained) > 20
    return all(torch.allclose(found[name].double(), start[name].double(), atol=1e-6) for name in trained)


def test_a_checkpoint_of_torch_save(client: httpx.Client, folder: Path, inputs: dict[str, Any]) -> None:
    torch.manual_seed(77)
    options = NetworkOptions.model_validate(tiny.STUDENT["options"])
    network = build_network("resnet8", options=options, num_classes=tiny.CLASSES, in_channels=1)
    buffer = io.BytesIO()
    torch.save({"epoch": 7, "model": nn.DataParallel(network).state_dict()}, buffer)
    upload_id = upload(client, buffer.getvalue(), "student_init", "pruned.pth")

    student = tiny.STUDENT | {"init": {"upload_id": upload_id}}
    job, weights = distilled(client, inputs | {"student": student, "training": BARELY})

    assert job["student"]["init"]["file"] == {"format": "pytorch", "taken": "model.module", "ignored": ["epoch"]}
    assert is_where_it_started(weights, network.state_dict())
    assert [path.name for path in folder.rglob("*.pth")] == [f"{upload_id}.pth"]  # the upload, for the next job
    assert client.post("/distill", params={"dry_run": "true"}, json=inputs | {"student": student}).status_code == 200


@pytest.mark.parametrize("architecture", ["resnet8", "binary_resnet8"])
@pytest.mark.parametrize("head", ["own", "teacher"])
def test_the_student_of_an_earlier_job(
    client: httpx.Client, inputs: dict[str, Any], architecture: str, head: str
) -> None:
    """Binary weights lie there as bits; with the teacher's head the network is one part of three."""
    student = BINARY | {"architecture": architecture}
    method = {"type": "srrl", "srrl": {"head": head}}
    training = {"epochs": 2, "batch_size": 32, "baseline": False}
    _, first = distilled(client, inputs | {"student": student, "method": method, "training": training})
    earlier = load(first)
    if head == "teacher":
        assert {name.partition(".")[0] for name in earlier} == {"network", "connector", "classifier"}
        earlier = {name.removeprefix("network."): t for name, t in earlier.items() if name.startswith("network.")}
    assert ("layer1.0.unit1.conv.weight_bits" in earlier) == (architecture == "binary_resnet8")

    upload_id = upload(client, first, "student_init", "student.safetensors")
    body = inputs | {"student": student | {"init": {"upload_id": upload_id}}, "training": BARELY}
    job, second = distilled(client, body)

    left_out = ["connector", "classifier"] if head == "teacher" else []
    taken = "network" if head == "teacher" else None
    assert job["student"]["init"]["file"] == {"format": "safetensors", "taken": taken, "ignored": left_out}
    assert job["student"]["init"]["head"] == "kept"
    assert is_where_it_started(second, earlier)
    said = client.get(f"/distill/{job['id']}/logs").text
    assert "start from the uploaded weights, their own classifier included" in said
    assert ("Left out of the uploaded file: connector, classifier." in said) == (head == "teacher")
