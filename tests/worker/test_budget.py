"""A student that is left to a budget, trained by a real worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from distill.registry import load_student
from models import Job
from service import results
from service.artifacts import store


def test_the_student_keeps_within_its_budget(stack: Any, submit: Callable[..., str], until: Callable[..., Job]) -> None:
    limits = {"parameters": 10_000, "file_bytes": 60_000}
    job_id = submit(student={"budget": limits}, epochs=1)
    stack.start_worker()
    job = until(job_id, lambda j: j.is_terminal)

    assert job.status == "succeeded", job.error
    told = job.facts["student"]["budget"]["proposed"][0]
    assert job.config_resolved is not None
    assert job.config_resolved["student"]["architecture"] == told["name"]
    assert told["name"].startswith("resnet")  # as its teacher
    assert told["options"]["stem_stride"] == 2
    path = store().local_path(results.get(job_id, name="student.safetensors").key)
    parameters = sum(p.numel() for p in load_student(path).parameters())
    assert parameters == told["parameters"] <= limits["parameters"]
    assert path.stat().st_size <= told["file_bytes"] <= limits["file_bytes"]
