"""Uploaded weights that students start from: looked at in outline here, loaded by the job's trainer.

A job keeps in its facts which file that is, so that it needs the upload's row no more. Of a pickle its worker makes
safetensors first, for each attempt anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill import architectures
from distill.errors import InputError
from distill.spec import StudentInit, StudentSpec
from models import Teacher, Upload
from service import teacher_files, uploads
from service.artifacts import store
from service.errors import Invalid
from service.teacher_files import Found

_AT = "/student/init"


@dataclass(frozen=True, kw_only=True)
class StartFile:
    """An upload and the weights in it."""

    upload: Upload
    found: Found


def look(init: StudentInit) -> StartFile:
    """Read the outline of an upload.

    Raises:
        Invalid: an incomplete upload, one for something else, another format, a pickle that is not allowed or carries
            more than weights, a header beyond the limits.
    """
    upload = uploads.completed(init.upload_id, purpose="student_init", at=_AT)
    try:
        found = teacher_files.look(store().local_path(uploads.source_key(upload)), unwrap=architectures.unwrap_student)
    except InputError as error:
        error.param = f"{_AT}/upload_id"
        raise Invalid([error]) from error
    return StartFile(upload=upload, found=found)


def facts_of(file: StartFile, student: StudentSpec, *, teacher: Teacher) -> dict[str, Any]:
    """What a job keeps of the file: which it is, and whether its classifier is used.

    Raises:
        InputError: ``state_dict_mismatch``, it is of another network than the student.
    """
    if not teacher.num_classes:
        raise InputError(
            "invalid_value",
            "How many classes the teacher has is not known before it is checked, nor whether these weights fit.",
            hint="Post the teacher first, wait until GET /teachers/{id} says ready, and give its id.",
            param=_AT,
        )
    found = architectures.match_start(
        student.name,
        file.found.weights.shapes,
        options=student.options,
        num_classes=teacher.num_classes,
        in_channels=teacher.in_channels,
        param=_AT,
    )
    return {
        "upload_id": file.upload.id,
        "filename": file.upload.filename,
        "bytes": file.upload.size,
        "sha256": file.upload.sha256,
        "num_classes": found.num_classes,
        "head": "kept" if found.keeps_head else "left out",
        "file": file.found.report(),
    }


def key_of(facts: Mapping[str, Any]) -> str | None:
    """Where in the store the file of a job with these facts lies; None for a job that starts at random."""
    start = facts["student"].get("init")
    return None if start is None else uploads.key_of(start["upload_id"], start["filename"])


def is_pickled(facts: Mapping[str, Any]) -> bool:
    """Whether that file has to be converted before a trainer may read it."""
    return teacher_files.is_pickled(facts["student"].get("init") or {})
