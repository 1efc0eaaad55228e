"""Which workers are alive, and what they have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select, update

from models import Worker, db_now, utcnow
from service import database
from service.errors import NotFound
from service.settings import settings


def seen(name: str, *, facts: dict[str, Any]) -> bool:
    """A worker says that it lives; whether it is to take no more jobs."""
    with database.begin() as session:
        row = session.get(Worker, name)
        now = session.scalar(select(db_now())) or 0.0
        if row is None:
            session.add(Worker(name=name, facts=facts, started_at=utcnow(), seen_at=now))
            return False
        row.seen_at, row.facts = now, facts
        return row.is_draining


def left(name: str) -> None:
    """A worker stops in good order."""
    with database.begin() as session:
        session.execute(delete(Worker).where(Worker.name == name))


def drain(name: str) -> None:
    """Let a worker end the job that it has, and then stop.

    Raises:
        NotFound: no such worker is alive.
    """
    with database.begin() as session:
        query = update(Worker).where(Worker.name == name, _is_alive()).values(is_draining=True)
        if session.execute(query.returning(Worker.name)).first() is None:
            raise NotFound(f"No worker {name!r} is alive.", hint="GET /queue lists them.")


def alive() -> Sequence[Worker]:
    """The workers that were seen within the lease time, by name."""
    with database.read() as session:
        return session.scalars(select(Worker).where(_is_alive()).order_by(Worker.name)).all()


def count_alive() -> int:
    """How many these are."""
    with database.read() as session:
        return session.scalar(select(func.count()).select_from(Worker).where(_is_alive())) or 0


def _is_alive() -> Any:
    return Worker.seen_at > db_now() - settings().lease_seconds
