"""Students that start from an upload, trained by a real worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from distill.registry import build_network
from distill.spec import NetworkOptions
from models import Job, Upload
from service import database, job_views, results
from service.artifacts import store
from tests.fixtures.tiny import CLASSES, STUDENT


def trained(job: Job) -> bool:
    """It has a finished epoch behind it."""
    return any(e.type == "checkpoint" for e in job_views.events(job.id))


def test_a_killed_trainer_changes_nothing_in_a_student_that_starts_from_an_expired_upload(
    stack: Any,
    submit: Callable[..., str],
    upload: Callable[[Path, Any], str],
    until: Callable[..., Job],
    tmp_path: Path,
) -> None:
    torch.manual_seed(77)
    options = NetworkOptions.model_validate(STUDENT["options"])
    network = build_network("resnet8", options=options, num_classes=CLASSES + 1, in_channels=1)
    save_file(network.state_dict(), tmp_path / "start.safetensors")
    upload_id = upload(tmp_path / "start.safetensors", "student_init")
    asked = {"student": STUDENT | {"init": {"upload_id": upload_id}}, "epochs": 12, "batch_size": 4}
    undisturbed, disturbed = submit(**asked), submit(**asked)
    with database.begin() as session:
        session.delete(session.get_one(Upload, upload_id))
    stack.start_worker()
    until(undisturbed, lambda j: j.is_terminal)
    until(disturbed, trained)
    (trainer,) = stack.trainers()
    trainer.kill()
    job = until(disturbed, lambda j: j.is_terminal)

    assert job.status == "succeeded", job.error
    said = [e.data["message"] for e in job_views.events(disturbed, types=["log"])]
    assert any("without their classifier, which is for 5 classes and not 4" in line for line in said)
    assert job_views.attempts(disturbed)[-1].resumed_from_step > 0
    files = [results.get(job_id, name="student.safetensors").key for job_id in (undisturbed, disturbed)]
    one, other = (load_file(store().local_path(key)) for key in files)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
