"""Reading sweeps: how one stands follows from its jobs, and is asked of them whenever it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from models import TERMINAL, Job, JobStatus, Sweep
from service import database
from service.errors import NotFound
from service.sweep_figures import REPORTED
from service.sweep_table import Child

Counts = Mapping[str, int]
"""How many jobs of a sweep are in each status."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How a sweep stands."""

    counts: Counts

    @property
    def num_jobs(self) -> int:
        return sum(self.counts.values())

    @property
    def is_terminal(self) -> bool:
        return set(self.counts) <= set(TERMINAL)

    @property
    def status(self) -> str:
        """Like a job's: queued until the first begins; at the end the worst of the jobs' own."""
        if not self.is_terminal:
            return JobStatus.QUEUED if set(self.counts) == {JobStatus.QUEUED} else JobStatus.RUNNING
        worst = (JobStatus.FAILED, JobStatus.CANCELLED)
        return next((status for status in worst if self.counts.get(status)), JobStatus.SUCCEEDED)


def get(sweep_id: str) -> Sweep:
    """One sweep.

    Raises:
        NotFound: no such sweep.
    """
    with database.read() as session:
        sweep = session.get(Sweep, sweep_id)
    if sweep is None:
        raise NotFound(f"No sweep {sweep_id!r}.", hint="GET /distill/sweep lists the sweeps.")
    return sweep


def listing(*, limit: int, after: str | None) -> tuple[list[Sweep], bool]:
    """Newest first, and whether there are more."""
    query = select(Sweep).order_by(Sweep.id.desc()).limit(limit + 1)
    if after:
        query = query.where(Sweep.id < after)
    with database.read() as session:
        rows = list(session.scalars(query))
    return rows[:limit], len(rows) > limit


def standings(sweeps: Iterable[Sweep]) -> dict[str, Standing]:
    """How each of these stands, by id."""
    counts: dict[str, dict[str, int]] = {sweep.id: {} for sweep in sweeps}
    query = select(Job.sweep_id, Job.status, func.count()).where(Job.sweep_id.in_(counts))
    with database.read() as session:
        for sweep_id, status, count in session.execute(query.group_by(Job.sweep_id, Job.status)):
            counts[str(sweep_id)][status] = count
    return {sweep_id: Standing(counts=found) for sweep_id, found in counts.items()}


def standing_of(children: Sequence[Child]) -> Standing:
    """How a sweep with these jobs stands."""
    return Standing(counts=Counter(child.status for child in children))


def children(sweep_id: str) -> list[Child]:
    """The jobs of a sweep in their order; only what the comparison needs, since there may be hundreds."""
    # Read out of the reports by the database: they are long, and a page asks for this every second.
    reported = [Job.report[place].as_float().label(name) for name, place in REPORTED.items()]
    plain = (Job.id, Job.name, Job.status, Job.point, Job.metrics, Job.progress, Job.error)
    query = select(*plain, Job.started_at, Job.finished_at, *reported).where(Job.sweep_id == sweep_id).order_by(Job.id)
    with database.read() as session:
        return [_child(row._mapping) for row in session.execute(query)]


def _child(row: Mapping[Any, Any]) -> Child:
    reported = {name: row[name] for name in REPORTED}
    rest = {name: row[name] for name in row if name not in REPORTED}
    return Child(reported=reported, **rest)
