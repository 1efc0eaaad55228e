from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from distill.errors import InputError
from distill.registry import build_network
from distill.spec import NetworkOptions
from service import inputs
from service import settings as settings_module
from tests.fixtures.archives import gzipped
from worker.preparer import prepare_next

Bytes = Callable[..., bytes]
Upload = Callable[..., str]


def bmp(value: int) -> bytes:
    """A grey image of 2 x 2 pixels."""
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256))
    header = struct.pack("<2sIII", b"BM", 54 + 1024 + 8, 0, 54 + 1024)
    return header + struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 8, 0, 8, 0, 0, 256, 0) + palette + bytes([value] * 8)


class TestTeachers:
    def test_from_upload_to_ready(
        self, client: httpx.Client, upload: Upload, teacher_bytes: Bytes, prepare: Callable[[], None]
    ) -> None:
        content = teacher_bytes("resnet8", width=2.0)
        upload_id = upload(content, "teacher", "big.safetensors")
        body = {"upload_id": upload_id, "architecture": "resnet8", "options": {"width": 2}}
        made = client.post("/teachers", json=body)
        teacher = made.json()
        assert made.status_code == 202
        assert made.headers["location"] == f"/teachers/{teacher['id']}"
        assert (teacher["object"], teacher["status"], teacher["ready_at"]) == ("teacher", "processing", None)
        assert (teacher["architecture"], teacher["options"]["width"]) == ("resnet8", 2.0)
        assert (teacher["filename"], teacher["bytes"], len(teacher["sha256"])) == ("big.safetensors", len(content), 64)
        assert (teacher["num_classes"], teacher["in_channels"]) == (3, 1)
        prepare()
        ready = client.get(made.headers["location"]).json()
        assert ready["status"] == "ready"
        assert ready["ready_at"] >= ready["created_at"]

    @pytest.mark.parametrize(
        ("architecture", "feature_width"),
        [("resnet10", 128), ("vgg8", 128), ("mobilenetv2", 1280), ("shufflenetv1", 240), ("shufflenetv2", 256)],
    )
    def test_weights_of_every_family_tell_their_classes_and_channels(
        self, client: httpx.Client, upload: Upload, teacher_bytes: Bytes, architecture: str, feature_width: int
    ) -> None:
        content = teacher_bytes(architecture, num_classes=7, in_channels=1, width=0.25)
        body = {
            "upload_id": upload(content, "teacher"),
            "architecture": architecture,
            "options": {"width": 0.25},
        }
        teacher = client.post("/teachers", json=body).raise_for_status().json()
        assert (teacher["num_classes"], teacher["in_channels"]) == (7, 1)
        assert teacher["report"]["feature_width"] == feature_width

    def test_an_option_that_the_network_does_not_take_is_refused(
        self, client: httpx.Client, upload: Upload, teacher_bytes: Bytes, dataset_bytes: Bytes
    ) -> None:
        strided = {"architecture": "shufflenetv2", "options": {"stem_stride": 2}}
        upload_id = upload(teacher_bytes("shufflenetv2"), "teacher")
        flaw = self._refused(client, {"upload_id": upload_id, **strided}, "invalid_value")
        assert flaw["pointer"] == "/options/stem_stride"
        inline = {"upload_id": upload(dataset_bytes(), "dataset")}
        body = {"teacher": {"upload_id": upload_id, **strided}, "dataset": inline, "student": strided}
        flaws = client.post("/distill", json=body).json()["errors"]
        assert [(flaw["pointer"], flaw["code"]) for flaw in flaws] == [
            ("/teacher/options/stem_stride", "invalid_value"),
            ("/student/options/stem_stride", "invalid_value"),
        ]

    def test_what_the_worker_refuses_is_told(self, client: httpx.Client, teacher_id: str) -> None:
        preparation = inputs.claim_next("tester")
        assert preparation is not None
        inputs.failed(preparation, InputError("unsafe_file", "Not finite.", hint="Train it again."))
        teacher = client.get(f"/teachers/{teacher_id}").json()
        assert (teacher["status"], teacher["error"]["code"]) == ("error", "unsafe_file")
        body = {"teacher": {"id": teacher_id}, "dataset": {"id": "ds_x"}, "student": {"architecture": "resnet8"}}
        flaws = client.post("/distill", json=body).json()["errors"]
        assert ("/teacher/id", "unsafe_file") in [(flaw["pointer"], flaw["code"]) for flaw in flaws]

    def test_list_and_delete(self, client: httpx.Client, upload: Upload, teacher_bytes: Bytes) -> None:
        ids = []
        for _ in range(3):
            body = {"upload_id": upload(teacher_bytes(), "teacher"), "architecture": "resnet8"}
            ids.append(client.post("/teachers", json=body).json()["id"])
        page = client.get("/teachers", params={"limit": 2}).json()
        assert ([t["id"] for t in page["data"]], page["has_more"]) == ([ids[2], ids[1]], True)
        rest = client.get("/teachers", params={"after": page["last_id"]}).json()
        assert ([t["id"] for t in rest["data"]], rest["has_more"]) == ([ids[0]], False)
        gone = client.delete(f"/teachers/{ids[1]}")
        assert (gone.status_code, gone.content) == (204, b"")
        assert client.get(f"/teachers/{ids[1]}").status_code == 404
        assert client.delete(f"/teachers/{ids[1]}").status_code == 404

    def test_a_teacher_in_use_stays(self, client: httpx.Client, job_id: str, teacher_id: str) -> None:
        answer = client.delete(f"/teachers/{teacher_id}")
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert job_id in answer.json()["detail"]
        assert client.get(f"/teachers/{teacher_id}").status_code == 200

    def test_an_unknown_architecture_gets_near_names(
        self, client: httpx.Client, upload: Upload, teacher_bytes: Bytes
    ) -> None:
        body = {"upload_id": upload(teacher_bytes(), "teacher"), "architecture": "resnet-8"}
        flaw = self._refused(client, body, "architecture_unknown")
        assert flaw["pointer"] == "/architecture"
        assert "resnet8" in flaw["did_you_mean"]
        assert flaw["hint"]

    def test_weights_that_do_not_fit_are_named_with_their_shapes(
        self, client: httpx.Client, upload: Upload, teacher_bytes: Bytes
    ) -> None:
        body = {"upload_id": upload(teacher_bytes("resnet14"), "teacher"), "architecture": "resnet8"}
        flaw = self._refused(client, body, "state_dict_mismatch")
        assert "layer1.1.bn1.weight" in flaw["details"]["unexpected"]
        assert flaw["did_you_mean"] == ["resnet14"]
        body = {"upload_id": upload(teacher_bytes("resnet8", width=0.5), "teacher"), "architecture": "resnet8"}
        flaw = self._refused(client, body, "state_dict_mismatch")
        shapes = {"name": "bn1.weight", "expected": [16], "found": [8]}
        assert shapes in flaw["details"]["misshapen"]
        assert "width" in flaw["hint"]

    @pytest.mark.parametrize(
        ("spoil", "code"),
        [
            (lambda content: content[:-10], "upload_corrupt"),
            (lambda content: content[:100], "upload_corrupt"),
            (lambda content: b"PK\x03\x04" + content, "upload_corrupt"),
            (lambda content: b"\x80\x04" + content, "unsupported_format"),
        ],
    )
    def test_a_file_cut_short_or_of_another_kind(
        self, client: httpx.Client, upload: Upload, teacher_bytes: Bytes, spoil: Callable[[bytes], bytes], code: str
    ) -> None:
        body = {"upload_id": upload(spoil(teacher_bytes()), "teacher"), "architecture": "resnet8"}
        flaw = self._refused(client, body, code)
        assert flaw["pointer"] == "/upload_id"
        assert flaw["hint"]

    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_file_of_torch_save_is_refused_with_both_ways_out(
        self, client: httpx.Client, upload: Upload, legacy: bool
    ) -> None:
        buffer = io.BytesIO()
        torch.save({"w": torch.zeros(3)}, buffer, _use_new_zipfile_serialization=not legacy)
        body = {"upload_id": upload(buffer.getvalue(), "teacher", "teacher.pth"), "architecture": "resnet8"}

        flaw = self._refused(client, body, "unsupported_format")

        assert "pickle" in flaw["detail"]
        assert "LIMBECK_ALLOW_PICKLE" in flaw["hint"]
        assert "safetensors.torch.save_file" in flaw["hint"]

    def test_a_worker_whose_operator_takes_no_pickles_reads_none(
        self, client: httpx.Client, upload: Upload, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        state = build_network("resnet8", options=NetworkOptions(), num_classes=3, in_channels=1).state_dict()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        monkeypatch.setenv("LIMBECK_ALLOW_PICKLE", "1")
        settings_module.settings.cache_clear()
        body = {"upload_id": upload(buffer.getvalue(), "teacher", "teacher.pth"), "architecture": "resnet8"}
        teacher = client.post("/teachers", json=body).raise_for_status().json()
        assert teacher["report"]["file"] == {"format": "pytorch", "taken": None, "ignored": []}
        monkeypatch.delenv("LIMBECK_ALLOW_PICKLE")
        settings_module.settings.cache_clear()

        assert prepare_next("tester", stopping=threading.Event())

        teacher = client.get(f"/teachers/{teacher['id']}").json()
        assert (teacher["status"], teacher["error"]["code"]) == ("error", "unsupported_format")
        assert "LIMBECK_ALLOW_PICKLE" in teacher["error"]["hint"]

    def test_weights_in_the_usual_wrappings_tell_what_was_taken(
        self, client: httpx.Client, upload: Upload, teacher_bytes: Bytes
    ) -> None:
        plain = load_tensors(teacher_bytes())
        wrapped = {f"model.{name}": value for name, value in plain.items()}
        wrapped |= {f"model_ema.{name}": value for name, value in plain.items()}
        body = {"upload_id": upload(save_tensors(wrapped), "teacher"), "architecture": "resnet8"}

        teacher = client.post("/teachers", json=body).raise_for_status().json()

        told = teacher["report"]["file"]
        assert (told["format"], told["taken"], told["ignored"]) == ("safetensors", "model", ["model_ema"])
        assert "model_ema" in told["note"]
        assert teacher["num_classes"] == 3

    def test_only_a_completed_upload_of_a_teacher_will_do(
        self, client: httpx.Client, upload: Upload, dataset_bytes: Bytes
    ) -> None:
        announced = client.post("/uploads", json={"filename": "t", "bytes": 5, "purpose": "teacher"}).json()
        for upload_id, code in (
            (announced["id"], "upload_corrupt"),
            (upload(dataset_bytes(), "dataset"), "unsupported_format"),
            ("up_nothing", "not_found"),
        ):
            flaw = self._refused(client, {"upload_id": upload_id, "architecture": "resnet8"}, code)
            assert flaw["pointer"] == "/upload_id"

    def _refused(self, client: httpx.Client, body: dict[str, Any], code: str) -> dict[str, Any]:
        """The one flaw of a refused teacher; nothing was stored."""
        problem = client.post("/teachers", json=body).json()
        assert (problem["status"], problem["code"]) == (422, code)
        assert client.get("/teachers").json()["data"] == []
        (flaw,) = problem["errors"]
        assert flaw["code"] == code
        return dict(flaw)


class TestDatasets:
    def test_from_upload_to_ready(self, client: httpx.Client, dataset_id: str, prepare: Callable[[], None]) -> None:
        dataset = client.get(f"/datasets/{dataset_id}").json()
        assert (dataset["object"], dataset["status"], dataset["format"]) == ("dataset", "processing", "npz")
        prepare()
        dataset = client.get(f"/datasets/{dataset_id}").json()
        assert dataset["status"] == "ready"
        assert dataset["report"]["splits"]["train"]["images"] == 12
        assert dataset["report"]["image"] == {"channels": 1, "height": 8, "width": 8}

    def test_list_and_delete(self, client: httpx.Client, dataset_id: str, tmp_path: Path) -> None:
        assert [d["id"] for d in client.get("/datasets").json()["data"]] == [dataset_id]
        assert client.delete(f"/datasets/{dataset_id}").status_code == 204
        assert client.get("/datasets").json()["data"] == []
        assert [path for path in (tmp_path / "data" / "artifacts").rglob("*") if path.is_file()] == []

    @pytest.mark.parametrize(
        ("spoil", "code"),
        [
            (lambda content: content[: len(content) // 2], "upload_corrupt"),
            (lambda content: b"GIF89a" + content, "unsupported_format"),
            (lambda content: b"\x80\x04pickle", "unsupported_format"),
        ],
    )
    def test_an_unreadable_file(
        self, client: httpx.Client, upload: Upload, dataset_bytes: Bytes, spoil: Callable[[bytes], bytes], code: str
    ) -> None:
        problem = client.post("/datasets", json={"upload_id": upload(spoil(dataset_bytes()), "dataset")}).json()
        assert (problem["status"], problem["code"]) == (422, code)
        assert problem["errors"][0]["pointer"] == "/upload_id"
        assert problem["errors"][0]["hint"]
        assert client.get("/datasets").json()["data"] == []

    def test_a_tar_of_folders(
        self, client: httpx.Client, upload: Upload, prepare: Callable[[], None], tmp_path: Path
    ) -> None:
        content = gzipped({f"photos/{c}/{i}.bmp": bmp(40 * i) for c in ("ox", "bee") for i in range(5)})
        made = client.post("/datasets", json={"upload_id": upload(content, "dataset", "photos.tgz")})
        assert (made.status_code, made.json()["format"]) == (202, "imagefolder")
        prepare()
        dataset = client.get(f"/datasets/{made.json()['id']}").json()
        assert (dataset["status"], dataset["report"]["classes"]) == ("ready", ["bee", "ox"])
        # The upload, the packed form and its preview: what was unpacked for reading is gone.
        assert len([path for path in (tmp_path / "data" / "artifacts").rglob("*") if path.is_file()]) == 3

    def test_a_tar_that_leads_elsewhere(self, client: httpx.Client, upload: Upload, tmp_path: Path) -> None:
        content = gzipped({"ox/1.bmp": bmp(0), "../../bee/1.bmp": bmp(1)})
        problem = client.post("/datasets", json={"upload_id": upload(content, "dataset")}).json()
        assert (problem["status"], problem["code"]) == (422, "unsafe_file")
        assert problem["errors"][0]["pointer"] == "/upload_id"
        assert list(tmp_path.rglob("1.bmp")) == []

    def test_an_empty_data_set(self, client: httpx.Client, upload: Upload, dataset_bytes: Bytes) -> None:
        upload_id = upload(dataset_bytes(num_train=0, num_test=0), "dataset")
        problem = client.post("/datasets", json={"upload_id": upload_id}).json()
        assert (problem["status"], problem["code"]) == (422, "dataset_empty")
        assert problem["errors"][0]["pointer"] == "/upload_id"
        assert client.get("/datasets").json()["data"] == []

    def test_another_format_than_asked_for(self, client: httpx.Client, upload: Upload, dataset_bytes: Bytes) -> None:
        body = {"upload_id": upload(dataset_bytes(), "dataset"), "format": "idx"}
        assert client.post("/datasets", json=body).json()["code"] == "unsupported_format"


class TestTogether:
    def test_class_counts_that_differ(
        self,
        client: httpx.Client,
        body: dict[str, Any],
        upload: Upload,
        dataset_bytes: Bytes,
        prepare: Callable[[], None],
    ) -> None:
        upload_id = upload(dataset_bytes(num_classes=4), "dataset")
        dataset = client.post("/datasets", json={"upload_id": upload_id}).json()
        prepare()
        problem = client.post("/distill", json=body | {"dataset": {"id": dataset["id"]}}).json()
        assert (problem["status"], problem["code"]) == (422, "teacher_head_mismatch")
        assert problem["errors"][0]["pointer"] == "/teacher/id"
        assert problem["errors"][0]["hint"]
        assert "3" in problem["detail"]
        assert "4" in problem["detail"]
        assert client.get("/distill").json()["data"] == []

    def test_class_counts_that_differ_in_a_waiting_job_fail_it(
        self,
        client: httpx.Client,
        teacher_id: str,
        upload: Upload,
        dataset_bytes: Bytes,
        prepare: Callable[[], None],
    ) -> None:
        inline = {"upload_id": upload(dataset_bytes(num_classes=4), "dataset")}
        body = {"teacher": {"id": teacher_id}, "dataset": inline, "student": {"architecture": "resnet8"}}
        job = client.post("/distill", json=body).raise_for_status().json()
        prepare()
        job = client.get(f"/distill/{job['id']}").json()
        assert (job["status"], job["error"]["code"]) == ("failed", "teacher_head_mismatch")

    def test_inline_inputs_that_are_refused_leave_nothing(
        self, client: httpx.Client, upload: Upload, teacher_bytes: Bytes, dataset_bytes: Bytes
    ) -> None:
        body = {
            "teacher": {"upload_id": upload(teacher_bytes("resnet14"), "teacher"), "architecture": "resnet8"},
            "dataset": {"upload_id": upload(dataset_bytes()[:300], "dataset")},
            "student": {"architecture": "resnett8"},
        }
        problem = client.post("/distill", json=body).json()
        assert [(flaw["pointer"], flaw["code"]) for flaw in problem["errors"]] == [
            ("/teacher/architecture", "state_dict_mismatch"),
            ("/dataset/upload_id", "upload_corrupt"),
            ("/student/architecture", "architecture_unknown"),
        ]
        for kind in ("distill", "teachers", "datasets"):
            assert client.get(f"/{kind}").json()["data"] == []


def test_an_onnx_file_takes_no_options(client: httpx.Client, upload: Callable[..., str]) -> None:
    body = {"upload_id": upload(b"graph", "teacher", "t.onnx"), "architecture": "onnx", "options": {"width": 2.0}}
    answer = client.post("/teachers", json=body)
    assert answer.status_code == 422
    (flaw,) = answer.json()["errors"]
    assert (flaw["pointer"], flaw["code"]) == ("/options", "invalid_value")
    assert client.post("/teachers", json=body | {"options": {}}).json()["num_classes"] is None
