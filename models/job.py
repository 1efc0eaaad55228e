"""One submitted run, and its tries."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, Index, String, Text, false, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Json, Table, Utc, db_now, utcnow


class JobStatus(StrEnum):
    """queued -> running -> succeeded | failed; cancelling -> cancelled; pausing -> paused -> queued. More may come."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Priority(IntEnum):
    """Which of two waiting jobs comes first."""

    LOW = -1
    NORMAL = 0
    HIGH = 1


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
HELD = (JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.CANCELLING)
"""A worker holds the job's lease."""
_UNFINISHED = text("status IN ('queued', 'running', 'pausing', 'paused', 'cancelling')")


class Job(Table):
    """A job's whole state; every change of it by a worker is guarded by ``fence``."""

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_unfinished", "status", sqlite_where=_UNFINISHED, postgresql_where=_UNFINISHED),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), default="")
    status: Mapped[str] = mapped_column(String(16), default=JobStatus.QUEUED)
    phase: Mapped[str | None] = mapped_column(String(16))
    status_reason: Mapped[str | None] = mapped_column(Text)
    spec: Mapped[dict[str, Any]] = mapped_column(Json)
    config_resolved: Mapped[dict[str, Any] | None] = mapped_column(Json)
    facts: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    """What was known of teacher, student and data when the job was planned."""
    labels: Mapped[dict[str, str]] = mapped_column("metadata", Json, default=dict)
    teacher_id: Mapped[str] = mapped_column(ForeignKey("teachers.id"))
    dataset_id: Mapped[str] = mapped_column(ForeignKey("datasets.id"))
    sweep_id: Mapped[str | None] = mapped_column(ForeignKey("sweeps.id"), index=True)
    made_from: Mapped[str | None] = mapped_column(String(40))
    """The job that this one retries or is a clone of; that one may be deleted."""
    point: Mapped[list[dict[str, Any]] | None] = mapped_column(Json)
    """Where in its sweep it stands: ``path``, ``label`` and ``value`` of each axis, in the order of the axes."""

    attempt: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)
    """Grows with every claim; a write that carries an older one is refused."""
    owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float | None] = mapped_column(Float(53))
    dispatched_at: Mapped[float | None] = mapped_column(Float(53))
    """When a message about the job was last put into the outbox; None while its inputs are not ready."""
    waiting_since: Mapped[float | None] = mapped_column(Float(53), default=db_now())
    """When it last came into the queue, by the database's clock."""
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    """Higher comes first in the queue."""
    needs_gpu: Mapped[bool] = mapped_column(default=False, server_default=false())
    needs_bytes: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """Of memory on the device, at least, as far as the plan tells."""
    crash_count: Mapped[int] = mapped_column(default=0)
    crash_step: Mapped[int] = mapped_column(default=-1)
    runtime_seconds: Mapped[float] = mapped_column(Float(53), default=0.0)
    """Spent in attempts that have ended."""

    step: Mapped[int] = mapped_column(default=0)
    progress: Mapped[dict[str, Any] | None] = mapped_column(Json)
    metrics: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    report: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)

    last_seq: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column(default=1)
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    idempotency_digest: Mapped[str | None] = mapped_column(String(64))

    created_at: Mapped[datetime] = mapped_column(Utc, default=utcnow)
    queued_at: Mapped[datetime] = mapped_column(Utc, default=utcnow)
    started_at: Mapped[datetime | None] = mapped_column(Utc)
    finished_at: Mapped[datetime | None] = mapped_column(Utc)

    @property
    def is_terminal(self) -> bool:
        return self.status in TERMINAL


class Attempt(Table):
    """One try of a worker at a job."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    n: Mapped[int] = mapped_column(primary_key=True)
    worker: Mapped[str] = mapped_column(String(200))
    started_at: Mapped[datetime] = mapped_column(Utc, default=utcnow)
    heartbeat_at: Mapped[datetime] = mapped_column(Utc, default=utcnow)
    ended_at: Mapped[datetime | None] = mapped_column(Utc)
    outcome: Mapped[str | None] = mapped_column(String(32))
    resumed_from_step: Mapped[int] = mapped_column(default=0)
