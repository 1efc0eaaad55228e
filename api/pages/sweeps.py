"""What a sweep's page shows, ready for template and script alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from api.pages import wording
from models import JobStatus, Sweep
from service import sweep_table, sweep_views
from service.sweep_figures import COLUMNS, SEED_PATH, Column, headline_in
from service.sweep_table import Child, Row
from service.sweep_views import Standing


def sweep_page(sweep: Sweep) -> dict[str, Any]:
    """Everything on a sweep's page."""
    children = sweep_views.children(sweep.id)
    rows = sweep_table.rows(children)
    columns = [column for column in COLUMNS if any(row.figures[column.figure].n for row in rows)]
    return {
        "sweep": sweep,
        "title": title(sweep),
        "state": _state(children),
        "axes": _named([axis["path"] for axis in sweep.axes if axis["path"] != SEED_PATH]),
        "columns": [column.title[:1].upper() + column.title[1:] for column in columns],
        "rows": [
            {
                "labels": [coordinate["label"] for coordinate in row.point],
                "cells": [_cell(column, row) for column in columns],
                "finished": f"{row.num_finished} of {row.num_jobs}",
                "is_complete": row.is_complete,
            }
            for row in rows
        ],
        "children": [{"id": c.id, "name": c.name, "status": c.status, "student": _student(c)} for c in children],
    }


def _named(paths: Sequence[str]) -> list[dict[str, str]]:
    """Each path with what stands last in it as its name, where that tells it from the others."""
    names = [path.rpartition("/")[2] for path in paths]
    return [
        {"path": path, "name": name if names.count(name) == 1 else path}
        for path, name in zip(paths, names, strict=True)
    ]


def sweep_state(sweep: Sweep) -> dict[str, Any]:
    """What changes while a sweep runs."""
    return _state(sweep_views.children(sweep.id))


def title(sweep: Sweep) -> str:
    """The name that the user gave, or the id."""
    return sweep.name or sweep.id


def _state(children: Sequence[Child]) -> dict[str, Any]:
    standing = sweep_views.standing_of(children)
    return {
        "status": standing.status,
        "is_terminal": standing.is_terminal,
        "sentence": sentence(standing),
        "percent": round(sum(map(_percent, children)) / max(1, len(children)), 2),
        # Every job's line by its id; a change of status changes the table too, and loads the page anew.
        **{child.id: _now(child) for child in children},
        "layout": [child.status for child in children],
    }


def sentence(standing: Standing) -> str:
    """3 of 12 jobs done, 2 running, 7 waiting."""
    words: dict[str, str] = {JobStatus.QUEUED: "waiting", JobStatus.CANCELLING: "stopping"}
    done = standing.counts.get(JobStatus.SUCCEEDED, 0)
    order = ("running", "cancelling", "queued", "failed", "cancelled")
    ranked = sorted(
        (status for status in standing.counts if status != JobStatus.SUCCEEDED),
        key=lambda status: order.index(status) if status in order else len(order),
    )
    rest = [f"{standing.counts[status]} {words.get(status, status)}" for status in ranked]
    return ", ".join([f"{done} of {standing.num_jobs} jobs done", *rest])


def _cell(column: Column, row: Row) -> str:
    spread = row.figures[column.figure]
    return column.show(spread.mean, spread.sd)


def _percent(child: Child) -> float:
    if child.is_terminal:
        return 100.0
    total = (child.progress or {}).get("total_steps")
    return 100.0 * (child.progress or {})["step"] / total if total else 0.0


def _now(child: Child) -> str:
    """Where a job stands, in a few words."""
    if child.status == JobStatus.FAILED:
        return str((child.error or {}).get("message", ""))
    if child.status == JobStatus.RUNNING and child.progress:
        so_far = wording.percent((child.metrics.get("last") or {}).get("top1"))
        return f"epoch {child.progress['epoch']} of {child.progress['epochs']}, {so_far}"
    seconds = child.figures["seconds"]
    return f"took {wording.duration(seconds)}" if seconds is not None else ""


def _student(child: Child) -> str:
    judged = headline_in(child.figures)
    return wording.percent(judged[1] if judged is not None else None)
