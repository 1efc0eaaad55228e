"""A request whose inputs are ready, for tests that need no HTTP."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distill.data.packed import pack
from distill.data.readers import read
from distill.spec import TeacherTraits
from models import Teacher
from service import inputs, uploads
from tests.fixtures.tiny import STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile


@pytest.fixture
def body(database: str, tiny_npz: Path, tiny_teacher: TeacherFile, tmp_path: Path) -> dict[str, Any]:
    """A request on a teacher and a data set that are ready."""

    def upload(path: Path, purpose: Any) -> str:
        made = uploads.create(path.name, size=path.stat().st_size, purpose=purpose, sha256=None)
        shutil.copy(path, uploads.path_of(made))
        return uploads.complete(made.id).id

    traits = TeacherTraits(options=tiny_teacher.options)
    teacher = inputs.create_teacher(upload(tiny_teacher.path, "teacher"), architecture="resnet8", traits=traits)
    data = inputs.create_dataset(upload(tiny_npz, "dataset"), format="auto")
    while (preparation := inputs.claim_next("tester")) is not None:
        if preparation.kind is Teacher:
            inputs.ready(preparation, report={}, packed=None)
        else:
            packed = tmp_path / "packed.safetensors"
            inputs.ready(preparation, report=pack(read(tiny_npz), packed), packed=packed)
    return {"teacher": {"id": teacher.id}, "dataset": {"id": data.id}, "student": STUDENT, "training": {"epochs": 2}}
