"""Messages that must be sent: written in the transaction that they tell of."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import ForeignKey, Integer
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table, Utc, utcnow


class OutboxMessage(Table):
    """Ring for a job; the row is deleted when the broker has taken the message."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(Utc, default=utcnow)
