"""What is read of the queue."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from api.schemas import Schema
from models import Worker
from service.queue_views import Standing


class WorkerSchema(Schema):
    """A worker that is alive."""

    name: str
    host: str | None
    version: str | None
    device: str | None
    """cpu, cuda or mps."""
    device_name: str | None
    memory_bytes: int | None
    """Of the device that trainers run on."""
    cores: int | None
    started_at: datetime
    is_draining: bool
    """It takes no more jobs, and stops after the one that it has."""
    job: str | None
    """The job that it has."""

    @classmethod
    def of(cls, row: Worker, *, job: str | None) -> WorkerSchema:
        names = ("host", "version", "device", "device_name", "memory_bytes", "cores")
        facts: dict[str, Any] = {name: row.facts.get(name) for name in names}
        return cls(name=row.name, started_at=row.started_at, is_draining=row.is_draining, job=job, **facts)


class PlaceSchema(Schema):
    """A job's place in the queue."""

    id: str
    name: str
    position: int
    """1 is next."""
    priority: int
    queued_at: datetime


class QueueStandingSchema(Schema):
    """Who works and who waits."""

    object: Literal["queue"] = "queue"
    workers: list[WorkerSchema]
    waiting: int
    """Jobs in the queue, those whose inputs are being checked included."""
    running: int
    paused: int
    next: list[PlaceSchema]
    """The first hundred that wait for a worker."""

    @classmethod
    def of(cls, found: Standing) -> QueueStandingSchema:
        return cls(
            workers=[WorkerSchema.of(worker, job=job) for worker, job in found.workers],
            waiting=found.num_waiting,
            running=found.num_running,
            paused=found.num_paused,
            next=[
                PlaceSchema(id=job.id, name=job.name, position=number, priority=job.priority, queued_at=job.queued_at)
                for number, job in enumerate(found.waiting, start=1)
            ],
        )
