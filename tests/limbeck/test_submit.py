from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from limbeck import Client
from limbeck.errors import CommandError
from limbeck.flags import Flags, apply, numbers
from limbeck.submit import LocalFile, Request, described, purpose_of, read_request, send

DEMO = {
    "name": "demo",
    "teacher_upload": {"file": "teacher.safetensors", "architecture": "resnet20", "options": {"stem_stride": 2}},
    "dataset_upload": {"file": "images.npz", "format": "npz"},
    "student": {"architecture": "resnet8", "options": {"stem_stride": 2}},
    "training": {"epochs": 40},
}


@pytest.fixture
def client(scripted: Any) -> Iterator[Client]:
    with Client(scripted.url) as made:
        yield made


def test_files_lie_beside_the_request(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps(DEMO))
    request = read_request(tmp_path / "demo.json")
    assert request.body == {k: DEMO[k] for k in ("name", "student", "training")}
    assert request.teacher == LocalFile(
        path=tmp_path / "teacher.safetensors", facts={"architecture": "resnet20", "options": {"stem_stride": 2}}
    )
    assert request.dataset == LocalFile(path=tmp_path / "images.npz", facts={"format": "npz"})


@pytest.mark.parametrize(("text", "words"), [(None, "cannot read"), ("{", "is not JSON"), ("[]", "no JSON object")])
def test_a_request_that_cannot_be_read(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "job.json").write_text(text)
    with pytest.raises(CommandError, match=words):
        read_request(tmp_path / "job.json")


def test_flags_overrule_the_file(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps(DEMO))
    base = read_request(tmp_path / "demo.json")
    laid = apply(
        Flags(
            teacher=tmp_path / "other.safetensors",
            teacher_options={"width": 2.0, "stem_stride": None},
            student_options={"width": 0.5, "stem_stride": None},
            head="teacher",
            training={"epochs": 3, "seed": None, "baseline": False},
        ),
        base,
    )
    assert laid.teacher == LocalFile(
        path=tmp_path / "other.safetensors",
        facts={"architecture": "resnet20", "options": {"stem_stride": 2, "width": 2.0}},
    )
    assert laid.dataset == base.dataset
    assert laid.body["student"] == {"architecture": "resnet8", "options": {"stem_stride": 2, "width": 0.5}}
    assert laid.body["training"] == {"epochs": 3, "baseline": False}
    assert laid.body["method"] == {"type": "srrl", "srrl": {"head": "teacher"}}
    assert base.body["training"] == {"epochs": 40}


def test_flags_alone_make_a_request_or_say_what_is_missing(tmp_path: Path) -> None:
    flags = Flags(
        teacher=tmp_path / "t", teacher_architecture="resnet20", data=tmp_path / "d", student="resnet8", method="ce"
    )
    laid = apply(flags, Request(body={}))
    assert laid.body == {"student": {"architecture": "resnet8"}, "method": {"type": "ce"}}
    recipe = Flags(teacher=tmp_path / "t", teacher_architecture="resnet20", data=tmp_path / "d")
    assert apply(recipe, Request(body={"recipe": "srrl/x"})).body == {"recipe": "srrl/x"}
    with pytest.raises(CommandError, match="--teacher, --data, --student"):
        apply(Flags(), Request(body={}))
    with pytest.raises(CommandError, match="give it with --teacher"):
        apply(Flags(teacher_architecture="resnet20"), Request(body={}))


def test_flags_say_what_a_teachers_file_does_not(scripted: Any, client: Client, tmp_path: Path) -> None:
    (tmp_path / "t.safetensors").write_bytes(b"weights")
    (tmp_path / "names.txt").write_text("\ufeffcat\n\n dog \n")
    flags = Flags(
        teacher=tmp_path / "t.safetensors",
        teacher_architecture="resnet20",
        teacher_classes=tmp_path / "names.txt",
        teacher_preprocessing={"mean": numbers("0.5, 1e-1"), "std": None, "channels": "bgr"},
        student="resnet8",
    )
    request = apply(flags, Request(body={"dataset": {"id": "ds_1"}}))
    assert request.teacher is not None
    facts = dict(request.teacher.facts)
    assert facts["classes"] == ["cat", "dog"]
    assert facts["preprocessing"] == {"mean": [0.5, 0.1], "channels": "bgr"}

    facts["preprocessing"] = {"mean": [0.5], "std": [0.1], "channels": "bgr"}
    sha256 = hashlib.sha256(b"weights").hexdigest()
    known = {"id": "tch_1", "status": "ready", "sha256": sha256, "architecture": "resnet20", "classes": None}
    other = known | {"id": "tch_2", "preprocessing": facts["preprocessing"] | {"channels": "rgb"}}
    scripted.on("GET", "/teachers", scripted.reply(200, {"data": [known, other]}))
    scripted.takes("up_9", size=len(b"weights"))
    scripted.on("POST", "/teachers", scripted.reply(202, {"id": "tch_9", "status": "processing"}))
    scripted.on("GET", "/teachers/tch_9", scripted.reply(200, {"id": "tch_9", "status": "ready"}))
    scripted.on("POST", "/distill", scripted.reply(202, {"id": "dj_9"}))
    told = replace(request, teacher=replace(request.teacher, facts=facts))
    send(client, told, out=Console(record=True))

    posted = {a.path: json.loads(a.body) for a in scripted.asked if a.method == "POST" and a.body}
    assert posted["/teachers"] == {"upload_id": "up_9", **facts}


@pytest.mark.parametrize("text", ["", "a,b", "0.5,,0.5", "0.5;0.5"])
def test_a_mean_that_is_no_list_of_numbers(text: str) -> None:
    with pytest.raises(CommandError, match="not a list of numbers"):
        numbers(text)


def test_what_the_service_has_is_not_sent_again(scripted: Any, client: Client, tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text(json.dumps(DEMO))
    (tmp_path / "teacher.safetensors").write_bytes(b"weights")
    (tmp_path / "images.npz").write_bytes(b"images")
    weights, images = (hashlib.sha256(data).hexdigest() for data in (b"weights", b"images"))
    teachers = [
        {"id": "tch_4", "status": "error", "sha256": weights, "architecture": "resnet20"},
        {"id": "tch_3", "status": "ready", "sha256": weights, "architecture": "resnet20", "options": {}},
        {"id": "tch_2", "status": "ready", "sha256": images, "architecture": "resnet20"},
        {
            "id": "tch_1",
            "status": "ready",
            "sha256": weights,
            "architecture": "resnet20",
            "options": {"width": 1.0, "stem_stride": 2},
        },
    ]
    scripted.on("GET", "/teachers", scripted.reply(200, {"data": teachers}))
    scripted.on("GET", "/datasets", scripted.reply(200, {"data": []}))
    scripted.takes("up_9", size=len(b"images"))
    scripted.on("POST", "/datasets", scripted.reply(202, {"id": "ds_9", "status": "processing"}))
    scripted.on("GET", "/datasets/ds_9", scripted.reply(200, {"id": "ds_9", "status": "ready"}))
    scripted.on("POST", "/distill", scripted.reply(202, {"id": "dj_9"}))
    out = Console(record=True, width=200)
    assert send(client, read_request(tmp_path / "demo.json"), out=out)["id"] == "dj_9"

    posted = {a.path: json.loads(a.body) for a in scripted.asked if a.method == "POST" and a.body}
    assert posted["/distill"]["teacher"] == {"id": "tch_1"}
    assert posted["/distill"]["dataset"] == {"id": "ds_9"}
    assert posted["/datasets"] == {"upload_id": "up_9", "format": "npz"}
    assert "/teachers" not in posted
    assert "teacher teacher.safetensors: already there as tch_1, not sent again" in out.export_text()


def test_an_onnx_file_needs_no_name_of_an_architecture(tmp_path: Path) -> None:
    assert described(LocalFile(path=tmp_path / "t.ONNX")).facts == {"architecture": "onnx"}
    assert described(LocalFile(path=tmp_path / "t.safetensors")).facts == {}
    named = LocalFile(path=tmp_path / "t.onnx", facts={"architecture": "resnet8"})
    assert described(named) == named


def test_the_weights_that_a_student_starts_from_are_sent_with_it(scripted: Any, client: Client, tmp_path: Path) -> None:
    rest = {"teacher": {"id": "tch_1"}, "dataset": {"id": "ds_1"}, "student": {"architecture": "resnet8"}}
    (tmp_path / "job.json").write_text(json.dumps(rest | {"student_init_upload": {"file": "pruned.safetensors"}}))
    (tmp_path / "pruned.safetensors").write_bytes(b"weights")
    scripted.takes("up_7", size=len(b"weights"))
    scripted.on("POST", "/distill", scripted.reply(202, {"id": "dj_9"}))
    send(client, read_request(tmp_path / "job.json"), out=Console(quiet=True))

    posted = {a.path: json.loads(a.body) for a in scripted.asked if a.method == "POST" and a.body}
    assert posted["/uploads"]["purpose"] == "student_init"
    assert posted["/distill"] == rest | {"student": {"architecture": "resnet8", "init": {"upload_id": "up_7"}}}


def test_what_a_file_is_sent_as(tmp_path: Path) -> None:
    weights, images = tmp_path / "a.safetensors", tmp_path / "b.zip"
    for path in (weights, images):
        path.write_bytes(b"x")
    assert (purpose_of(weights), purpose_of(images)) == ("teacher", "dataset")
    assert purpose_of(weights, "student_init") == "student_init"
    with pytest.raises(CommandError, match="teacher, dataset, student_init"):
        purpose_of(weights, "student")
