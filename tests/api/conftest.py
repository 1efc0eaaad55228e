"""The real application on a real socket, and the few steps that lead to a job."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from safetensors.numpy import save as save_tensors

from api.app import create_app
from distill import architectures, events
from distill.data.overview import pack_and_describe
from distill.data.readers import read, read_preset
from distill.spec import NetworkOptions
from models import Teacher
from service import inputs, jobs, results
from service.jobs import Claim


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        create_app(), log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def client(database: str, server_url: str) -> Iterator[httpx.Client]:
    """A client of the application on an empty database."""
    with httpx.Client(base_url=server_url, timeout=20) as opened:
        yield opened


@pytest.fixture(scope="session")
def teacher_bytes() -> Callable[..., bytes]:
    """Weights of a network of the zoo, all zero."""

    def make(architecture: str = "resnet8", *, num_classes: int = 3, in_channels: int = 1, width: float = 1.0) -> bytes:
        options = NetworkOptions(width=width)
        shapes = architectures.state_shapes(
            architecture, options=options, num_classes=num_classes, in_channels=in_channels
        )
        return save_tensors({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})

    return make


@pytest.fixture(scope="session")
def dataset_bytes() -> Callable[..., bytes]:
    """A tiny NPZ of images 1 x 8 x 8."""

    def make(*, num_classes: int = 3, num_train: int = 12, num_test: int = 6) -> bytes:
        draw = np.random.default_rng(0)
        arrays = {}
        for split, count in (("train", num_train), ("test", num_test)):
            arrays[f"{split}_images"] = draw.integers(0, 256, (count, 8, 8), dtype=np.uint8)
            arrays[f"{split}_labels"] = np.arange(count, dtype=np.int64) % num_classes
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    return make


@pytest.fixture
def upload(client: httpx.Client) -> Callable[..., str]:
    """Announce, send and complete; the upload's id."""

    def send(content: bytes, purpose: str, filename: str = "file.bin") -> str:
        announced = {"filename": filename, "bytes": len(content), "purpose": purpose}
        upload_id: str = client.post("/uploads", json=announced).raise_for_status().json()["id"]
        client.put(f"/uploads/{upload_id}/content", content=content).raise_for_status()
        client.post(f"/uploads/{upload_id}/complete").raise_for_status()
        return upload_id

    return send


@pytest.fixture
def prepare(tmp_path: Path) -> Callable[[], None]:
    """Check all waiting inputs, as a worker would."""

    def run() -> None:
        while (preparation := inputs.claim_next("tester")) is not None:
            if preparation.kind is Teacher:
                inputs.ready(preparation, report={}, packed=None)
                continue
            packed = tmp_path / f"{preparation.id}.safetensors"
            request = preparation.request
            if "preset" in request:
                raw = read_preset(Path(request["source"]), name=request["preset"], sha256=request["sha256"])
            else:
                raw = read(Path(request["source"]), format=request["format"])
            inputs.ready(preparation, report=pack_and_describe(raw, packed), packed=packed)
        jobs.settle_waiting()

    return run


@pytest.fixture
def teacher_id(client: httpx.Client, upload: Callable[..., str], teacher_bytes: Callable[..., bytes]) -> str:
    upload_id = upload(teacher_bytes(), "teacher", "teacher.safetensors")
    answer = client.post("/teachers", json={"upload_id": upload_id, "architecture": "resnet8"})
    return str(answer.raise_for_status().json()["id"])


@pytest.fixture
def dataset_id(client: httpx.Client, upload: Callable[..., str], dataset_bytes: Callable[..., bytes]) -> str:
    upload_id = upload(dataset_bytes(), "dataset", "images.npz")
    return str(client.post("/datasets", json={"upload_id": upload_id}).raise_for_status().json()["id"])


@pytest.fixture
def body(teacher_id: str, dataset_id: str, prepare: Callable[[], None]) -> dict[str, Any]:
    """A request whose inputs are ready."""
    prepare()
    return {
        "name": "tiny",
        "teacher": {"id": teacher_id},
        "dataset": {"id": dataset_id},
        "student": {"architecture": "resnet8", "options": {"width": 0.5}},
        "training": {"epochs": 4, "batch_size": 4},
    }


@pytest.fixture
def sweep(body: dict[str, Any]) -> dict[str, Any]:
    """Two methods over three seeds."""
    axes = [
        {"path": "/method", "values": [{"type": "srrl"}, {"type": "ce"}]},
        {"path": "/training/seed", "values": [0, 1, 2]},
    ]
    return {"name": "compare", "base": body, "axes": axes, "metadata": {"team": "vision"}}


@pytest.fixture
def job_id(client: httpx.Client, body: dict[str, Any]) -> str:
    return str(client.post("/distill", json=body).raise_for_status().json()["id"])


class Worker:
    """What a worker would do to a job, step by step."""

    def __init__(self, job_id: str, folder: Path) -> None:
        self.job_id = job_id
        self.folder = folder

    def claim(self) -> Claim:
        claimed = jobs.claim(self.job_id, owner="tester")
        assert claimed is not None
        self.fence = claimed.fence
        return claimed

    def record(self, *batch: events.Event) -> None:
        jobs.record(self.job_id, fence=self.fence, batch=batch)

    def epoch(self, number: int, accuracy: float) -> None:
        values = {"val/top1": accuracy, "train/loss": 1.0 / number}
        self.record(
            events.Progress(
                run="student", epoch=number, epochs=4, step=3 * number, total_steps=24, images_per_second=6.0
            ),
            events.Metric(step=3 * number, epoch=number, values=values),
        )

    def keep(self, content: bytes, name: str = "student.safetensors") -> str:
        path = self.folder / hashlib.sha256(content).hexdigest()
        path.write_bytes(content)
        results.keep(self.job_id, fence=self.fence, name=name, path=path, content_type="application/octet-stream")
        return path.name

    def finish(self) -> None:
        jobs.finish(self.job_id, fence=self.fence)

    def fail(self, error: dict[str, Any]) -> None:
        jobs.fail(self.job_id, fence=self.fence, error=error)


@pytest.fixture
def hire(tmp_path: Path) -> Callable[[str], Worker]:
    """A worker for a job."""
    folder = tmp_path / "worker"
    folder.mkdir()
    return lambda job_id: Worker(job_id, folder)


@pytest.fixture
def worker(job_id: str, hire: Callable[[str], Worker]) -> Worker:
    return hire(job_id)


@pytest.fixture
def running(worker: Worker) -> Worker:
    """A worker that has claimed the job."""
    worker.claim()
    return worker
