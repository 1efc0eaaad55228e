"""What errors of the database tell, and what they must not."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import IntegrityError

from models import Upload, utcnow
from service import database as database_module


@pytest.mark.usefixtures("database")
def test_errors_hold_no_values() -> None:
    """They go to the log, and values may be signatures."""

    def add() -> None:
        with database_module.begin() as session:
            session.add(Upload(id="up_1", filename="secret", purpose="teacher", size=1, expires_at=utcnow()))

    add()
    with pytest.raises(IntegrityError) as failed:
        add()
    assert "secret" not in str(failed.value)
