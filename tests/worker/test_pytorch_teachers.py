"""Teachers as people have them, files of torch.save, through the API and a worker to a finished job."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from distill.registry import build_network, load_weights
from distill.spec import NetworkOptions
from tests.fixtures import tiny
from tests.fixtures.served import served

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

SECONDS = 200.0


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


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def prepared(client: httpx.Client, upload_id: str, architecture: str, **more: Any) -> dict[str, Any]:
    """The teacher once a worker has looked at it."""
    made = client.post("/teachers", json={"upload_id": upload_id, "architecture": architecture, **more})
    teacher: dict[str, Any] = made.raise_for_status().json()
    assert (made.status_code, teacher["status"]) == (202, "processing")
    deadline = time.monotonic() + SECONDS
    while teacher["status"] == "processing":
        assert time.monotonic() < deadline
        time.sleep(0.1)
        teacher = client.get(f"/teachers/{teacher['id']}").json()
    return teacher


def network_of(name: str, *, num_classes: int = 7) -> nn.Module:
    torch.manual_seed(0)
    return build_network(name, options=NetworkOptions(), num_classes=num_classes, in_channels=3).eval()


WRAPS: dict[str, tuple[str, str, Callable[[nn.Module], Any], dict[str, Any]]] = {
    "our zoo": ("wrn_16_1", "teacher.pth", lambda network: network.state_dict(), {"taken": None}),
    "timm": ("timm/test_resnet", "pytorch_model.bin", lambda network: network.state_dict(), {"taken": None}),
    "DataParallel": ("resnet8", "t.pt", lambda network: nn.DataParallel(network).state_dict(), {"taken": "module"}),
    "checkpoint with an average": (
        "resnet8",
        "best.ckpt",
        lambda network: {
            "epoch": 3,
            "state_dict": network.state_dict(),
            "state_dict_ema": {name: value + 1 for name, value in network.state_dict().items()},
            "optimizer": torch.optim.SGD(network.parameters(), lr=0.1).state_dict(),
        },
        {
            "taken": "state_dict",
            "ignored": ["epoch", "state_dict_ema", "optimizer"],
            "note": "Averaged (EMA) weights are there too and were not taken: state_dict_ema.",
        },
    ),
}


@pytest.mark.parametrize(("name", "filename", "wrap", "told"), WRAPS.values(), ids=WRAPS)
def test_from_torch_save_to_ready(
    client: httpx.Client,
    folder: Path,
    tmp_path: Path,
    name: str,
    filename: str,
    wrap: Callable[[nn.Module], Any],
    told: dict[str, Any],
) -> None:
    network = network_of(name)
    upload_id = upload(client, saved(wrap(network)), "teacher", filename)

    teacher = prepared(client, upload_id, name)

    assert (teacher["status"], teacher["error"]) == ("ready", None)
    assert (teacher["num_classes"], teacher["in_channels"], teacher["filename"]) == (7, 3, filename)
    assert {"format": "pytorch", "ignored": [], **told} == teacher["report"]["file"]
    (kept,) = folder.rglob(f"{teacher['id']}*.safetensors")
    assert load_file(kept).keys() == network.state_dict().keys()
    loaded = build_network(name, options=NetworkOptions(), num_classes=7, in_channels=3).eval()
    load_weights(loaded, kept)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))
    assert client.get(f"/uploads/{upload_id}").status_code == 404
    assert not list(folder.rglob(f"{upload_id}*"))  # the pickle is not kept
    assert client.delete(f"/teachers/{teacher['id']}").status_code == 204
    assert not kept.exists()


def test_weights_of_another_network_are_named_at_once(client: httpx.Client) -> None:
    state = {"state_dict": {f"module.{name}": value for name, value in network_of("resnet14").state_dict().items()}}
    body = {"upload_id": upload(client, saved(state), "teacher", "t.pth"), "architecture": "resnet8"}

    (flaw,) = client.post("/teachers", json=body).json()["errors"]

    assert (flaw["code"], flaw["pointer"]) == ("state_dict_mismatch", "/architecture")
    assert "layer1.1.bn1.weight" in flaw["details"]["unexpected"]
    assert flaw["did_you_mean"] == ["resnet14"]


def test_tensors_of_timm_that_do_not_fit_are_named_by_the_worker(client: httpx.Client) -> None:
    state = network_of("timm/test_resnet").state_dict()
    state["extra.weight"] = state.pop(next(iter(state)))

    teacher = prepared(client, upload(client, saved(state), "teacher", "t.pth"), "timm/test_resnet")

    assert (teacher["status"], teacher["error"]["code"]) == ("error", "state_dict_mismatch")
    assert len(teacher["error"]["details"]["missing"]) == 1
    assert teacher["error"]["details"]["unexpected"] == ["extra.weight"]
    assert teacher["error"]["hint"]


def test_two_teachers_of_one_upload_are_both_made(client: httpx.Client) -> None:
    upload_id = upload(client, saved(network_of("resnet8").state_dict()), "teacher", "t.pth")
    body = {"upload_id": upload_id, "architecture": "resnet8"}
    ids = [client.post("/teachers", json=body).raise_for_status().json()["id"] for _ in range(2)]

    deadline = time.monotonic() + SECONDS
    while {client.get(f"/teachers/{teacher_id}").json()["status"] for teacher_id in ids} != {"ready"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_job_is_distilled_from_it(client: httpx.Client, tiny_teacher: TeacherFile, tiny_npz: Path) -> None:
    weights = upload(client, saved(load_file(tiny_teacher.path)), "teacher", "teacher.pth")
    body = {
        "teacher": {"upload_id": weights, **tiny.TEACHER},
        "dataset": {"upload_id": upload(client, tiny_npz.read_bytes(), "dataset", "data.npz")},
        "student": tiny.STUDENT,
        "training": {"epochs": 2, "batch_size": 32, "baseline": False},
    }

    job = client.post("/distill", json=body).raise_for_status().json()

    deadline = time.monotonic() + SECONDS
    while not job["is_terminal"]:
        assert time.monotonic() < deadline, job
        job = client.get(f"/distill/{job['id']}", params={"wait": 20}).json()
    assert job["status"] == "succeeded", job["error"]
