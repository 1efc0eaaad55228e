"""A job as it goes on: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from distill.headlines import HEADLINES, Headline, Side, headline_of
from limbeck.client import Client
from limbeck.console import say
from limbeck.errors import Unreachable
from limbeck.results import Job, JobEvent

_POLL = 0.5  # seconds; progress is no event of the stream, it has to be asked for
_PATIENCE = 60.0  # seconds that the service may be away, say for a restart
_RUN_NAMES = {"student": "student", "baseline": "labels alone"}
_SIDES: tuple[Side, ...] = ("student", "baseline", "teacher")


@dataclass
class Board:
    """What is known of a job; its headline, and the values of that by network."""

    job: Job
    headline: Headline | None = None
    values: dict[str, float] = field(default_factory=dict)

    def take(self, event: JobEvent) -> set[str]:
        """Note a metric; the networks whose headline came with it."""
        said = event.data.get("values") or {}
        new: dict[str, float] = {}
        for headline in HEADLINES.values():
            found: dict[str, float] = {side: said[name] for side in _SIDES if (name := headline.metric(side)) in said}
            if found:
                self.headline, new = headline, found
        self.values |= new
        return set(new)

    def update(self, job: Job) -> None:
        """Note the job's state."""
        self.job = job
        teacher = (job.get("metrics") or {}).get("teacher") or {}
        if headline := headline_of(teacher):
            self.headline, self.values["teacher"] = headline, teacher[headline.name]

    def value_of(self, who: str) -> str:
        """A student's newest value beside the teacher's; empty before the first one."""
        if self.headline is None or who not in self.values:
            return ""
        places = self.headline.decimals
        mine = f"{self.headline.mark}{self.values[who]:.{places}%}"
        if self.headline.against_teacher or "teacher" not in self.values:
            return mine
        return f"{mine} (teacher {self.values['teacher']:.{places}%})"

    @property
    def standing(self) -> str:
        """Status and phase in words."""
        status, phase = self.job["status"], self.job.get("phase")
        if status == "running" and phase:
            run = (self.job.get("progress") or {}).get("run")
            return f"{phase} {_RUN_NAMES.get(run or '', '')}".strip() if phase == "training" else phase
        if status == "queued":
            return ", ".join(["queued", *self._waiting()])
        return status

    def _waiting(self) -> list[str]:
        place = self.job.get("queue") or {}
        ahead = (place.get("position") or 1) - 1
        found = [f"{ahead} before it"] if ahead else []
        what = place.get("waiting_for")
        return (
            [*found, f"waiting for {'a worker' if what == 'worker' else f'the checks of its {what}'}"]
            if what
            else found
        )


class View(Protocol):
    """Something that shows a board."""

    def show(self, board: Board) -> None: ...

    def event(self, board: Board, event: JobEvent, *, measured: set[str]) -> None: ...

    def close(self) -> None: ...


def watch(client: Client, job_id: str, *, out: Console) -> Job:
    """Follow a job to its end; the job as it ended.

    Raises:
        ApiError: there is no such job.
        Unreachable: the service has been away for a minute.
    """
    board = Board(client.job(job_id))
    view: View = Bars(out) if out.is_terminal else Lines(out)
    try:
        _follow(client, board, view)
    finally:
        view.close()
    return board.job


def _follow(client: Client, board: Board, view: View) -> None:
    job_id = board.job["id"]
    seen, last_answer = 0, time.monotonic()
    view.show(board)
    while True:
        try:
            # The job first: what led to its end is then among the events.
            board.update(client.job(job_id))
            view.show(board)
            for event in client.past_events(job_id, after=seen):
                seen = event.id
                view.event(board, event, measured=board.take(event))
            last_answer = time.monotonic()
        except Unreachable:
            if time.monotonic() - last_answer > _PATIENCE:
                raise
        view.show(board)
        if board.job.get("is_terminal"):
            return
        time.sleep(_POLL)


class Lines:
    """One line for each change, for logs and pipes."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._standing = ""

    def show(self, board: Board) -> None:
        if board.standing != self._standing:
            self._standing = board.standing
            say(self._out, self._standing)

    def event(self, board: Board, event: JobEvent, *, measured: set[str]) -> None:
        if event.type == "log":
            say(self._out, f"  {event.data.get('message', '')}")
        for who, name in _RUN_NAMES.items():
            if who in measured:
                say(self._out, f"  {name}: epoch {event.data.get('epoch', '?')}, {board.value_of(who)}")

    def close(self) -> None:
        return


class Bars:
    """One bar for each run and one for the whole."""

    def __init__(self, out: Console) -> None:
        columns = (
            TextColumn("{task.description:<13}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=out, refresh_per_second=4)
        self._tasks: dict[str, TaskID] = {}
        self._progress.start()

    def show(self, board: Board) -> None:
        progress = board.job.get("progress") or {}
        run = progress.get("run") or ""
        if run in _RUN_NAMES and progress.get("epochs"):
            speed = progress.get("images_per_second") or 0.0
            where = f"epoch {progress['epoch']}/{progress['epochs']}  {speed:,.0f} images/s"
            self._set(run, progress["epoch"], progress["epochs"], f"{where}  {board.value_of(run)}")
        for earlier in set(self._tasks) & set(_RUN_NAMES) - {run}:
            total = next(t.total for t in self._progress.tasks if t.id == self._tasks[earlier])
            self._set(earlier, total or 1, total or 1, board.value_of(earlier))
        percent = 100.0 if board.job["status"] == "succeeded" else progress.get("percent") or 0.0
        left = progress.get("eta_seconds")
        note = board.standing if left is None else f"{board.standing}  {_clock(left)} left"
        self._set("job", percent, 100.0, note)

    def _set(self, name: str, done: float, total: float, note: str) -> None:
        if name not in self._tasks:
            label = _RUN_NAMES.get(name, "the whole job")
            self._tasks[name] = self._progress.add_task(label, total=total, note=note)
        self._progress.update(self._tasks[name], completed=done, total=total, note=note)

    def event(self, board: Board, event: JobEvent, *, measured: set[str]) -> None:
        if event.type == "log":
            self._progress.console.print(f"  {event.data.get('message', '')}", markup=False, style="dim")

    def close(self) -> None:
        self._progress.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def outcome(job: Job) -> str:
    """The end of a job in words."""
    if job["status"] == "succeeded":
        return "done"
    error: dict[str, Any] = job.get("error") or {}
    parts = [part for part in (error.get("message"), error.get("hint")) if part]
    if job["status"] == "cancelled" and parts:
        return " ".join(parts)  # as was wished: it says so itself, and has no reason to give
    return " - ".join([job["status"], *parts])
