from __future__ import annotations

from typing import Any

import pytest
from alembic import command
from sqlalchemy import inspect, select, text

from models import Dataset, Job, JobEvent, Sweep, Teacher, Upload, db_now, utcnow
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


def test_jobs_and_their_events_outlast_the_way_down_to_before_sweeps_and_up_again() -> None:
    made: dict[str, Any] = {"upload_id": "up", "filename": "a", "size": 1, "sha256": "", "source_key": "a"}
    with database_module.begin() as session:
        session.add(Teacher(id="tch", architecture="resnet8", num_classes=2, in_channels=1, **made))
        session.add(Dataset(id="ds", format="npz", **made))
        session.add(
            Sweep(id="sw", base={"student": {}}, axes=[{"path": "/training/seed", "values": [0], "labels": ["0"]}])
        )
        session.flush()
        session.add(Job(id="dj", spec={}, teacher_id="tch", dataset_id="ds", sweep_id="sw", point=[{"label": "0"}]))
        session.flush()
        session.add(JobEvent(job_id="dj", seq=1, type="status", fence=0, data={"status": "queued"}))

    database_module.migrate("0001")
    with database_module.engine().connect() as connection:
        columns = {column["name"] for column in inspect(connection).get_columns("jobs")}
        assert not {"sweep_id", "point"} & columns
        assert "sweeps" not in inspect(connection).get_table_names()
        assert connection.execute(text("SELECT count(*) FROM events")).scalar() == 1
    database_module.migrate()

    with database_module.read() as session:
        job = session.get_one(Job, "dj")
        assert (job.sweep_id, job.point) == (None, None)
        assert [event.data for event in session.scalars(select(JobEvent))] == [{"status": "queued"}]
        assert session.scalars(select(Sweep)).all() == []


def test_what_waits_already_is_given_its_whole_time_anew() -> None:
    made: dict[str, Any] = {"upload_id": "up", "filename": "a", "size": 1, "sha256": "", "source_key": "a"}
    with database_module.begin() as session:
        session.add(Teacher(id="tch", architecture="resnet8", num_classes=2, in_channels=1, **made))
        session.add(Dataset(id="ds", format="npz", **made))
        session.flush()
        for job_id, status in (("dj_1", "queued"), ("dj_2", "succeeded")):
            session.add(Job(id=job_id, spec={}, status=status, teacher_id="tch", dataset_id="ds", waiting_since=1.0))

    database_module.migrate("0002")
    database_module.migrate()

    with database_module.read() as session:
        now = session.scalar(select(db_now()))
        since = session.get_one(Job, "dj_1").waiting_since
        assert now is not None
        assert since is not None
        assert 0 <= now - since < 600
        assert session.get_one(Job, "dj_2").waiting_since is None


def test_data_sets_and_their_jobs_outlast_the_way_down_to_before_urls_and_up_again() -> None:
    made: dict[str, Any] = {"upload_id": "up", "filename": "a", "size": 1, "sha256": "", "source_key": "a"}
    with database_module.begin() as session:
        session.add(Teacher(id="tch", architecture="resnet8", num_classes=2, in_channels=1, **made))
        session.add(Dataset(id="ds", format="npz", **made))
        session.add(Dataset(id="ds_2", format="npz", url="https://a.example/b", fetch={"received": 1}, **made))
        session.flush()
        session.add(Job(id="dj", spec={}, teacher_id="tch", dataset_id="ds"))

    database_module.migrate("0003")
    with database_module.engine().connect() as connection:
        columns = {column["name"] for column in inspect(connection).get_columns("datasets")}
        assert not {"url", "fetch"} & columns
        assert connection.execute(text("SELECT count(*) FROM jobs")).scalar() == 1
    database_module.migrate()

    with database_module.read() as session:
        assert [(each.id, each.url, each.fetch) for each in session.scalars(select(Dataset).order_by(Dataset.id))] == [
            ("ds", None, None),
            ("ds_2", None, None),
        ]
        assert session.get_one(Job, "dj").dataset_id == "ds"
