"""Public data sets by name, over HTTP, prepared by the worker's own checking process."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from distill.data.packed import PackedDataset
from models import Dataset
from service import inputs, jobs
from service.artifacts import store
from service.settings import settings
from worker.preparer import prepare_next

NAMES = ["fashion-mnist", "mnist", "emnist-letters", "emnist-balanced", "cifar-10", "cifar-100", "imagenet"]


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@pytest.fixture
def root(database: str, tmp_path: Path) -> Path:
    """The folder that is looked in when nothing is set."""
    return tmp_path / "data" / "presets"


@pytest.fixture
def mnist(root: Path) -> Path:
    """Twelve images of three digits, and six to test with; the folder that holds them."""
    return write_mnist(root / "mnist")


def write_mnist(folder: Path, *, num_classes: int = 3) -> Path:
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 12), ("t10k", 6)):
        images = draw.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx((np.arange(count) % num_classes).astype(np.uint8)))
    return folder


@pytest.fixture
def request_body(teacher_id: str) -> dict[str, Any]:
    return {
        "teacher": {"id": teacher_id},
        "dataset": {"preset": "mnist"},
        "student": {"architecture": "resnet8", "options": {"width": 0.5}},
        "training": {"epochs": 4, "batch_size": 4},
    }


def work() -> int:
    """Let the worker's preparer check everything that waits; how much there was."""
    count = 0
    while prepare_next("tester", stopping=threading.Event()):
        count += 1
    return count


def test_the_list_tells_what_is_in_place_and_what_is_needed(client: httpx.Client, mnist: Path) -> None:
    found = {preset["name"]: preset for preset in client.get("/presets").json()["data"]}
    assert list(found) == NAMES
    assert [name for name, preset in found.items() if preset["in_place"]] == ["mnist"]
    assert "data_batch_3.bin" in found["cifar-10"]["needs"]


def test_the_folder_is_a_setting(client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mnist(tmp_path / "elsewhere" / "MNIST" / "raw")
    monkeypatch.setenv("LIMBECK_PRESETS_DIR", str(tmp_path / "elsewhere"))
    settings.cache_clear()
    assert client.post("/datasets", json={"preset": "mnist"}).status_code == 202


def test_from_the_name_to_a_ready_data_set(client: httpx.Client, mnist: Path) -> None:
    made = client.post("/datasets", json={"preset": "mnist"})
    assert (made.status_code, made.headers["location"]) == (202, f"/datasets/{made.json()['id']}")
    dataset = made.json()
    assert (dataset["preset"], dataset["upload_id"], dataset["filename"]) == ("mnist", None, "mnist")
    assert (dataset["format"], dataset["status"], len(dataset["sha256"])) == ("idx", "processing", 64)
    assert dataset["bytes"] == sum(path.stat().st_size for path in mnist.iterdir())
    assert work() == 1
    dataset = client.get(made.headers["location"]).json()
    assert (dataset["status"], dataset["error"]) == ("ready", None)
    assert dataset["report"]["splits"]["train"]["images"] == 12
    assert dataset["report"]["classes"] == ["0", "1", "2"]
    row = inputs.get(Dataset, dataset["id"])
    assert row.key is not None
    packed = PackedDataset.load(store().local_path(row.key))
    assert packed.train_labels.tolist() == [0, 1, 2] * 4


def test_the_same_files_are_registered_and_packed_once(client: httpx.Client, mnist: Path) -> None:
    first = client.post("/datasets", json={"preset": "mnist"}).json()
    again = client.post("/datasets", json={"preset": "mnist"})
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert again.headers["location"] == f"/datasets/{first['id']}"
    assert work() == 1
    ready = client.post("/datasets", json={"preset": "mnist"}).json()
    assert (ready["id"], ready["status"]) == (first["id"], "ready")
    assert work() == 0
    write_mnist(mnist, num_classes=2)
    other = client.post("/datasets", json={"preset": "mnist"})
    assert (other.status_code, other.json()["id"] != first["id"]) == (202, True)


def test_a_second_job_uses_what_the_first_one_packed(
    client: httpx.Client, mnist: Path, request_body: dict[str, Any], prepare: Callable[[], None]
) -> None:
    first = client.post("/distill", json=request_body).raise_for_status().json()
    beside = client.post("/distill", json=request_body).raise_for_status().json()
    assert first["status_reason"] is not None
    prepare()
    second = client.post("/distill", json=request_body).raise_for_status().json()
    ids = {client.get(f"/distill/{job['id']}").json()["dataset"]["id"] for job in (first, beside, second)}
    (dataset,) = client.get("/datasets").json()["data"]
    assert ids == {dataset["id"]}
    assert (second["status_reason"], second["config_resolved"]["dataset"]["id"]) == (None, dataset["id"])
    assert (second["dataset"]["train"], second["dataset"]["test"], second["dataset"]["classes"]) == (12, 6, 3)
    assert inputs.claim_next("tester") is None
    assert jobs.claim(second["id"], owner="tester") is not None


def test_a_dry_run_stores_nothing(client: httpx.Client, mnist: Path, request_body: dict[str, Any]) -> None:
    plan = client.post("/distill", params={"dry_run": True}, json=request_body).raise_for_status().json()
    assert plan["waiting_for"] == "teacher"
    assert client.get("/datasets").json()["data"] == []


def test_a_preset_that_failed_is_tried_again(client: httpx.Client, mnist: Path) -> None:
    failed = client.post("/datasets", json={"preset": "mnist"}).json()
    (mnist / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(12, dtype=np.uint8)))
    assert work() == 1
    failed = client.get(f"/datasets/{failed['id']}").json()
    assert (failed["status"], failed["error"]["code"]) == ("error", "dataset_unreadable")
    assert "not those that were there" in failed["error"]["message"]
    write_mnist(mnist)
    again = client.post("/datasets", json={"preset": "mnist"})
    assert (again.status_code, again.json()["id"] != failed["id"]) == (202, True)
    assert work() == 1
    assert client.get(f"/datasets/{again.json()['id']}").json()["status"] == "ready"


def test_deleting_leaves_the_operators_files(client: httpx.Client, mnist: Path, tmp_path: Path) -> None:
    dataset = client.post("/datasets", json={"preset": "mnist"}).json()
    work()
    assert client.delete(f"/datasets/{dataset['id']}").status_code == 204
    assert len(list(mnist.iterdir())) == 4
    assert [path for path in (tmp_path / "data" / "artifacts").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(("route", "pointer"), [("/datasets", "/preset"), ("/distill", "/dataset/preset")])
class TestRefused:
    def test_an_unknown_name_gets_near_ones(
        self, client: httpx.Client, request_body: dict[str, Any], route: str, pointer: str
    ) -> None:
        flaw = self._refused(client, request_body, route, "cifar100", code="not_found")
        assert flaw["pointer"] == pointer
        assert flaw["did_you_mean"][0] == "cifar-100"

    def test_files_that_are_not_in_place(
        self, client: httpx.Client, request_body: dict[str, Any], route: str, pointer: str
    ) -> None:
        flaw = self._refused(client, request_body, route, "fashion-mnist", code="dataset_unreadable")
        assert flaw["pointer"] == pointer
        assert "LIMBECK_PRESETS_DIR" in flaw["hint"]
        assert "train-images-idx3-ubyte" in flaw["hint"]

    def test_a_file_that_is_cut_short(
        self, client: httpx.Client, mnist: Path, request_body: dict[str, Any], route: str, pointer: str
    ) -> None:
        path = mnist / "train-images-idx3-ubyte"
        path.write_bytes(path.read_bytes()[:-1])
        flaw = self._refused(client, request_body, route, "mnist", code="dataset_unreadable")
        assert flaw["pointer"] == pointer

    def test_another_format_than_it_has(
        self, client: httpx.Client, mnist: Path, request_body: dict[str, Any], route: str, pointer: str
    ) -> None:
        body: dict[str, Any] = {"preset": "mnist", "format": "npz"}
        answer = client.post(route, json=body if route == "/datasets" else request_body | {"dataset": body}).json()
        assert (answer["status"], answer["code"]) == (422, "unsupported_format")

    def test_two_ways_at_once(
        self, client: httpx.Client, request_body: dict[str, Any], route: str, pointer: str
    ) -> None:
        body: dict[str, Any] = {"preset": "mnist", "upload_id": "up_1"}
        answer = client.post(route, json=body if route == "/datasets" else request_body | {"dataset": body}).json()
        assert (answer["status"], answer["code"]) == (422, "invalid_value")
        assert "preset" in answer["detail"]

    def _refused(
        self, client: httpx.Client, request_body: dict[str, Any], route: str, name: str, *, code: str
    ) -> dict[str, Any]:
        """The one flaw of a refused request; nothing was stored."""
        body = {"preset": name} if route == "/datasets" else request_body | {"dataset": {"preset": name}}
        problem = client.post(route, json=body).json()
        assert (problem["status"], problem["code"]) == (422, code)
        assert client.get("/datasets").json()["data"] == []
        (flaw,) = problem["errors"]
        return dict(flaw)


class TestWithoutLabels:
    def test_the_class_counts_are_not_compared_and_all_images_count(
        self,
        client: httpx.Client,
        request_body: dict[str, Any],
        upload: Callable[..., str],
        prepare: Callable[[], None],
    ) -> None:
        upload_id = upload(npz(x_train=12, x_test=6), "dataset", "images.npz")
        dataset = client.post("/datasets", json={"upload_id": upload_id}).raise_for_status().json()
        prepare()
        body = request_body | {"dataset": {"id": dataset["id"]}}
        job = client.post("/distill", json=body).raise_for_status().json()
        facts = job["dataset"]
        assert (facts["train"], facts["train_unlabeled"], facts["test"], facts["classes"]) == (12, 12, 6, 0)
        assert job["config_resolved"] is not None

    def test_unlabelled_images_count_beside_labelled_ones(
        self,
        client: httpx.Client,
        request_body: dict[str, Any],
        upload: Callable[..., str],
        prepare: Callable[[], None],
    ) -> None:
        labels = {"y_train": np.arange(12) % 3, "y_test": np.arange(6) % 3}
        content = npz(x_train=12, x_test=6, x_train_unlabeled=20, **labels)
        dataset = client.post("/datasets", json={"upload_id": upload(content, "dataset")}).raise_for_status().json()
        prepare()
        report = client.get(f"/datasets/{dataset['id']}").json()["report"]
        assert (report["splits"]["train"]["images"], report["splits"]["train_unlabeled"]["images"]) == (12, 20)
        training = {"batch_size": 8, "epochs": 1, "baseline": False}
        body = request_body | {"dataset": {"id": dataset["id"]}, "training": training}
        plan = client.post("/distill", params={"dry_run": True}, json=body).raise_for_status().json()
        assert (plan["facts"]["dataset"]["train"], plan["facts"]["dataset"]["train_unlabeled"]) == (32, 20)
        assert plan["facts"]["total_steps"] == 4


def npz(**parts: Any) -> bytes:
    """Arrays; a number stands for so many images."""
    draw = np.random.default_rng(0)
    arrays = {
        name: draw.integers(0, 256, (part, 8, 8), dtype=np.uint8) if isinstance(part, int) else part
        for name, part in parts.items()
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
