"""Jobs on data with points: what a request comes to, and what is told of one that cannot be done."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

Body = dict[str, Any]
Upload = Callable[..., str]
Bytes = Callable[..., bytes]

NUM_POINTS = 5


def points_npz(**more: Any) -> bytes:
    """16 training and 4 test images 1 x 8 x 8 with five points each."""
    draw = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for split, count in (("train", 16), ("test", 4)):
        arrays[f"x_{split}"] = draw.integers(0, 256, (count, 8, 8), dtype=np.uint8)
        arrays[f"landmarks_{split}"] = draw.uniform(0, 7, (count, NUM_POINTS, 2)).astype(np.float32)
    file = io.BytesIO()
    np.savez(file, **arrays, **more)
    return file.getvalue()


@pytest.fixture
def add(client: httpx.Client, upload: Upload, teacher_bytes: Bytes, prepare: Callable[[], None]) -> Callable[..., Body]:
    """A request on a teacher of so many outputs, and on points or classes; both are ready."""

    def make(data: bytes, *, num_outputs: int = 2 * NUM_POINTS) -> Body:
        weights = upload(teacher_bytes(num_classes=num_outputs), "teacher", "teacher.safetensors")
        teacher = client.post("/teachers", json={"upload_id": weights, "architecture": "resnet8"})
        dataset = client.post("/datasets", json={"upload_id": upload(data, "dataset", "data.npz")})
        prepare()
        return {
            "teacher": {"id": teacher.raise_for_status().json()["id"]},
            "dataset": {"id": dataset.raise_for_status().json()["id"]},
            "student": {"architecture": "resnet8", "options": {"width": 0.5}},
            "training": {"epochs": 4, "batch_size": 4},
        }

    return make


@pytest.fixture
def body(add: Callable[..., Body]) -> Body:
    """On points of which it is known what a mirror does, and what errors are divided by."""
    return add(points_npz(flip_pairs=[[0, 1], [3, 4]], normaliser=[0, 1]))


@pytest.fixture
def unpaired(add: Callable[..., Body]) -> Body:
    return add(points_npz())


def flaws(answer: httpx.Response) -> list[tuple[str, str]]:
    """Pointers and codes; every one has a hint."""
    problem = answer.json()
    assert answer.status_code == problem["status"] == 422
    assert all(flaw["hint"] for flaw in problem["errors"])
    return [(flaw["pointer"], flaw["code"]) for flaw in problem["errors"]]


class TestPlan:
    def test_a_dry_run_resolves_it_all(self, client: httpx.Client, body: Body) -> None:
        plan = client.post("/distill", params={"dry_run": "true"}, json=body).raise_for_status().json()
        resolved = plan["config_resolved"]
        assert resolved["landmarks"] == {"loss": "l1", "normaliser": [0, 1]}
        assert (resolved["training"]["augmentation"], resolved["training"]["views"]) == ("flip", 2)
        assert plan["facts"]["total_steps"] == 2 * 4 * (16 // 4)
        facts = plan["facts"]["dataset"]
        assert (facts["task"], facts["points"], facts["train"], facts["test"]) == ("landmarks", NUM_POINTS, 16, 4)
        assert client.get("/distill").json()["data"] == []

    def test_without_known_pairs_auto_is_without_flips(self, client: httpx.Client, unpaired: Body) -> None:
        plan = client.post("/distill", params={"dry_run": "true"}, json=unpaired).raise_for_status().json()
        resolved = plan["config_resolved"]
        assert (resolved["training"]["augmentation"], resolved["training"]["views"]) == ("none", 1)
        assert resolved["landmarks"]["normaliser"] == "box"

    @pytest.mark.parametrize("normaliser", ["box", [4, 2]])
    def test_what_is_asked_for_is_kept(self, client: httpx.Client, body: Body, normaliser: Any) -> None:
        asked = {"loss": "wing", "normaliser": normaliser}
        job = client.post("/distill", json=body | {"landmarks": asked}).raise_for_status().json()
        assert job["config"]["landmarks"] == job["config_resolved"]["landmarks"] == asked
        assert "landmarks.normaliser" in client.get(f"/jobs/{job['id']}").text

    def test_a_job_that_waits_for_its_points_is_resolved_when_they_are_ready(
        self, client: httpx.Client, body: Body, upload: Upload, prepare: Callable[[], None]
    ) -> None:
        inline = {"upload_id": upload(points_npz(normaliser=[2, 3]), "dataset", "more.npz")}
        job = client.post("/distill", json=body | {"dataset": inline}).raise_for_status().json()
        assert job["queue"]["waiting_for"] == "dataset"
        prepare()
        job = client.get(f"/distill/{job['id']}").json()
        assert job["queue"]["waiting_for"] == "worker"
        assert job["config_resolved"]["landmarks"]["normaliser"] == [2, 3]

    def test_the_data_set_says_what_its_points_are(self, client: httpx.Client, body: Body) -> None:
        report = client.get(f"/datasets/{body['dataset']['id']}").json()["report"]
        assert (report["task"], report["num_points"], report["classes"]) == ("landmarks", NUM_POINTS, [])
        assert (report["flip_pairs"], report["normaliser"]) == ([[0, 1], [3, 4]], [0, 1])


class TestRefusals:
    def test_a_teacher_of_another_number_of_points(self, client: httpx.Client, add: Callable[..., Body]) -> None:
        answer = client.post("/distill", json=add(points_npz(), num_outputs=NUM_POINTS))
        assert flaws(answer) == [("/teacher/id", "teacher_head_mismatch")]
        assert "The teacher has 5 outputs; 5 points need 10" in answer.json()["detail"]

    @pytest.mark.parametrize("kind", ["kd", "dkd", "dist"])
    def test_methods_on_probabilities(self, client: httpx.Client, body: Body, kind: str) -> None:
        alone = client.post("/distill", json=body | {"method": {"type": kind}})
        beside = client.post("/distill", json=body | {"method": {"type": "srrl", "extra": [{"type": kind}]}})
        assert flaws(alone) == [("/method/type", "invalid_value")]
        assert flaws(beside) == [("/method/extra/0/type", "invalid_value")]
        assert f"{kind} compares probabilities of classes; points have none" in beside.json()["detail"]

    @pytest.mark.parametrize("loss", ["ce", "kl"])
    def test_l_sr_on_probabilities(self, client: httpx.Client, body: Body, loss: str) -> None:
        answer = client.post("/distill", json=body | {"method": {"type": "srrl", "srrl": {"regression_loss": loss}}})
        assert flaws(answer) == [("/method/srrl/regression_loss", "invalid_value")]

    @pytest.mark.parametrize("normaliser", [[0, 5], [7, 9], [2, 2]])
    def test_a_normaliser_that_is_no_two_points(self, client: httpx.Client, body: Body, normaliser: list[int]) -> None:
        answer = client.post("/distill", json=body | {"landmarks": {"normaliser": normaliser}})
        assert flaws(answer) == [("/landmarks/normaliser", "invalid_value")]
        assert "two of the 5 points, counted from 0" in answer.json()["detail"]

    @pytest.mark.parametrize(
        ("landmarks", "pointer"),
        [
            ({"normaliser": "boxx"}, "/landmarks/normaliser"),
            ({"normaliser": [0, -1]}, "/landmarks/normaliser"),
            ({"normaliser": [0, 1, 2]}, "/landmarks/normaliser"),
            ({"loss": "l3"}, "/landmarks/loss"),
            ({"losss": "l1"}, "/landmarks/losss"),
            ([1], "/landmarks"),
        ],
    )
    def test_values_of_no_sense(self, client: httpx.Client, body: Body, landmarks: Body, pointer: str) -> None:
        answer = client.post("/distill", json=body | {"landmarks": landmarks})
        assert answer.status_code == 422
        assert [flaw["pointer"] for flaw in answer.json()["errors"]] == [pointer]

    @pytest.mark.parametrize("augmentation", ["flip", "crop_flip", "resized_crop_flip"])
    def test_flips_without_known_pairs(self, client: httpx.Client, unpaired: Body, augmentation: str) -> None:
        answer = client.post("/distill", json=unpaired | {"training": {"augmentation": augmentation}})
        assert flaws(answer) == [("/training/augmentation", "invalid_value")]
        assert "flip_pairs" in answer.json()["hint"]

    def test_points_of_a_data_set_with_classes(
        self, client: httpx.Client, add: Callable[..., Body], dataset_bytes: Bytes
    ) -> None:
        body = add(dataset_bytes(), num_outputs=3)
        assert flaws(client.post("/distill", json=body | {"landmarks": {}})) == [("/landmarks", "invalid_value")]
        assert client.post("/distill", json=body).status_code == 202

    def test_all_of_it_is_told_at_once(self, client: httpx.Client, add: Callable[..., Body]) -> None:
        body = add(points_npz(), num_outputs=4) | {
            "method": {"type": "kd"},
            "landmarks": {"normaliser": [0, 9]},
            "training": {"augmentation": "flip"},
        }
        assert [pointer for pointer, _ in flaws(client.post("/distill", json=body))] == [
            "/method/type",
            "/teacher/id",
            "/landmarks/normaliser",
            "/training/augmentation",
        ]

    def test_a_waiting_job_that_turns_out_not_to_fit_fails(
        self, client: httpx.Client, body: Body, upload: Upload, prepare: Callable[[], None]
    ) -> None:
        inline = {"upload_id": upload(points_npz(), "dataset", "unpaired.npz")}
        asked = body | {"dataset": inline, "training": {"augmentation": "flip"}}
        job = client.post("/distill", json=asked).raise_for_status().json()
        prepare()
        job = client.get(f"/distill/{job['id']}").json()
        assert (job["status"], job["error"]["code"]) == ("failed", "invalid_value")
        assert job["error"]["param"] == "/training/augmentation"
