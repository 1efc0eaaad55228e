"""From files and flags to a submitted job: uploads what the service does not have yet, then posts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError
from rich.console import Console

from distill.architectures import AUTO
from distill.spec import TeacherTraits
from limbeck.client import Client, Kind
from limbeck.console import bytes_text, say, transfer
from limbeck.errors import CommandError
from limbeck.results import Input, Job, Upload
from limbeck.upload import Purpose, sha256_of

_PURPOSE: dict[Kind, Purpose] = {"teachers": "teacher", "datasets": "dataset"}
_WEIGHTS = {".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".onnx"}


@dataclass(frozen=True, kw_only=True)
class LocalFile:
    """A file to be sent, and what the service has to know about it.

    Attributes:
        facts: what POST /teachers or POST /datasets takes beside ``upload_id``.
    """

    path: Path
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Request:
    """The body of POST /distill, and the local files that its teacher, data set and student's start still are."""

    body: dict[str, Any]
    teacher: LocalFile | None = None
    dataset: LocalFile | None = None
    student_init: LocalFile | None = None


def read_request(path: Path) -> Request:
    """A request from a JSON file: the body of POST /distill, or one with local files.

    ``"teacher_upload": {"file", "architecture", ...}`` and ``"dataset_upload": {"file", "format"}`` stand for
    ``teacher`` and ``dataset`` with what they take beside an upload, ``"student_init_upload": {"file"}`` for the
    student's ``init``; the files are looked for beside the JSON file.

    Raises:
        CommandError: the file is missing or not a JSON object.
    """
    return request_of(read_object(path), folder=path.parent)


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        CommandError: the file is missing or not a JSON object.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"{path} is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise CommandError(f"{path} holds no JSON object")
    return body


def request_of(body: Mapping[str, Any], *, folder: Path) -> Request:
    """A request whose local files, if it has any, are looked for in a folder.

    Raises:
        CommandError: an upload names no file.
    """
    rest = dict(body)
    files = {
        name: _local_file(rest.pop(f"{name}_upload", None), folder) for name in ("teacher", "dataset", "student_init")
    }
    return Request(body=rest, **files)


def described(file: LocalFile) -> LocalFile:
    """The file, and what its name tells of it: an ONNX file says itself what it is."""
    if file.path.suffix.lower() != ".onnx" or file.facts.get("architecture"):
        return file
    return replace(file, facts={**file.facts, "architecture": "onnx"})


def send(client: Client, request: Request, *, out: Console, dry_run: bool = False) -> Job:
    """Upload what is new, wait until it is checked, and submit.

    Raises:
        ApiError, InputRejected, Unreachable: as the client's methods.
        CommandError: a file is missing.
    """
    return client.distill(with_inputs(client, request, out=out), dry_run=dry_run)


def with_inputs(client: Client, request: Request, *, out: Console) -> dict[str, Any]:
    """The body with ids in the place of local files: what is new was uploaded, and all is checked and ready.

    Raises:
        ApiError, InputRejected, Unreachable, CommandError: as :func:`send`.
    """
    body = dict(request.body)
    if request.teacher:
        body["teacher"] = {"id": _provide(client, "teachers", request.teacher, out)}
    if request.dataset:
        body["dataset"] = {"id": _provide(client, "datasets", request.dataset, out)}
    if request.student_init:
        upload = _sent(client, request.student_init, "student_init", out)
        body["student"] = {**body.get("student", {}), "init": {"upload_id": upload["id"]}}
    return body


def purpose_of(path: Path, asked: str | None = None) -> Purpose:
    """What a file is sent as: what was asked for, else what its name says.

    Raises:
        CommandError: there is no such file, or no such purpose.
    """
    if not path.is_file():
        raise CommandError(f"there is no file {path}")
    if asked is None:
        return "teacher" if path.suffix.lower() in _WEIGHTS else "dataset"
    if asked not in get_args(Purpose):
        raise CommandError(f"a file is sent as one of {', '.join(get_args(Purpose))}, not as {asked}")
    return cast(Purpose, asked)


def _provide(client: Client, kind: Kind, file: LocalFile, out: Console) -> str:
    """The id of a teacher or a data set with the file's bytes: one that is there, or a new one."""
    _require(file)
    file = described(file) if kind == "teachers" else file
    label = f"{_PURPOSE[kind]} {file.path.name}"
    if found := _existing(client, kind, file):
        say(out, f"{label}: already there as {found['id']}, not sent again")
        return found["id"]
    made = _create(client, kind, _sent(client, file, _PURPOSE[kind], out)["id"], file)
    say(out, f"{label}: {made['id']} is being checked ...")
    return client.wait_ready(kind, made["id"])["id"]


def _sent(client: Client, file: LocalFile, purpose: Purpose, out: Console) -> Upload:
    _require(file)
    label = f"{purpose} {file.path.name}"
    with transfer(out, f"sending {label}") as on_progress:
        upload = client.upload(file.path, purpose=purpose, on_progress=on_progress)
    say(out, f"{label}: sent ({bytes_text(file.path.stat().st_size)})")
    return upload


def _require(file: LocalFile) -> None:
    if not file.path.is_file():
        raise CommandError(f"there is no file {file.path}")


def _create(client: Client, kind: Kind, upload_id: str, file: LocalFile) -> Input:
    if kind == "teachers":
        return client.create_teacher(upload_id, **file.facts)
    return client.create_dataset(upload_id, file.facts.get("format") or "auto")


def _existing(client: Client, kind: Kind, file: LocalFile) -> Input | None:
    sha256 = sha256_of(file.path)
    for found in client.inputs(kind):
        if found.get("sha256") == sha256 and found["status"] == "ready" and _same_facts(kind, found, file):
            return found
    return None


def _same_facts(kind: Kind, found: Input, file: LocalFile) -> bool:
    if kind == "datasets":
        wanted = file.facts.get("format") or "auto"
        return wanted in ("auto", found.get("format"))
    names = ("options", "classes", "preprocessing")
    try:
        mine = TeacherTraits(**{name: file.facts[name] for name in names if name in file.facts})
        theirs = TeacherTraits(**{name: found[name] for name in names if name in found})  # type: ignore[literal-required]
    except ValidationError:
        return False  # the service will say what is wrong with them
    if mine.classes is None:  # then the service may have found them in the file
        theirs = theirs.model_copy(update={"classes": None})
    asked = file.facts.get("architecture", AUTO)
    if asked == AUTO:  # then the file says itself what it is
        return mine == theirs.model_copy(update={"options": mine.options})
    return mine == theirs and found.get("architecture") == asked


def _local_file(entry: object, folder: Path) -> LocalFile | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or "file" not in entry:
        raise CommandError('an upload in a request file looks like {"file": "teacher.safetensors", ...}')
    facts = cast(dict[str, Any], entry)
    return LocalFile(path=folder / str(facts["file"]), facts={k: v for k, v in facts.items() if k != "file"})
