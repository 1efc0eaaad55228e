"""The flags of `limbeck submit` laid over a request."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from limbeck.errors import CommandError
from limbeck.submit import LocalFile, Request


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What the command line says; None where it says nothing."""

    teacher: Path | None = None
    teacher_architecture: str | None = None
    teacher_options: Mapping[str, Any] = field(default_factory=dict)
    teacher_classes: Path | None = None
    """A text file with a name a line, in the order of the teacher's outputs."""
    teacher_preprocessing: Mapping[str, Any] = field(default_factory=dict)
    data: Path | None = None
    data_format: str | None = None
    student: str | None = None
    student_options: Mapping[str, Any] = field(default_factory=dict)
    method: str | None = None
    head: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None


def apply(flags: Flags, request: Request) -> Request:
    """The request with the flags that were given in place of its own values.

    Raises:
        CommandError: neither says what to distil, or into what.
    """
    body = copy.deepcopy(request.body)
    if flags.name is not None:
        body["name"] = flags.name
    if flags.student is not None:
        body["student"] = {"architecture": flags.student}
    if options := _said(flags.student_options):
        student = body.setdefault("student", {})
        student["options"] = student.get("options", {}) | options
    _lay_method(body, flags)
    if training := _said(flags.training):
        body["training"] = body.get("training", {}) | training
    laid = replace(request, body=body, teacher=_teacher(flags, request), dataset=_dataset(flags, request))
    _require(laid)
    return laid


def _lay_method(body: dict[str, Any], flags: Flags) -> None:
    method = body.get("method", {"type": "srrl"})
    if flags.method is not None and flags.method != method.get("type"):
        method = {"type": flags.method}  # the settings of another method mean nothing to this one
    if flags.head is not None:
        method = method | {"srrl": method.get("srrl", {}) | {"head": flags.head}}
    if flags.method is not None or flags.head is not None:
        body["method"] = method


def _teacher(flags: Flags, request: Request) -> LocalFile | None:
    facts: dict[str, Any] = dict(request.teacher.facts) if request.teacher else {}
    if flags.teacher_architecture:
        facts["architecture"] = flags.teacher_architecture
    if options := _said(flags.teacher_options):
        facts["options"] = facts.get("options", {}) | options
    if flags.teacher_classes is not None:
        facts["classes"] = _names(flags.teacher_classes)
    if preprocessing := _said(flags.teacher_preprocessing):
        facts["preprocessing"] = facts.get("preprocessing", {}) | preprocessing
    path = flags.teacher or (request.teacher.path if request.teacher else None)
    if path is None and facts:
        raise CommandError("--teacher-... describes a file: give it with --teacher")
    return LocalFile(path=path, facts=facts) if path else None


def _names(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read the class names in {path}: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def numbers(text: str | None) -> list[float] | None:
    """Numbers with commas between them, as --teacher-mean takes them.

    Raises:
        CommandError: it is something else.
    """
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise CommandError(f"{text!r} is not a list of numbers such as 0.485,0.456,0.406") from error


def _dataset(flags: Flags, request: Request) -> LocalFile | None:
    facts: dict[str, Any] = dict(request.dataset.facts) if request.dataset else {}
    if flags.data_format:
        facts["format"] = flags.data_format
    path = flags.data or (request.dataset.path if request.dataset else None)
    if path is None and facts:
        raise CommandError("--data-format describes a file: give it with --data")
    return LocalFile(path=path, facts=facts) if path else None


def _require(request: Request) -> None:
    missing = [
        flag
        for flag, there in (
            ("--teacher", request.teacher or "teacher" in request.body),
            ("--data", request.dataset or "dataset" in request.body),
            ("--student", "student" in request.body or "recipe" in request.body),
        )
        if not there
    ]
    if missing:
        raise CommandError(f"nothing says {', '.join(missing)}; give a JSON file or these flags")


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
