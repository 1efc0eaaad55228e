"""Alembic's entry: runs on the connection that service.database gives, or opens one."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from models import Table
from service.database import engine


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


given: Connection | None = context.config.attributes.get("connection")
if given is not None:
    _run(given)
else:
    with engine().execution_options(write=True).begin() as opened:
        _run(opened)
