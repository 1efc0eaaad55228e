"""The life of a job in the database, on both engines."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from distill import events
from distill.spec import DistillSpec
from models import Job, OutboxMessage, Teacher, db_now
from service import database as database_module
from service import inputs, job_views, jobs, results, wishes, workers
from service.errors import Conflict, Fenced, Invalid, NotFound
from service.jobs import Claim

pytestmark = pytest.mark.usefixtures("database")
ERROR = {"code": "internal_error", "message": "it died", "hint": ""}


@pytest.fixture
def submit(body: dict[str, Any]) -> Callable[..., str]:
    def make(**kw: Any) -> str:
        return jobs.submit(DistillSpec.model_validate(body), **kw).id

    return make


def claim(job_id: str, owner: str = "one") -> Claim:
    found = jobs.claim(job_id, owner=owner)
    assert found is not None
    return found


def let_lease_expire(job_id: str) -> None:
    with database_module.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(lease_until=db_now() - 1.0))


def count_messages() -> int:
    with database_module.read() as session:
        return session.scalar(select(func.count()).select_from(OutboxMessage)) or 0


def step(number: int) -> events.Metric:
    return events.Metric(step=number, epoch=1, values={"train/loss": 1.0})


def test_submitting_stores_job_message_and_event_together(submit: Callable[..., str]) -> None:
    job_id = submit()

    job = job_views.get(job_id)
    assert job.status == "queued"
    assert job.config_resolved is not None
    assert job.config_resolved["training"]["batch_size"] == 32
    assert count_messages() == 1
    assert [e.type for e in job_views.events(job_id)] == ["status"]


def test_of_many_workers_that_claim_at_once_one_succeeds(submit: Callable[..., str]) -> None:
    job_id = submit()
    claims: list[Claim | None] = []
    barrier = threading.Barrier(8)

    def try_it(number: int) -> None:
        barrier.wait()
        claims.append(jobs.claim(job_id, owner=f"worker-{number}"))

    threads = [threading.Thread(target=try_it, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sum(c is not None for c in claims) == 1
    assert len(job_views.attempts(job_id)) == 1


def test_after_a_lost_lease_every_write_of_the_old_attempt_is_refused(
    submit: Callable[..., str], tmp_path: Path
) -> None:
    job_id = submit()
    old = claim(job_id)
    jobs.record(job_id, fence=old.fence, batch=[step(1)])
    let_lease_expire(job_id)
    assert jobs.sweep() == 1
    new = claim(job_id, "two")
    before = len(job_views.events(job_id))
    file = tmp_path / "student"
    file.write_bytes(b"late")

    writes: list[Callable[[], object]] = [
        lambda: jobs.heartbeat(job_id, fence=old.fence),
        lambda: jobs.record(job_id, fence=old.fence, batch=[step(2)]),
        lambda: results.keep(job_id, fence=old.fence, name="s", path=file, content_type="x"),
        lambda: jobs.finish(job_id, fence=old.fence),
        lambda: jobs.fail(job_id, fence=old.fence, error=ERROR),
        lambda: jobs.release(job_id, fence=old.fence),
        lambda: jobs.crashed(job_id, fence=old.fence, error=ERROR),
        lambda: jobs.release(job_id, fence=old.fence),
    ]
    for write in writes:
        with pytest.raises(Fenced):
            write()

    assert new.fence > old.fence
    assert len(job_views.events(job_id)) == before
    assert job_views.get(job_id).status == "running"
    jobs.finish(job_id, fence=new.fence)


def test_a_heartbeat_keeps_the_sweeper_away(submit: Callable[..., str]) -> None:
    job_id = submit()
    held = claim(job_id)
    let_lease_expire(job_id)
    jobs.heartbeat(job_id, fence=held.fence)

    assert jobs.sweep() == 0


def test_a_job_fails_after_three_crashes_without_progress_and_not_before(submit: Callable[..., str]) -> None:
    job_id = submit()
    for attempt in range(1, 6):
        held = claim(job_id)
        if attempt <= 2:  # the first two get further, so that they do not count against it
            jobs.record(job_id, fence=held.fence, batch=[step(attempt)])
        jobs.crashed(job_id, fence=held.fence, error=ERROR)
        expected = "failed" if attempt == 4 else "queued"
        assert job_views.get(job_id).status == expected, attempt
        if expected == "failed":
            break

    error = job_views.get(job_id).error
    assert error is not None
    assert error["code"] == "internal_error"
    assert [a.outcome for a in job_views.attempts(job_id)] == ["crashed"] * 4


def test_a_released_attempt_is_not_held_against_the_job(submit: Callable[..., str]) -> None:
    job_id = submit()
    for _ in range(5):
        held = claim(job_id)
        jobs.release(job_id, fence=held.fence)

    assert job_views.get(job_id).status == "queued"
    assert job_views.get(job_id).crash_count == 0


def test_cancelling_follows_the_state(submit: Callable[..., str]) -> None:
    waiting, running, done = submit(), submit(), submit()
    claim_running, claim_done = claim(running), claim(done)
    jobs.finish(done, fence=claim_done.fence)

    assert wishes.cancel(waiting).status == "cancelled"
    assert wishes.cancel(waiting).status == "cancelled"
    assert jobs.claim(waiting, owner="late") is None
    assert wishes.cancel(running).status == "cancelling"
    assert jobs.heartbeat(running, fence=claim_running.fence) == "cancelling"
    assert jobs.record(running, fence=claim_running.fence, batch=[step(1)]) == "cancelling"
    jobs.release(running, fence=claim_running.fence)
    assert job_views.get(running).status == "cancelled"
    with pytest.raises(Conflict, match="succeeded"):
        wishes.cancel(done)
    with pytest.raises(NotFound):
        wishes.cancel("dj_none")


def test_a_cancelled_job_whose_worker_is_lost_ends_cancelled(submit: Callable[..., str]) -> None:
    job_id = submit()
    claim(job_id)
    wishes.cancel(job_id)
    let_lease_expire(job_id)

    jobs.sweep()

    assert job_views.get(job_id).status == "cancelled"


def test_an_idempotency_key_gives_one_job(submit: Callable[..., str], body: dict[str, Any]) -> None:
    first, again, other = submit(idempotency_key="k"), submit(idempotency_key="k"), submit(idempotency_key="l")

    assert first == again != other
    with pytest.raises(Invalid) as caught:
        jobs.submit(DistillSpec.model_validate({**body, "name": "another"}), idempotency_key="k")
    assert caught.value.code == "idempotency_key_reused"


def test_what_is_queued_and_was_rung_for_long_ago_is_rung_for_again(submit: Callable[..., str]) -> None:
    job_id = submit()
    assert jobs.sweep() == 0
    with database_module.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(dispatched_at=db_now() - 31.0))

    assert jobs.sweep() == 1
    assert count_messages() == 2


def test_only_the_next_in_turn_are_rung_for_again(submit: Callable[..., str]) -> None:
    ids = [submit() for _ in range(12)]
    with database_module.begin() as session:
        session.execute(update(Job).values(dispatched_at=db_now() - 31.0))

    assert jobs.sweep() == 10
    assert jobs.sweep() == 0
    with database_module.read() as session:
        rung = session.scalars(select(OutboxMessage.job_id).order_by(OutboxMessage.id)).all()
    assert rung[12:] == ids[:10]
    for job_id in ids[:3]:
        claim(job_id)
    assert jobs.sweep() == 2


def test_metrics_keep_best_last_and_the_teachers(submit: Callable[..., str]) -> None:
    job_id = submit()
    held = claim(job_id)
    said = [(0, 0, {"teacher/val/top1": 0.9}), (4, 1, {"val/top1": 0.5}), (8, 2, {"val/top1": 0.7})]
    said += [(12, 3, {"val/top1": 0.6}), (16, 1, {"baseline/val/top1": 0.4})]
    batch = [events.Metric(step=s, epoch=e, values=v) for s, e, v in said]
    jobs.record(job_id, fence=held.fence, batch=batch)

    assert job_views.get(job_id).metrics == {
        "teacher": {"top1": 0.9},
        "best": {"top1": 0.7, "epoch": 2},
        "last": {"top1": 0.6, "epoch": 3},
        "baseline": {"top1": 0.4, "epoch": 1},
    }
    assert [p["value"] for p in job_views.series(job_id, names=["val/top1"])["val/top1"]] == [0.5, 0.7, 0.6]


@pytest.mark.parametrize(("name", "best"), [("nme", (0.05, 3)), ("agreement", (1.4, 1))])
def test_the_best_of_an_error_is_the_lowest(submit: Callable[..., str], name: str, best: tuple[float, int]) -> None:
    job_id = submit()
    held = claim(job_id)
    said = [(1, 1.4), (2, 0.05), (3, 0.05), (4, 0.3)]
    batch = [events.Metric(step=4 * e, epoch=e, values={f"val/{name}": v}) for e, v in said]
    jobs.record(job_id, fence=held.fence, batch=batch)

    found = job_views.get(job_id).metrics
    assert found == {"best": {name: best[0], "epoch": best[1]}, "last": {name: 0.3, "epoch": 4}}


def test_series_are_thinned_and_cut(submit: Callable[..., str]) -> None:
    job_id = submit()
    held = claim(job_id)
    jobs.record(job_id, fence=held.fence, batch=[step(n) for n in range(100)])

    thinned = job_views.series(job_id, max_points=10)["train/loss"]
    cut = job_views.series(job_id, from_step=20, to_step=29)["train/loss"]

    assert [thinned[0]["step"], thinned[-1]["step"], len(thinned)] == [0, 99, 10]
    assert [p["step"] for p in cut] == list(range(20, 30))


def test_a_better_student_replaces_the_earlier_and_its_bytes(submit: Callable[..., str], tmp_path: Path) -> None:
    job_id = submit()
    held = claim(job_id)
    for content in (b"first", b"second"):
        file = tmp_path / "student"
        file.write_bytes(content)
        results.keep(job_id, fence=held.fence, name="student.safetensors", path=file, content_type="x")

    rows = results.listing(job_id)
    assert [(r.name, r.size) for r in rows] == [("student.safetensors", 6)]
    results.verify(job_id)
    from service.artifacts import store

    stored = store().local_path(rows[0].key)
    assert len(list(stored.parent.iterdir())) == 1
    stored.write_bytes(b"sEcond")
    with pytest.raises(OSError, match="damaged"):
        results.verify(job_id)


def test_a_worker_is_alive_while_it_says_so(database: str) -> None:
    assert workers.count_alive() == 0
    workers.seen("a", facts={})
    workers.seen("a", facts={"cores": 2})
    assert workers.count_alive() == 1
    workers.left("a")
    assert workers.count_alive() == 0


def test_inputs_that_are_used_cannot_be_deleted(submit: Callable[..., str], body: dict[str, Any]) -> None:
    submit()

    with pytest.raises(Conflict, match="uses it"):
        inputs.delete(Teacher, body["teacher"]["id"])
