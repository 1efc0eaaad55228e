"""Which workers are alive."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, func, select

from models import Worker, db_now, utcnow
from service import database
from service.settings import settings


def seen(name: str, *, facts: dict[str, Any]) -> None:
    """A worker says that it lives."""
    with database.begin() as session:
        row = session.get(Worker, name)
        now = session.scalar(select(db_now())) or 0.0
        if row is None:
            session.add(Worker(name=name, facts=facts, started_at=utcnow(), seen_at=now))
        else:
            row.seen_at, row.facts = now, facts


def left(name: str) -> None:
    """A worker stops in good order."""
    with database.begin() as session:
        session.execute(delete(Worker).where(Worker.name == name))


def count_alive() -> int:
    """How many workers were seen within the lease time."""
    with database.read() as session:
        limit = db_now() - settings().lease_seconds
        return session.scalar(select(func.count()).select_from(Worker).where(Worker.seen_at > limit)) or 0
