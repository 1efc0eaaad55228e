from __future__ import annotations

from collections.abc import Sequence

import pytest

from distill import events
from worker.watchdog import Watchdog

ALIVE = events.Alive()


def step(number: int) -> events.Progress:
    return events.Progress(run="student", epoch=1, epochs=9, step=number, total_steps=99, images_per_second=1.0)


def watched(heard: Sequence[tuple[float, events.Event]], *, until: float, every: float = 0.5) -> float | None:
    """When a watchdog that looks at its trainer every so often, with 30 s of patience, has had enough."""
    dog = Watchdog(least=30.0, now=0.0)
    waiting, now = list(heard), 0.0
    while now < until:
        now += every
        come = [event for at, event in waiting if at <= now]
        waiting = [(at, event) for at, event in waiting if at > now]
        dog.look(come, now=now)
        if dog.is_over:
            return now
    return None


@pytest.mark.parametrize(
    ("pace", "limit"), [(0.5, 30.0), (2.0, 30.0), (7.0, 70.0)], ids=["half a second", "two seconds", "seven seconds"]
)
def test_silence_is_measured_by_the_pace_of_steps_but_for_the_least(pace: float, limit: float) -> None:
    steps = [(pace * number, step(number)) for number in range(1, 21)]
    over = watched(steps, until=1000.0)
    assert over == pytest.approx(20 * pace + limit, abs=1.01)


def test_one_slow_step_changes_little_of_the_pace() -> None:
    times = [*(float(number) for number in range(1, 11)), 35.0]  # the last after 25 s
    steps = [(at, step(number)) for number, at in enumerate(times)]
    assert watched(steps, until=1000.0) == pytest.approx(35.0 + 30.0, abs=1.01)


def test_before_the_first_step_there_is_ten_times_the_patience() -> None:
    assert watched([], until=1000.0) == pytest.approx(300.0, abs=1.01)
    assert watched([(250.0, ALIVE)], until=1000.0) == pytest.approx(550.0, abs=1.01)


def test_signs_of_life_count_and_leave_the_pace_alone() -> None:
    """An evaluation that takes a thousand seconds, batch by batch."""
    heard: list[tuple[float, events.Event]] = [(1.0, step(1)), (2.0, step(2))]
    heard += [(2.0 + 20.0 * number, ALIVE) for number in range(1, 51)]
    assert watched(heard, until=2000.0) == pytest.approx(1002.0 + 30.0, abs=1.01)


def test_the_metric_of_a_step_is_no_step_of_its_own() -> None:
    """A step of 50 s each, and its metric half a second later: told apart by looks, they are one."""
    heard: list[tuple[float, events.Event]] = []
    for number in range(1, 11):
        metric = events.Metric(step=number, epoch=1, values={"train/loss": 1.0})
        heard += [(50.0 * number, step(number)), (50.0 * number + 0.6, metric)]
    dog_bites = watched([(at - 30.0, event) for at, event in heard], until=5000.0)
    assert dog_bites == pytest.approx(470.6 + 500.0, abs=1.51)


def test_time_in_which_nobody_looked_does_not_count() -> None:
    """The worker was frozen, or its database, and the trainer perhaps with it."""
    dog = Watchdog(least=30.0, now=0.0)
    dog.look([step(1)], now=1.0)
    dog.look([], now=1000.0)
    assert not dog.is_over
    for number in range(32):
        dog.look([], now=1001.0 + number)
    assert dog.is_over
