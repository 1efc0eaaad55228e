"""The one engine of a process, its transactions, and its migrations."""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.orm import Session

from service.settings import settings

# SQLite's own waiting is unfair: with one lock per process the slowest POST of sixteen falls from
# 724 to 57 ms (docs/decisions/0004-embedded-by-default.md).
_write_lock = threading.Lock()
_MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
_ADVISORY_LOCK = 0x11B_EC4


@cache
def engine() -> Engine:
    """The engine of the configured database, made at the first use and never before a fork."""
    url = make_url(settings().resolved_database_url)
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(str(url))
    options = "-c statement_timeout=30000 -c lock_timeout=10000 -c idle_in_transaction_session_timeout=60000"
    return create_engine(url, pool_pre_ping=True, pool_size=10, connect_args={"options": options}, hide_parameters=True)


def _sqlite_engine(url: str) -> Engine:
    database = make_url(url).database
    if database:
        Path(database).parent.mkdir(parents=True, exist_ok=True)
    made = create_engine(url, connect_args={"check_same_thread": False, "timeout": 15}, hide_parameters=True)

    @event.listens_for(made, "connect")
    def _on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN would be a deferred one
        for pragma in ("journal_mode=WAL", "busy_timeout=15000", "foreign_keys=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(made, "begin")
    def _on_begin(connection: Connection) -> None:
        # A deferred transaction that reads and then writes fails at once when another one wrote meanwhile.
        writes = connection.get_execution_options().get("write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return made


@contextlib.contextmanager
def begin() -> Iterator[Session]:
    """A write transaction: committed at the end of the block, rolled back by an exception."""
    bound = engine().execution_options(write=True)
    lock = _write_lock if bound.dialect.name == "sqlite" else contextlib.nullcontext()
    with lock, Session(bound, expire_on_commit=False) as session, session.begin():
        yield session


@contextlib.contextmanager
def read() -> Iterator[Session]:
    """A read transaction: one consistent view, no lock."""
    with Session(engine(), expire_on_commit=False) as session:
        yield session


def alembic_config() -> Config:
    """Alembic's configuration for the packaged migrations."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    return config


def migrate(revision: str = "head") -> None:
    """Bring the database to a revision, up or down; one process at a time, the others wait."""
    config = alembic_config()
    with _migration_lock(), engine().execution_options(write=True).connect() as connection:
        config.attributes["connection"] = connection
        if revision == "base" or revision.startswith("-") or revision in _before(connection, config):
            command.downgrade(config, revision)
        else:
            command.upgrade(config, revision)
        connection.commit()


def _before(connection: Connection, config: Config) -> list[str]:
    """The revisions that the database has left behind."""
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None:
        return []
    script = ScriptDirectory.from_config(config)
    return [step.revision for step in script.iterate_revisions(current, "base")][1:]


@contextlib.contextmanager
def _migration_lock() -> Iterator[None]:
    if engine().dialect.name == "postgresql":
        with engine().connect() as connection:
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _ADVISORY_LOCK})
            connection.commit()
            try:
                yield
            finally:
                connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _ADVISORY_LOCK})
        return
    folder = settings().data_dir
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "migrate.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ping() -> None:
    """Raise when the database does not answer or is not migrated."""
    with engine().connect() as connection:
        connection.execute(text("SELECT 1 FROM alembic_version")).one()
