"""Workers that are alive, or were."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Float, String, false
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Json, Table, Utc, utcnow


class Worker(Table):
    """A worker process; alive while it was seen within the lease time."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    facts: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    started_at: Mapped[datetime] = mapped_column(Utc, default=utcnow)
    seen_at: Mapped[float] = mapped_column(Float(53))
    is_draining: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It is to take no more jobs, and to stop after the one that it has."""
