"""Teachers as folders and by name on a hub: what the API says of them at once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

from service import inputs
from service import settings as settings_module
from tests.fixtures.archives import gzipped, tarred, zipped
from tests.fixtures.model_folders import CLASSES, resnet_folder

Upload = Callable[..., str]


def post(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post("/teachers", json=body)


def refused(answer: httpx.Response) -> dict[str, Any]:
    """The one flaw of a refusal, after nothing was stored."""
    assert answer.status_code == 422, answer.text
    (flaw,) = answer.json()["errors"]
    assert flaw["hint"]
    return dict(flaw)


@pytest.mark.parametrize("pack", [zipped, tarred, gzipped])
@pytest.mark.parametrize("prefix", ["", "net/"])
@pytest.mark.parametrize("architecture", [{}, {"architecture": "auto"}, {"architecture": "resnet8"}])
def test_a_folder_says_itself_what_it_is(
    client: httpx.Client, upload: Upload, pack: Any, prefix: str, architecture: dict[str, str]
) -> None:
    files = {prefix + name: data for name, data in resnet_folder().items()}

    answer = post(client, upload_id=upload(pack(files), "teacher", "net.zip"), **architecture)

    assert answer.status_code == 202, answer.text
    teacher = answer.json()
    assert (teacher["architecture"], teacher["status"]) == ("resnet8", "processing")
    assert (teacher["num_classes"], teacher["in_channels"], teacher["classes"]) == (5, 3, CLASSES)
    assert teacher["hub"] is None
    assert teacher["report"]["file"]["folder"]["config"] == "timm"
    preparation = inputs.claim_next("tester")
    assert preparation is not None
    assert preparation.request["folder"] is True


def test_given_classes_count_for_more_than_those_of_the_config(client: httpx.Client, upload: Upload) -> None:
    classes = ["a", "b", "c", "d", "e"]

    teacher = post(client, upload_id=upload(zipped(resnet_folder()), "teacher"), classes=classes).json()

    assert teacher["classes"] == classes


def test_names_of_transformers_are_matched_at_once(client: httpx.Client, upload: Upload) -> None:
    """Of a ViT the classifier is looked at; the pieces of its attention are put together by a worker."""
    config = {
        "architectures": ["ViTForImageClassification"],
        "hidden_size": 192,
        "num_attention_heads": 3,
        "intermediate_size": 768,
        "id2label": {str(number): name for number, name in enumerate(CLASSES)},
    }
    weights = {
        "classifier.weight": np.zeros((5, 192), np.float32),
        "vit.embeddings.patch_embeddings.projection.weight": np.zeros((192, 3, 16, 16), np.float32),
    }
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": save_tensors(weights)}

    teacher = post(client, upload_id=upload(zipped(files), "teacher")).json()

    assert (teacher["architecture"], teacher["num_classes"]) == ("timm/vit_tiny_patch16_224", 5)
    assert teacher["classes"] == CLASSES
    assert teacher["report"]["file"]["folder"]["config"] == "transformers"


def test_a_student_of_ours_says_in_its_header_what_it_is(client: httpx.Client, upload: Upload) -> None:
    from distill import architectures
    from distill.spec import NetworkOptions

    options = NetworkOptions(width=0.5, stem_stride=2)
    shapes = architectures.state_shapes("resnet8", options=options, num_classes=5, in_channels=3)
    metadata = {"architecture": "resnet8", "options": options.model_dump_json()}
    content = save_tensors({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, metadata)

    teacher = post(client, upload_id=upload(content, "teacher", "student.safetensors")).json()

    assert (teacher["architecture"], teacher["options"]) == ("resnet8", {"width": 0.5, "stem_stride": 2})


def test_weights_alone_need_an_architecture(
    client: httpx.Client, upload: Upload, teacher_bytes: Callable[..., bytes]
) -> None:
    flaw = refused(post(client, upload_id=upload(teacher_bytes(), "teacher")))

    assert (flaw["code"], flaw["pointer"]) == ("architecture_unknown", "/architecture")


WRONG: dict[str, tuple[bytes, dict[str, Any], str, str]] = {
    "another architecture": (zipped(resnet_folder()), {"architecture": "resnet14"}, "invalid_value", "/architecture"),
    "options": (zipped(resnet_folder()), {"options": {"width": 0.5}}, "invalid_value", "/options"),
    "no config": (
        zipped({"model.safetensors": resnet_folder()["model.safetensors"]}),
        {},
        "unsupported_format",
        "/upload_id",
    ),
    "a network that is not read": (
        zipped({**resnet_folder(), "config.json": b'{"architectures": ["LlamaForCausalLM"]}'}),
        {},
        "architecture_unknown",
        "/upload_id",
    ),
    "pickled weights": (
        zipped({"config.json": resnet_folder()["config.json"], "pytorch_model.bin": b"PK"}),
        {},
        "unsupported_format",
        "/upload_id",
    ),
    "weights of another network": (
        zipped({**resnet_folder("resnet14"), "config.json": resnet_folder("resnet8")["config.json"]}),
        {},
        "state_dict_mismatch",
        "/upload_id",
    ),
    "a name that leads out": (zipped({"../config.json": b"{}"}), {}, "unsafe_file", "/upload_id"),
    "gzip of something else": (b"\x1f\x8b" + b"0" * 100, {}, "upload_corrupt", "/upload_id"),
    "classes of another number": (
        zipped(resnet_folder()),
        {"classes": ["a", "b"]},
        "teacher_head_mismatch",
        "/classes",
    ),
}


@pytest.mark.parametrize(("content", "more", "code", "pointer"), WRONG.values(), ids=WRONG)
def test_a_folder_that_does_not_fit_is_refused_at_once(
    client: httpx.Client, upload: Upload, content: bytes, more: dict[str, Any], code: str, pointer: str
) -> None:
    flaw = refused(post(client, upload_id=upload(content, "teacher"), **more))

    assert (flaw["code"], flaw["pointer"]) == (code, pointer)
    assert client.get("/teachers").json()["data"] == []


def test_pickled_weights_wait_for_the_cage_where_they_are_allowed(
    client: httpx.Client, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_ALLOW_PICKLE", "1")
    settings_module.settings.cache_clear()
    files = {"config.json": resnet_folder()["config.json"], "pytorch_model.bin": b"PK"}

    teacher = post(client, upload_id=upload(zipped(files), "teacher")).json()

    assert (teacher["architecture"], teacher["num_classes"]) == ("auto", None)
    preparation = inputs.claim_next("tester")
    assert preparation is not None
    assert (preparation.request["folder"], preparation.request["pickled"]) == (True, True)


def test_a_long_tar_gz_is_left_to_a_worker(
    client: httpx.Client, upload: Upload, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.teacher_files._OUTLINE_BYTES", 1000)

    teacher = post(client, upload_id=upload(gzipped(resnet_folder()), "teacher")).json()

    assert (teacher["architecture"], teacher["num_classes"], teacher["status"]) == ("auto", None, "processing")
    preparation = inputs.claim_next("tester")
    assert preparation is not None
    assert (preparation.request["folder"], preparation.request["pickled"]) == (True, False)


class TestHub:
    @pytest.fixture
    def allowed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIMBECK_HUB_URL", "http://127.0.0.1:9")
        settings_module.settings.cache_clear()

    def test_nothing_is_fetched_unless_the_operator_says_so(self, client: httpx.Client) -> None:
        flaw = refused(post(client, hub="hf-hub:owner/name"))

        assert (flaw["code"], flaw["pointer"]) == ("invalid_value", "/hub")
        assert "LIMBECK_HUB_URL" in flaw["hint"]

    @pytest.mark.parametrize(
        ("body", "repository", "revision"),
        [
            ({"hub": "hf-hub:microsoft/resnet-50"}, "microsoft/resnet-50", "main"),
            ({"hub": "timm:resnet18.a1_in1k"}, "timm/resnet18.a1_in1k", "main"),
            ({"hub": "timm:resnet18.a1_in1k@v2"}, "timm/resnet18.a1_in1k", "v2"),
            ({"hub": "hf-hub:a/b", "revision": "refs/pr/1"}, "a/b", "refs/pr/1"),
        ],
    )
    def test_a_name_is_registered_for_a_worker_to_fetch(
        self, client: httpx.Client, allowed: None, body: dict[str, str], repository: str, revision: str
    ) -> None:
        answer = post(client, **body)

        assert answer.status_code == 202, answer.text
        teacher = answer.json()
        assert teacher["hub"] == {"repository": repository, "revision": revision, "commit": None}
        assert (teacher["upload_id"], teacher["architecture"], teacher["num_classes"]) == (None, "auto", None)
        assert client.get(f"/teachers/{teacher['id']}").json() == teacher
        preparation = inputs.claim_next("tester")
        assert preparation is not None
        assert preparation.request["hub"] == {"repository": repository, "revision": revision}
        inputs.release(preparation)
        assert client.delete(f"/teachers/{teacher['id']}").status_code == 204

    @pytest.mark.parametrize(
        ("body", "pointer"),
        [
            ({"hub": "resnet18"}, "/hub"),
            ({"hub": "hf-hub:name-alone"}, "/hub"),
            ({"hub": "hf-hub:../../etc"}, "/hub"),
            ({"hub": "hf-hub:a/b/c"}, "/hub"),
            ({"hub": "https://example.org/a/b"}, "/hub"),
            ({"hub": "hf-hub:a/b@../../x"}, "/hub"),
            ({"hub": "hf-hub:a/b", "revision": "a/../b"}, "/revision"),
            ({"hub": "hf-hub:a/b@v1", "revision": "v2"}, "/revision"),
            ({"hub": "hf-hub:a/b", "options": {"width": 0.5}}, "/options"),
        ],
    )
    def test_what_is_no_name(self, client: httpx.Client, allowed: None, body: dict[str, Any], pointer: str) -> None:
        flaw = refused(post(client, **body))

        assert (flaw["code"], flaw["pointer"]) == ("invalid_value", pointer)

    @pytest.mark.parametrize(
        "body", [{}, {"hub": "hf-hub:a/b", "upload_id": "up_1"}, {"upload_id": "up_1", "revision": "main"}]
    )
    def test_a_teacher_comes_in_one_way(self, client: httpx.Client, body: dict[str, str]) -> None:
        answer = post(client, **body)

        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (422, "invalid_value")

    def test_a_job_may_bring_it_along_and_waits(
        self, client: httpx.Client, allowed: None, dataset_id: str, prepare: Callable[[], None]
    ) -> None:
        prepare()
        body = {
            "teacher": {"hub": "hf-hub:owner/name"},
            "dataset": {"id": dataset_id},
            "student": {"architecture": "resnet8"},
        }

        job = client.post("/distill", json=body)

        assert job.status_code == 202, job.text
        assert job.json()["status_reason"] == "waiting for the teacher to be checked"
        assert job.json()["teacher"]["architecture"] == "auto"
