"""What users ask of jobs, on both databases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from distill import events
from distill.spec import DistillSpec
from models import Artifact, Attempt, Job, JobEvent, OutboxMessage, db_now
from service import database as database_module
from service import job_views, jobs, plans, queue_views, results, turns, wishes, workers
from service.artifacts import store
from service.errors import Conflict, Fenced, NotFound

pytestmark = pytest.mark.usefixtures("database")
ERROR = {"code": "internal_error", "message": "it died", "hint": "see"}
CPU = {"device": "cpu", "memory_bytes": 2**34}
GPU = {"device": "cuda", "memory_bytes": 2**34}


@pytest.fixture
def submit(body: dict[str, Any]) -> Callable[..., str]:
    def make(**changes: Any) -> str:
        return jobs.submit(DistillSpec.model_validate({**body, **changes})).id

    return make


def claim(job_id: str) -> int:
    found = jobs.claim(job_id, owner="one")
    assert found is not None
    return found.fence


def status(job_id: str) -> str:
    return job_views.get(job_id).status


def outcomes(job_id: str) -> list[str | None]:
    return [attempt.outcome for attempt in job_views.attempts(job_id)]


def test_a_running_job_is_paused_with_its_worker_s_help_and_goes_on(submit: Callable[..., str]) -> None:
    job_id = submit()
    fence = claim(job_id)

    assert wishes.pause(job_id).status == "pausing"
    assert wishes.pause(job_id).status == "pausing"
    assert jobs.heartbeat(job_id, fence=fence) == "pausing"
    jobs.record(job_id, fence=fence, batch=[events.Metric(step=3, epoch=1, values={"train/loss": 1.0})])
    assert jobs.release(job_id, fence=fence) == "paused"

    assert outcomes(job_id) == ["paused"]
    assert jobs.claim(job_id, owner="two") is None
    assert jobs.sweep() == 0  # no lease is missed
    with pytest.raises(Fenced):
        jobs.heartbeat(job_id, fence=fence)
    assert wishes.resume(job_id).status == "queued"
    assert claim(job_id) > fence
    assert job_views.get(job_id).crash_count == 0


def test_a_waiting_job_is_paused_at_once(submit: Callable[..., str]) -> None:
    first, second = submit(), submit()
    assert wishes.pause(first).status == "paused"
    assert turns.next_for(CPU) == second
    wishes.resume(first)
    assert job_views.position(job_views.get(first)) == 2  # behind who came in meanwhile


def test_a_wish_to_go_on_before_the_trainer_has_stopped_queues_it_again(submit: Callable[..., str]) -> None:
    job_id = submit()
    fence = claim(job_id)
    wishes.pause(job_id)
    assert wishes.resume(job_id).status == "running"
    assert jobs.release(job_id, fence=fence) == "queued"
    assert outcomes(job_id) == ["released"]


@pytest.mark.parametrize("how", ["release", "crash", "lost"])
def test_a_wish_is_fulfilled_however_the_trainer_ends(submit: Callable[..., str], how: str) -> None:
    for wanted, expected in ((wishes.pause, "paused"), (wishes.cancel, "cancelled")):
        job_id = submit()
        fence = claim(job_id)
        wanted(job_id)
        if how == "release":
            jobs.release(job_id, fence=fence)
        elif how == "crash":
            jobs.crashed(job_id, fence=fence, error=ERROR)
        else:
            with database_module.begin() as session:
                session.execute(update(Job).where(Job.id == job_id).values(lease_until=db_now() - 1.0))
            jobs.sweep()
        assert status(job_id) == expected


def test_a_paused_job_may_be_cancelled_and_one_that_is_being_paused_too(submit: Callable[..., str]) -> None:
    waiting, running = submit(), submit()
    fence = claim(running)
    wishes.pause(waiting)
    wishes.pause(running)
    assert wishes.cancel(waiting).status == "cancelled"
    assert wishes.cancel(running).status == "cancelling"
    with pytest.raises(Conflict, match="cancelling"):
        wishes.pause(running)
    assert jobs.release(running, fence=fence) == "cancelled"


def test_what_has_ended_stays_as_it_is(submit: Callable[..., str]) -> None:
    job_id = submit()
    jobs.finish(job_id, fence=claim(job_id))
    before = len(job_views.events(job_id))
    for wish in (wishes.pause, wishes.resume, wishes.cancel, wishes.retry):
        with pytest.raises(Conflict, match="succeeded"):
            wish(job_id)
        with pytest.raises(NotFound):
            wish("dj_none")
    assert (status(job_id), len(job_views.events(job_id))) == ("succeeded", before)


def test_a_retry_is_a_new_job_of_the_same_request(submit: Callable[..., str]) -> None:
    job_id = submit(name="night", metadata={"team": "a"}, training={"epochs": 3, "seed": 5})
    jobs.fail(job_id, fence=claim(job_id), error=ERROR)

    again = wishes.retry(job_id)

    old = job_views.get(job_id)
    assert (old.status, again.status, again.made_from) == ("failed", "queued", job_id)
    assert (again.name, again.labels, again.config_resolved) == ("night", {"team": "a"}, old.config_resolved)
    assert (again.teacher_id, again.dataset_id) == (old.teacher_id, old.dataset_id)


def test_a_clone_changes_what_it_is_told_and_nothing_else(submit: Callable[..., str]) -> None:
    job_id = submit(name="night", training={"epochs": 3, "seed": 5})

    made = wishes.clone(job_id, changes={"name": None, "training": {"seed": 6}, "method": {"type": "kd"}})

    spec, old = DistillSpec.model_validate(made.spec), DistillSpec.model_validate(job_views.get(job_id).spec)
    assert (spec.name, spec.training.seed, spec.training.epochs, spec.method.type) == ("", 6, 3, "kd")
    assert spec.student == old.student
    assert made.made_from == job_id


def test_a_merge_patch_is_that_of_its_rfc() -> None:
    """The examples of RFC 7396, appendix A."""
    for target, patch, result in (
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ):
        assert wishes.merged(target, patch) == result


def test_deleting_takes_everything_of_a_job_and_nothing_else(submit: Callable[..., str], tmp_path: Path) -> None:
    gone, kept = submit(), submit()
    file = tmp_path / "student"
    for job_id in (gone, kept):
        fence = claim(job_id)
        file.write_bytes(job_id.encode())
        results.keep(job_id, fence=fence, name="student.safetensors", path=file, content_type="x")
        if job_id == gone:
            with pytest.raises(Conflict, match="running"):
                wishes.delete(job_id)
        jobs.finish(job_id, fence=fence)
    key = results.get(gone, name="student.safetensors").key

    wishes.delete(gone)

    with pytest.raises(NotFound):
        job_views.get(gone)
    with pytest.raises(FileNotFoundError):
        store().local_path(key)
    with database_module.read() as session:
        for table in (JobEvent, Attempt, Artifact, OutboxMessage):
            assert set(session.scalars(select(table.job_id))) <= {kept}
    assert results.get(kept, name="student.safetensors").size == len(kept)


def test_priority_comes_first_and_then_age(submit: Callable[..., str]) -> None:
    low, first, second, high = (submit(priority=name) for name in ("low", "normal", "normal", "high"))

    order = []
    while (job_id := turns.next_for(CPU)) is not None:
        order.append(job_id)
        jobs.finish(job_id, fence=claim(job_id))

    assert order == [high, first, second, low]


def test_places_in_the_queue_are_those_of_the_turns(submit: Callable[..., str]) -> None:
    ids = [submit(priority=name) for name in ("low", "normal", "high", "normal", "low")]
    places = {job_id: job_views.position(job_views.get(job_id)) for job_id in ids}
    assert [places[job_id] for job_id in ids] == [4, 2, 1, 3, 5]
    assert [job.id for job in queue_views.standing().waiting] == sorted(ids, key=lambda job_id: places[job_id] or 0)


def test_a_job_goes_to_who_has_what_it_needs(submit: Callable[..., str]) -> None:
    needs_gpu = submit(training={"epochs": 2, "device": "cuda"})
    anywhere = submit()

    assert turns.next_for(CPU) == anywhere
    assert turns.next_for(GPU) == needs_gpu
    assert turns.next_for({}) == anywhere

    workers.seen("small", facts=CPU)
    job = job_views.get(needs_gpu)
    assert queue_views.reason(job, before=0) == "no live worker has a GPU"
    workers.seen("large", facts=GPU)
    assert queue_views.reason(job, before=0) == "the next free worker takes it"
    assert queue_views.reason(job_views.get(anywhere), before=1) == "1 job is before it"


def test_a_job_that_needs_more_memory_than_there_is_waits_and_says_so(submit: Callable[..., str]) -> None:
    job_id = submit()
    with database_module.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(needs_bytes=2**40))
    workers.seen("one", facts=CPU)

    assert turns.next_for(CPU) is None
    assert "1,099,511,627,776 bytes" in queue_views.reason(job_views.get(job_id), before=0)


def test_a_worker_that_drains_is_told_and_listed_so() -> None:
    assert workers.seen("one", facts=CPU) is False
    workers.drain("one")
    assert workers.seen("one", facts=CPU) is True
    ((worker, job),) = queue_views.standing().workers
    assert (worker.is_draining, job) == (True, None)
    with pytest.raises(NotFound):
        workers.drain("two")


def test_the_start_is_estimated_from_what_runs_and_what_ran(submit: Callable[..., str]) -> None:
    done, running, waiting = submit(), submit(), submit()
    workers.seen("one", facts=CPU)
    jobs.finish(done, fence=claim(done))
    fence = claim(running)
    assert queue_views.estimated_start(0) is None  # nobody knows how long the running one takes
    progress = events.Progress(run="student", epoch=1, epochs=2, step=10, total_steps=40, images_per_second=32.0)
    jobs.record(running, fence=fence, batch=[progress])

    left = queue_views.seconds_left(job_views.get(running))
    assert left == pytest.approx(30 * 32 / 32.0)  # steps left x batch / rate
    start = queue_views.estimated_start(turns.before(job_views.get(waiting)))
    assert start is not None
    assert 25 <= (start - job_views.get(running).created_at).total_seconds() <= 60


def test_a_job_that_cannot_be_planned_fails_and_holds_up_no_other(
    submit: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, sound = submit(), submit()
    with database_module.begin() as session:
        session.execute(update(Job).values(dispatched_at=None))
    original = plans.fit
    monkeypatch.setattr(
        plans,
        "fit",
        lambda spec, **inputs: 1 / 0 if next(calls) == 0 else original(spec, **inputs),  # type: ignore
    )
    calls = iter(range(10))

    assert jobs.settle_waiting() == 2

    assert [status(broken), status(sound)] == ["failed", "queued"]
    assert (job_views.get(broken).error or {})["code"] == "internal_error"
    assert turns.next_for(CPU) == sound
