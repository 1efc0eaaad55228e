"""Teachers from folders and from a hub, prepared by a real worker and used in real jobs."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save

from distill.networks.torchvision_shim import import_torchvision
from distill.registry import build_network, load_weights
from distill.spec import NetworkOptions
from tests.fixtures import tiny
from tests.fixtures.archives import zipped
from tests.fixtures.hub import COMMIT, Hub, hub_of
from tests.fixtures.model_folders import CLASSES, MEAN, STD, members, timm_folder
from tests.fixtures.served import served

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

SECONDS = 200.0
BARS = ["first", "second", "third", "fourth"]


@pytest.fixture(scope="module")
def timm_net(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    import_torchvision()
    folder = tmp_path_factory.mktemp("timm")
    return timm_folder(folder, "test_resnet"), folder


@pytest.fixture(scope="module")
def bars(tiny_teacher: TeacherFile) -> dict[str, bytes]:
    """The tiny teacher as a folder of Limbeck's own form."""
    config = {
        "architecture": "resnet8",
        "model_args": tiny.TEACHER["options"],
        "label_names": BARS,
        "pretrained_cfg": {"mean": [0.4], "std": [0.25]},
    }
    return {"config.json": json.dumps(config).encode(), "model.safetensors": save(load_file(tiny_teacher.path))}


@pytest.fixture(scope="module")
def hub(bars: dict[str, bytes], timm_net: tuple[Any, Path]) -> Iterator[Hub]:
    with hub_of({"owner/bars": bars, "timm/test_resnet.tiny": members(timm_net[1])}) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def client(folder: Path, hub: Hub) -> Iterator[httpx.Client]:
    with (
        served(folder, LIMBECK_ALLOW_PICKLE="1", LIMBECK_HUB_URL=hub.url) as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as opened,
    ):
        yield opened


def upload(client: httpx.Client, content: bytes, purpose: str, filename: str) -> str:
    told = {"filename": filename, "bytes": len(content), "purpose": purpose}
    upload_id = str(client.post("/uploads", json=told).raise_for_status().json()["id"])
    client.put(f"/uploads/{upload_id}/content", content=content).raise_for_status()
    client.post(f"/uploads/{upload_id}/complete").raise_for_status()
    return upload_id


def prepared(client: httpx.Client, **body: Any) -> dict[str, Any]:
    """The teacher once a worker has looked at it."""
    teacher: dict[str, Any] = client.post("/teachers", json=body).raise_for_status().json()
    deadline = time.monotonic() + SECONDS
    while teacher["status"] == "processing":
        assert time.monotonic() < deadline
        time.sleep(0.1)
        teacher = client.get(f"/teachers/{teacher['id']}").json()
    return teacher


def finished(client: httpx.Client, **body: Any) -> dict[str, Any]:
    job: dict[str, Any] = client.post("/distill", json=body).raise_for_status().json()
    deadline = time.monotonic() + SECONDS
    while not job["is_terminal"]:
        assert time.monotonic() < deadline, job
        job = client.get(f"/distill/{job['id']}", params={"wait": 20}).json()
    assert job["status"] == "succeeded", job["error"]
    return job


def assert_is_timm_net(teacher: dict[str, Any], folder: Path, network: Any) -> None:
    """The teacher is ready, and answers exactly what timm's own network does."""
    assert (teacher["status"], teacher["error"]) == ("ready", None)
    assert (teacher["architecture"], teacher["num_classes"], teacher["in_channels"]) == ("timm/test_resnet", 5, 3)
    assert teacher["classes"] == CLASSES
    assert teacher["report"]["normalisation"] == {"mean": MEAN, "std": STD}
    (kept,) = folder.rglob(f"{teacher['id']}*.safetensors")
    loaded = build_network("timm/test_resnet", options=NetworkOptions(), num_classes=5, in_channels=3).eval()
    load_weights(loaded, kept)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))


def test_a_folder_of_timms_becomes_a_teacher(client: httpx.Client, folder: Path, timm_net: tuple[Any, Path]) -> None:
    teacher = prepared(client, upload_id=upload(client, zipped(members(timm_net[1])), "teacher", "net.zip"))

    assert_is_timm_net(teacher, folder, timm_net[0])
    assert teacher["hub"] is None


def test_pickled_weights_of_a_folder_are_converted_in_the_cage(
    client: httpx.Client, folder: Path, timm_net: tuple[Any, Path]
) -> None:
    buffer = io.BytesIO()
    torch.save(timm_net[0].state_dict(), buffer)
    files = {"config.json": (timm_net[1] / "config.json").read_bytes(), "pytorch_model.bin": buffer.getvalue()}
    upload_id = upload(client, zipped(files), "teacher", "net.zip")

    teacher = prepared(client, upload_id=upload_id)

    assert_is_timm_net(teacher, folder, timm_net[0])
    assert teacher["report"]["file"]["format"] == "pytorch"
    assert client.get(f"/uploads/{upload_id}").status_code == 404
    assert not list(folder.rglob(f"{upload_id}*"))  # the pickle is not kept


def test_a_network_on_the_hub_is_fetched_and_its_commit_kept(
    client: httpx.Client, folder: Path, hub: Hub, timm_net: tuple[Any, Path]
) -> None:
    hub.cut_after = 1000  # once for each file that is longer

    teacher = prepared(client, hub="timm:test_resnet.tiny")

    assert_is_timm_net(teacher, folder, timm_net[0])
    assert teacher["hub"] == {"repository": "timm/test_resnet.tiny", "revision": "main", "commit": COMMIT}
    weights = timm_net[1] / "model.safetensors"
    (file,) = [file for file in teacher["report"]["hub"]["files"] if file["name"] == weights.name]
    assert (file["bytes"], file["sha256"]) == (weights.stat().st_size, teacher["sha256"])
    assert any(asked for path, asked in hub.seen if path.endswith("model.safetensors"))  # it went on where it broke
    assert not list((folder / "work").glob(f"{teacher['id']}*"))
    assert client.delete(f"/teachers/{teacher['id']}").status_code == 204
    assert not list(folder.rglob(f"{teacher['id']}*.safetensors"))


def test_what_the_hub_lacks_is_told(client: httpx.Client) -> None:
    teacher = prepared(client, hub="hf-hub:owner/nothing")

    assert (teacher["status"], teacher["error"]["code"]) == ("error", "invalid_value")
    assert "owner/nothing" in teacher["error"]["message"]
    assert teacher["error"]["hint"]


def test_a_student_of_a_teacher_from_the_hub_is_the_next_teacher(
    client: httpx.Client, tiny_npz: Path, bars: dict[str, bytes]
) -> None:
    dataset = {"upload_id": upload(client, tiny_npz.read_bytes(), "dataset", "data.npz")}
    # Wide and long enough for a student that is well above chance, as a teacher has to be.
    rest = {"student": tiny.TEACHER, "training": {"epochs": 40, "batch_size": 16, "baseline": False}}
    job = finished(client, teacher={"hub": "hf-hub:owner/bars"}, dataset=dataset, **rest)
    assert job["config"]["teacher"]["hub"] == "hf-hub:owner/bars"
    student = client.get(f"/distill/{job['id']}/student").raise_for_status().content
    config = json.dumps({"architecture": "resnet8", "model_args": tiny.TEACHER["options"]}).encode()

    by_header = upload(client, student, "teacher", "student.safetensors")
    by_config = upload(client, zipped({"config.json": config, "model.safetensors": student}), "teacher", "s.zip")

    for upload_id in (by_header, by_config):
        teacher = prepared(client, upload_id=upload_id)
        assert (teacher["status"], teacher["error"]) == ("ready", None)
        assert (teacher["architecture"], teacher["options"]) == ("resnet8", tiny.TEACHER["options"])
        assert teacher["report"]["normalisation"]["mean"] == pytest.approx([0.4], abs=0.2)
    again = finished(client, teacher={"id": teacher["id"]}, dataset=dataset, **rest)
    assert again["config_resolved"]["teacher"]["id"] == teacher["id"]
