"""One request for many jobs that are to be compared."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Json, Table, Utc, utcnow


class Sweep(Table):
    """What the jobs of a sweep have in common and what varies; how it stands follows from the jobs."""

    __tablename__ = "sweeps"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), default="")
    base: Mapped[dict[str, Any]] = mapped_column(Json)
    """The request of a job, as it was sent, without what the axes bring."""
    axes: Mapped[list[dict[str, Any]]] = mapped_column(Json)
    """``path``, ``values`` and ``labels``, as many as values, of each."""
    labels: Mapped[dict[str, str]] = mapped_column("metadata", Json, default=dict)
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    idempotency_digest: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(Utc, default=utcnow)
