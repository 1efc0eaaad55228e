from __future__ import annotations

import pytest
from alembic import command
from sqlalchemy import select

from models import Upload, utcnow
from service import database as database_module

pytestmark = pytest.mark.usefixtures("database")


def test_the_tables_are_what_the_migrations_make() -> None:
    config = database_module.alembic_config()
    with database_module.engine().execution_options(write=True).connect() as connection:
        config.attributes["connection"] = connection
        command.check(config)


def test_down_and_up_again_with_data() -> None:
    row = Upload(id="up_1", filename="a", purpose="teacher", size=1, expires_at=utcnow())
    with database_module.begin() as session:
        session.add(row)

    database_module.migrate("base")
    database_module.migrate()

    with database_module.read() as session:
        assert session.scalars(select(Upload)).all() == []


def test_times_keep_their_zone() -> None:
    now = utcnow()
    with database_module.begin() as session:
        session.add(Upload(id="up_2", filename="a", purpose="teacher", size=1, expires_at=now))
    with database_module.read() as session:
        assert session.get_one(Upload, "up_2").expires_at == now
