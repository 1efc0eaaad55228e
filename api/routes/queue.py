"""The queue: workers, and who waits."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from fastapi.responses import Response

from api.deps import json_answer
from api.queue_schemas import QueueStandingSchema
from service import queue_views, workers

router = APIRouter(prefix="/queue", tags=["queue"])


@router.get("")
def get_queue() -> QueueStandingSchema:
    """The workers that are alive, what they have and do, and the jobs that wait."""
    return QueueStandingSchema.of(queue_views.standing())


@router.post("/workers/{name}/drain", status_code=202, response_model=QueueStandingSchema)
def drain_worker(name: Annotated[str, Path(max_length=200)]) -> Response:
    """Let a worker end the job that it has and then stop, as before maintenance of its machine."""
    workers.drain(name)
    return json_answer(get_queue(), status=202)
