"""`limbeck sweep`: from a file to many jobs, their progress in lines or a bar, and the table at the end."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from limbeck.client import Client
from limbeck.console import say
from limbeck.errors import CommandError, Unreachable
from limbeck.results import Sweep, SweepChild
from limbeck.submit import Request, read_object, request_of, with_inputs
from service.sweep_figures import COLUMNS, SEED_PATH, headline_in

_POLL = 1.0  # seconds
_PATIENCE = 60.0  # seconds that the service may be away, say for a restart


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """The body of POST /distill/sweep without its base, and the base with the local files that it names."""

    body: dict[str, Any]
    base: Request


def read_sweep(path: Path) -> SweepRequest:
    """A sweep from a JSON file; its ``base`` is like a file of `limbeck submit`, local files included.

    Raises:
        CommandError: the file is missing or holds no such thing.
    """
    body = read_object(path)
    base = body.pop("base", None)
    if not isinstance(base, dict) or "axes" not in body:
        raise CommandError(f'{path} is no sweep: it needs "base", the request of a job, and "axes", what varies')
    return SweepRequest(body=body, base=request_of(base, folder=path.parent))


def send_sweep(
    client: Client,
    request: SweepRequest,
    *,
    out: Console,
    dry_run: bool = False,
    idempotency_key: str | None = None,
) -> Sweep:
    """Upload what is new, wait until it is checked, and submit.

    Raises:
        ApiError, InputRejected, Unreachable: as the client's methods.
        CommandError: a file is missing, or a teacher has no architecture.
    """
    body = {**request.body, "base": with_inputs(client, request.base, out=out)}
    return client.sweep(body, dry_run=dry_run, idempotency_key=idempotency_key)


def watch_sweep(client: Client, sweep_id: str, *, out: Console) -> Sweep:
    """Follow a sweep until all its jobs have ended, a line for each that ends; the sweep as it ended.

    Raises:
        ApiError: there is no such sweep.
        Unreachable: the service has been away for a minute.
    """
    columns = (TextColumn("jobs"), BarColumn(bar_width=30), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    told: set[str] = set()
    last_answer = time.monotonic()
    # In a pipe the bar is silent and the lines are everything.
    with Progress(*columns, console=out, disable=not out.is_terminal) as progress:
        task = progress.add_task("jobs", total=None, note="")
        while True:
            try:
                sweep = client.get_sweep(sweep_id)
                last_answer = time.monotonic()
            except Unreachable:
                if time.monotonic() - last_answer > _PATIENCE:
                    raise
                continue
            ended = [child for child in sweep["children"] if child["is_terminal"]]
            for child in ended:
                if child["id"] not in told:
                    told.add(child["id"])
                    say(progress.console, f"[{len(told)}/{sweep['num_jobs']}] {ending(child)}")
            progress.update(task, total=sweep["num_jobs"], completed=len(ended), note=standing(sweep))
            if sweep["is_terminal"]:
                return sweep
            time.sleep(_POLL)


def ending(child: SweepChild) -> str:
    """How a job ended: ``compare · srrl · seed 0: 88.54 % in 24 s``."""
    judged, seconds = headline_in(child["figures"]), child["figures"].get("seconds")
    if child["status"] != "succeeded":
        reason = (child.get("error") or {}).get("message") if child["status"] == "failed" else None
        return f"{child['name']}: {child['status']}" + (f" - {reason}" if reason else "")
    found = f"{judged[0].mark}{judged[1]:.2%}" if judged is not None else "done"
    return f"{child['name']}: {found}" + (f" in {seconds:.0f} s" if seconds is not None else "")


def standing(sweep: Sweep) -> str:
    """The jobs that have not succeeded, by status."""
    return ", ".join(f"{count} {status}" for status, count in sweep["counts"].items() if status != "succeeded")


def sweep_table(sweep: Sweep) -> Table:
    """The comparison: mean ± sample standard deviation over the jobs of each row that succeeded."""
    rows = sweep["table"]
    # A service of another version may lack a figure.
    columns = [c for c in COLUMNS if any(c.figure in row["figures"] and row["figures"][c.figure]["n"] for row in rows)]
    lacking = not all(row["is_complete"] for row in rows)
    table = Table(
        title="Measured on the test images, mean ± sd", caption="* not all of its jobs succeeded" if lacking else None
    )
    for axis in sweep["axes"]:
        if axis["path"] != SEED_PATH:
            table.add_column(escape(axis["path"]))
    table.add_column("jobs", justify="right")
    for number, column in enumerate(columns):
        table.add_column(column.title, justify="right", style="bold" if number == 0 else None)
    for row in rows:
        labels = [escape(coordinate["label"]) for coordinate in row["point"]]
        jobs = str(row["num_jobs"]) if row["is_complete"] else f"{row['num_finished']} of {row['num_jobs']} *"
        spreads = [row["figures"][column.figure] for column in columns]
        cells = [column.show(each["mean"], each["sd"]) for column, each in zip(columns, spreads, strict=True)]
        table.add_row(*labels, jobs, *cells)
    return table
