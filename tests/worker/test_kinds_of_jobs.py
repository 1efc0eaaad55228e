"""Jobs of every kind the whole way: `limbeck serve` with its worker and broker, files in by HTTP, a student out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open

from distill.data.packed import PackedDataset
from distill.networks.binarisation import BinaryConv2d
from distill.registry import load_student
from distill.spec import NetworkOptions
from distill.teacher_files import open_teacher
from tests.fixtures import tiny
from tests.fixtures.face_figures import errors, in_pixels, mean_face_error
from tests.fixtures.face_jobs import logits_of
from tests.fixtures.served import served
from tests.fixtures.tiny_faces import NUM_TEST, NUM_TRAIN, STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

SECONDS = 300.0
"""For one job, on a machine that has much else to do; alone it takes some seconds."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service of its own in an empty folder, with SQLite and the embedded broker."""
    folder = tmp_path_factory.mktemp("served")
    with served(folder) as address:
        yield address


@dataclass(frozen=True, kw_only=True)
class Done:
    """A job that has ended, and the student's file as it was downloaded."""

    job: dict[str, Any]
    report: dict[str, Any]
    series: dict[str, list[dict[str, Any]]]
    student: Path


class User:
    """Sends files and requests, waits, and fetches."""

    def __init__(self, client: httpx.Client, folder: Path) -> None:
        self.client = client
        self.folder = folder

    def upload(self, content: bytes, purpose: str, filename: str) -> str:
        announced = {"filename": filename, "bytes": len(content), "purpose": purpose}
        upload_id = str(self.json("POST", "/uploads", json=announced)["id"])
        self.json("PUT", f"/uploads/{upload_id}/content", content=content)
        self.json("POST", f"/uploads/{upload_id}/complete")
        return upload_id

    def distill(self, teacher: TeacherFile, data: bytes, *, student: dict[str, Any], **more: Any) -> Done:
        """Everything in one request: the inputs are checked while the job waits for them."""
        weights = self.upload(teacher.path.read_bytes(), "teacher", teacher.path.name)
        body = {
            "teacher": {
                "upload_id": weights,
                "architecture": teacher.architecture,
                "options": teacher.options.model_dump(mode="json"),
            },
            "dataset": {"upload_id": self.upload(data, "dataset", "data.npz")},
            "student": student,
            **more,
        }
        job = self.json("POST", "/distill", json=body)
        deadline = time.monotonic() + SECONDS
        while not job["is_terminal"]:
            assert time.monotonic() < deadline, job
            job = self.json("GET", f"/distill/{job['id']}", params={"wait": 20})
        assert job["status"] == "succeeded", job["error"]
        student_file = self.folder / "student.safetensors"
        student_file.write_bytes(self.client.get(f"/distill/{job['id']}/student").raise_for_status().content)
        return Done(
            job=job,
            report=self.json("GET", f"/distill/{job['id']}/report"),
            series=self.json("GET", f"/distill/{job['id']}/metrics")["series"],
            student=student_file,
        )

    def json(self, method: str, path: str, **given: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.client.request(method, path, **given).raise_for_status().json()
        return found


@pytest.fixture
def user(url: str, tmp_path: Path) -> Iterator[User]:
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        yield User(client, tmp_path)


@pytest.fixture
def accuracy(tiny_dataset: Path) -> Callable[[Path], float]:
    """Of a student's file on the tiny test images, normalised as its header says."""

    def measure(path: Path) -> float:
        data, header = PackedDataset.load(tiny_dataset), metadata_of(path)
        mean, std = (torch.tensor(json.loads(header[name]))[:, None, None] for name in ("mean", "std"))
        with torch.no_grad():
            guesses = load_student(path)((data.test_images.float() / 255 - mean) / std).argmax(dim=1)
        return float((guesses == data.test_labels).double().mean())

    return measure


def training(**more: Any) -> dict[str, Any]:
    return {"epochs": 3, "batch_size": 32, "learning_rate": 0.05, "precision": "fp32", "baseline": False, **more}


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def tensor_bytes(path: Path) -> int:
    """What the tensors of a file take, without its header."""
    return path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")


def test_a_binary_student_comes_as_bits(
    user: User, tiny_teacher: TeacherFile, tiny_npz: Path, accuracy: Callable[[Path], float]
) -> None:
    student = {"architecture": "binary_resnet8", "options": {"width": 0.5, "stem_stride": 2}}
    done = user.distill(
        tiny_teacher, tiny_npz.read_bytes(), student=student, training=training(epochs=6, baseline=True)
    )

    figures, network = done.report["student"], load_student(done.student)
    signs = [m.weight.numel() for m in network.modules() if isinstance(m, BinaryConv2d)]
    counters = sum(b.numel() * b.element_size() for b in network.buffers())
    assert figures["binary_parameters"] == sum(signs) > 0.7 * figures["parameters"]
    assert figures["binary_macs"] > figures["macs"] > 0
    assert figures["operations"] == figures["macs"] + -(-figures["binary_macs"] // 64)
    real = sum(p.numel() for p in network.parameters()) - sum(signs)
    assert tensor_bytes(done.student) == 4 * real + sum(-(-n // 8) for n in signs) + counters
    assert figures["bytes"] == done.student.stat().st_size < done.report["teacher"]["bytes"] / 2
    assert figures["top1"] == pytest.approx(accuracy(done.student), abs=1.01 / 96)
    assert done.job["student"]["architecture"] == "binary_resnet8"
    assert done.report["baseline"]["binary_parameters"] == figures["binary_parameters"]


def test_a_landmark_student_finds_points(
    user: User, face_teacher: TeacherFile, face_npz: Path, face_dataset: Path
) -> None:
    done = user.distill(
        face_teacher,
        face_npz.read_bytes(),
        student=STUDENT,
        landmarks={"loss": "smooth_l1"},
        training=training(epochs=16),
    )

    logits_NK = logits_of(done.student, face_dataset)
    assert done.report["student"]["nme"] == pytest.approx(errors(in_pixels(logits_NK)).mean(), rel=1e-4)
    assert done.report["student"]["nme"] < mean_face_error()
    assert (done.report["task"], metadata_of(done.student)["task"]) == ("landmarks", "landmarks")
    values = [point["value"] for point in done.series["val/nme"]]
    assert values[-1] == done.report["student"]["nme"]
    assert done.job["metrics"]["last"] == {"nme": values[-1], "epoch": 16}
    assert done.job["metrics"]["best"]["nme"] == min(values)
    assert done.job["metrics"]["teacher"] == {"nme": done.report["teacher"]["nme"]}
    assert done.job["config_resolved"]["landmarks"] == {"loss": "smooth_l1", "normaliser": [0, 1]}
    assert "auto" not in str(done.job["config_resolved"])
    assert (done.job["dataset"]["task"], done.job["dataset"]["train"]) == ("landmarks", NUM_TRAIN)
    assert done.report["images"] == {"train": NUM_TRAIN, "test": NUM_TEST}
    page = user.client.get(f"/jobs/{done.job['id']}")
    assert (page.status_code, page.headers["content-type"].split(";")[0]) == (200, "text/html")


def test_images_without_labels_are_trained_on(
    user: User, tiny_teacher: TeacherFile, tmp_path: Path, accuracy: Callable[[Path], float]
) -> None:
    (x, y), (more, _), (x_test, y_test) = tiny._images(64, 0), tiny._images(96, 5), tiny._images(96, 1)
    np.savez(tmp_path / "some.npz", x_train=x, y_train=y, x_train_unlabeled=more, x_test=x_test, y_test=y_test)

    data = (tmp_path / "some.npz").read_bytes()
    done = user.distill(tiny_teacher, data, student=tiny.STUDENT, training=training(baseline=True))

    assert (done.job["dataset"]["train"], done.job["dataset"]["train_unlabeled"]) == (160, 96)
    assert done.report["images"] == {"train": 160, "test": 96}
    steps = 3 * (160 // 32) + 3 * (64 // 32)
    assert (done.job["progress"]["step"], done.job["progress"]["total_steps"]) == (steps, steps)
    assert done.job["progress"]["percent"] == 100.0
    assert {"val/top1", "baseline/val/top1", "train/fm", "train/sr"} <= done.series.keys()
    assert done.report["student"]["top1"] == pytest.approx(accuracy(done.student), abs=1.01 / 96)


def test_two_methods_at_once(
    user: User, tiny_teacher: TeacherFile, tiny_npz: Path, accuracy: Callable[[Path], float]
) -> None:
    method = {"type": "crd", "crd": {"num_negatives": 64, "width": 16, "weight": 0.1}, "extra": [{"type": "kd"}]}
    done = user.distill(
        tiny_teacher, tiny_npz.read_bytes(), student=tiny.STUDENT, method=method, training=training(epochs=6)
    )

    assert done.report["method"] == "crd + kd"
    assert {"train/loss", "train/ce", "train/crd", "train/kd"} <= done.series.keys()
    assert done.job["config_resolved"]["method"]["extra"][0]["kd"]["temperature"] == 4.0
    assert done.report["student"]["top1"] == pytest.approx(accuracy(done.student), abs=1.01 / 96)
    assert done.report["student"]["top1"] > 0.35  # four classes


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_a_teacher_that_torch_exported_to_onnx(
    user: User, tiny_teacher: TeacherFile, tiny_npz: Path, tiny_dataset: Path, tmp_path: Path
) -> None:
    network, metadata = open_teacher(tiny_teacher)
    data = PackedDataset.load(tiny_dataset)
    mean, std = (torch.tensor(json.loads(metadata[name]))[:, None, None] for name in ("mean", "std"))
    images = (data.test_images.float() / 255 - mean) / std
    path = tmp_path / "teacher.onnx"
    torch.onnx.export(network, (images[:1],), str(path), dynamo=True, external_data=False, verbose=False)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {name: metadata[name] for name in ("mean", "std")})
    onnx.save(model, path)

    done = user.distill(
        replace(tiny_teacher, path=path, architecture="onnx", options=NetworkOptions()),
        tiny_npz.read_bytes(),
        student=tiny.STUDENT,
        method={"type": "srrl", "extra": [{"type": "sp"}]},
        training=training(baseline=True),
    )

    with torch.no_grad():
        right = network(images).argmax(dim=1) == data.test_labels
    teacher = done.report["teacher"]
    assert teacher["top1"] == pytest.approx(float(right.double().mean()), abs=1e-6)
    assert teacher["bytes"] == path.stat().st_size
    assert teacher["parameters"] > sum(p.numel() for p in network.parameters()) * 0.9
    assert teacher["macs"] is None
    described = user.json("GET", f"/teachers/{done.job['teacher']['id']}")
    assert (described["num_classes"], described["in_channels"]) == (data.num_classes, data.in_channels)
    assert described["report"]["pools"] is True
    assert done.job["teacher"]["architecture"] == "onnx"
    assert done.report["student"]["top1"] > 0


def test_a_file_that_is_no_onnx_fails_with_the_way_out(user: User, tiny_npz: Path) -> None:
    weights = user.upload(b"\x80\x04cposix\nsystem\n", "teacher", "teacher.onnx")
    teacher = user.json("POST", "/teachers", json={"upload_id": weights, "architecture": "onnx"})
    assert (teacher["num_classes"], teacher["status"]) == (None, "processing")
    deadline = time.monotonic() + SECONDS
    while teacher["status"] == "processing":
        assert time.monotonic() < deadline
        time.sleep(0.1)
        teacher = user.json("GET", f"/teachers/{teacher['id']}")
    assert (teacher["status"], teacher["error"]["code"]) == ("error", "upload_corrupt")
    assert teacher["error"]["hint"] == "Export it again."
