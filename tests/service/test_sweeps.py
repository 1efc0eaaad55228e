"""What a sweep promises when things happen beside it, on both engines."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, delete, event, func, select, update

from api.sweep_body import read_children
from models import Job, JobEvent, JobStatus, OutboxMessage, Sweep, Teacher
from service import database as database_module
from service import job_views, jobs, sweep_views, sweeps
from service.errors import Invalid, NotFound
from service.sweep_spec import SweepSpec
from service.sweep_table import spread

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def submit(body: dict[str, Any]) -> Callable[..., Sweep]:
    def make(num_seeds: int = 3, **kw: Any) -> Sweep:
        axes = [{"path": "/training/seed", "values": list(range(num_seeds))}]
        sweep = SweepSpec.model_validate({"name": "s", "base": body, "axes": axes})
        children, wrong = read_children(sweep)
        return sweeps.submit(sweep, children, wrong=wrong, **kw)

    return make


def count(table: type[Any]) -> int:
    with database_module.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_everything_is_stored_in_one_transaction(submit: Callable[..., Sweep]) -> None:
    engine = database_module.engine()
    commits: list[int] = []

    def on_commit(_connection: object) -> None:
        commits.append(1)

    event.listen(engine, "commit", on_commit)
    try:
        sweep = submit()
    finally:
        event.remove(engine, "commit", on_commit)
    assert len(commits) == 1
    assert [count(table) for table in (Sweep, Job, JobEvent, OutboxMessage)] == [1, 3, 3, 3]
    assert [job.sweep_id for job in job_views.listing(limit=9)[0]] == [sweep.id] * 3


def test_a_teacher_that_goes_away_between_plan_and_insert_leaves_nothing(
    submit: Callable[..., Sweep], body: dict[str, Any]
) -> None:
    elsewhere = create_engine(database_module.engine().url, poolclass=NullPool)
    deleted = threading.Event()

    def delete_teacher() -> None:
        with elsewhere.begin() as other:
            other.execute(delete(Teacher))
            deleted.set()
            time.sleep(1.0)  # planning still sees it, storing waits for the end of this

    thread = threading.Thread(target=delete_teacher)
    thread.start()
    deleted.wait()
    with pytest.raises(Invalid) as caught:
        submit()
    thread.join()
    assert [(error.code, error.param) for error in caught.value.errors] == [("not_found", "/base/teacher/id")]
    assert [count(table) for table in (Sweep, Job, JobEvent, OutboxMessage)] == [0, 0, 0, 0]


def test_jobs_that_waited_for_their_inputs_are_let_go_in_their_order(submit: Callable[..., Sweep]) -> None:
    with database_module.begin() as session:
        session.execute(update(Teacher).values(status="processing"))
    sweep = submit(120)
    ids = [child.id for child in sweep_views.children(sweep.id)]
    assert (jobs.settle_waiting(), count(OutboxMessage)) == (0, 0)
    with database_module.begin() as session:
        session.execute(update(Teacher).values(status="ready"))

    assert [jobs.settle_waiting() for _ in range(3)] == [100, 20, 0]

    with database_module.read() as session:
        assert list(session.scalars(select(OutboxMessage.job_id).order_by(OutboxMessage.id))) == ids
    assert [job_views.position(job_views.get(job_id)) for job_id in ids] == list(range(1, 121))


def test_jobs_of_two_sweeps_stand_one_behind_the_other(submit: Callable[..., Sweep]) -> None:
    first, second = submit(), submit()
    ids = [child.id for sweep in (first, second) for child in sweep_views.children(sweep.id)]
    assert [job_views.position(job_views.get(job_id)) for job_id in ids] == [1, 2, 3, 4, 5, 6]


def test_cancelling_while_a_worker_takes_the_next_leaves_none_behind(submit: Callable[..., Sweep]) -> None:
    sweep = submit(30)
    ids = [child.id for child in sweep_views.children(sweep.id)]
    start = threading.Barrier(2)

    def take_all() -> None:
        start.wait()
        for job_id in ids:
            jobs.claim(job_id, owner="one")

    taker = threading.Thread(target=take_all)
    taker.start()
    start.wait()
    sweeps.cancel(sweep.id)
    taker.join()

    left = {child.status for child in sweep_views.children(sweep.id)}
    assert left <= {JobStatus.CANCELLED, JobStatus.CANCELLING}


def test_no_such_sweep() -> None:
    for ask in (sweep_views.get, sweeps.cancel):
        with pytest.raises(NotFound, match="sw_none"):
            ask("sw_none")


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.7], [1e9, 1e9 + 1, 1e9 + 2], [0.5] * 4])
def test_spread(values: list[float]) -> None:
    found = spread([None, *values, None])
    assert found.n == len(values)
    assert found.mean == pytest.approx(statistics.mean(values), rel=1e-15)
    assert found.sd == pytest.approx(statistics.stdev(values), rel=1e-12)


def test_spread_of_few() -> None:
    assert (spread([]).mean, spread([]).sd) == (None, None)
    assert (spread([2.0]).n, spread([2.0]).mean, spread([2.0]).sd) == (1, 2.0, None)
