"""What happened to a job, append-only."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Json, Table, Utc, utcnow


class JobEvent(Table):
    """``type``: status, metric, log, checkpoint, artifact or end; ``seq`` counts within the job, without gaps."""

    __tablename__ = "events"
    __table_args__ = (Index("ix_events_job_type", "job_id", "type"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str] = mapped_column(String(16))
    fence: Mapped[int] = mapped_column()
    at: Mapped[datetime] = mapped_column(Utc, default=utcnow)
    data: Mapped[dict[str, Any]] = mapped_column(Json)
