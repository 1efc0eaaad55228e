"""Databases for every test that wants one. Imports at the top: pytest alone, for machines that have only torch."""

from __future__ import annotations

import contextlib
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = [
    "tests.fixtures.tiny",
    "tests.fixtures.tiny_faces",
    "tests.fixtures.https_files",
    "tests.fixtures.ready_inputs",
]

POSTGRESQL = "postgresql+psycopg://postgres@127.0.0.1:5432/postgres"


@pytest.fixture(scope="session", autouse=True)
def _nothing_at_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Whatever forgets to choose a data folder gets one that is thrown away."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LIMBECK_") and "TEST" not in name]:
            patch.delenv(name)
        patch.setenv("LIMBECK_DATA_DIR", str(tmp_path_factory.mktemp("nowhere")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """A shell starts what it runs in the background with Ctrl-C ignored, and so would all processes of the tests be."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_DATA_DIR", str(folder))
        with _fresh_caches():
            from service import database

            database.migrate()
    return folder / "limbeck.db"


@pytest.fixture(scope="session")
def postgresql_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of this session's own on the server at LIMBECK_TEST_POSTGRESQL_URL, migrated; dropped at the end."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    admin_url = sqlalchemy.make_url(os.environ.get("LIMBECK_TEST_POSTGRESQL_URL", POSTGRESQL))
    name = f"limbeck_test_{uuid.uuid4().hex[:12]}"
    admin = sqlalchemy.create_engine(
        admin_url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3}, poolclass=sqlalchemy.NullPool
    )
    try:
        with admin.connect() as connection:
            connection.execute(sqlalchemy.text(f'CREATE DATABASE "{name}"'))
    except sqlalchemy.exc.OperationalError:
        pytest.skip(f"no PostgreSQL answers at {admin_url.host}:{admin_url.port}")
    url = admin_url.set(database=name).render_as_string(hide_password=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMBECK_DATA_DIR", str(tmp_path_factory.mktemp("postgresql")))
        patch.setenv("LIMBECK_DATABASE_URL", url)
        with _fresh_caches():
            from service import database

            database.migrate()
    yield url
    with admin.connect() as connection:
        connection.execute(sqlalchemy.text(f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The service on an empty, migrated database and an empty data folder; the name of the engine."""
    import shutil

    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("LIMBECK_DATA_DIR", str(folder))
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), folder / "limbeck.db")
    else:
        monkeypatch.setenv("LIMBECK_DATABASE_URL", request.getfixturevalue("postgresql_url"))
    with _fresh_caches():
        if request.param == "postgresql":
            _empty_all_tables()
        yield request.param


@contextlib.contextmanager
def _fresh_caches() -> Iterator[None]:
    """Settings, engine and store as the environment says now, and none of them afterwards."""
    from service import artifacts, settings
    from service import database as database_module

    caches = (settings.settings, database_module.engine, artifacts.store)
    for cache in caches:
        cache.cache_clear()
    try:
        yield
    finally:
        database_module.engine().dispose()
        for cache in caches:
            cache.cache_clear()


def _empty_all_tables() -> None:
    from models import Table
    from service import database

    with database.begin() as session:
        for table in reversed(Table.metadata.sorted_tables):
            session.execute(table.delete())
