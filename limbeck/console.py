"""What the command shows: lines for people, bars where there is a terminal, JSON where it is asked for."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from limbeck.download import OnProgress
from limbeck.errors import ApiError, InputRejected, LimbeckError


def console(*, as_json: bool = False) -> Console:
    """For people: on stdout, or on stderr when stdout carries JSON."""
    return Console(stderr=as_json, highlight=False)


def say(out: Console, text: str, *, style: str | None = None) -> None:
    """A line for people as it is: no markup, and never broken in a log or a pipe."""
    out.print(text, style=style, markup=False, soft_wrap=True)


def show_json(value: Any) -> None:
    """The answer for programs."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def show_error(error: LimbeckError) -> None:
    """What went wrong and how to mend it, on stderr."""
    err = Console(stderr=True, highlight=False, soft_wrap=True)
    if isinstance(error, ApiError):
        title, code = "refused", f"{error.status} {error.code}"
        lines = [error.detail, *(f"  {line}" for line in error.more())]
        if error.status >= 500 and error.request_id:
            lines.append(f"  request {error.request_id}")
    elif isinstance(error, InputRejected):
        title, code = f"{error.kind} refused", str(error.error.get("code", ""))
        lines = error.flaw.lines()
    else:
        err.print(str(error), style="red", markup=False)
        return
    err.print(f"[bold red]{title}[/] [dim]{code}[/]")
    for line in lines:
        err.print(line, markup=False)


@contextlib.contextmanager
def transfer(out: Console, label: str) -> Iterator[OnProgress]:
    """A bar for bytes on their way, which goes away when they have arrived; silent without a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as progress:
        task = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def bytes_text(count: float) -> str:
    """Bytes for people: 98 kB, 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
