"""Sweeps: one request for many jobs, and their comparison."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response

from api.deps import Accept, After, PageSize, SweepId, idempotency_key, json_answer
from api.schemas import Listing
from api.sweep_body import read_children
from api.sweep_schemas import SweepPlanSchema, SweepSchema, SweepSummary
from models import Sweep
from service import sweep_table, sweep_views, sweeps
from service.sweep_figures import FIGURES, SEED_PATH
from service.sweep_spec import SweepSpec
from service.sweep_table import Row

router = APIRouter(prefix="/distill/sweep", tags=["sweeps"])
_CSV = {"content": {"text/csv": {"schema": {"type": "string"}}}}


@router.post(
    "",
    status_code=202,
    response_model=SweepSchema,
    responses={200: {"model": SweepPlanSchema, "description": "With dry_run: the plan; nothing was queued."}},
)
def create_sweep(
    body: SweepSpec,
    dry_run: Annotated[bool, Query(description="Only check the request and count its jobs and steps.")] = False,
    key: Annotated[str | None, Depends(idempotency_key)] = None,
) -> Response:
    """Queue a job for every combination of values, all of them or none; their comparison is read here later."""
    children, wrong = read_children(body)
    if dry_run:
        return json_answer(SweepPlanSchema.of(sweeps.plan(children, wrong=wrong)))
    sweep = sweeps.submit(body, children, wrong=wrong, idempotency_key=key)
    return json_answer(_read(sweep), status=202, headers={"Location": f"/distill/sweep/{sweep.id}"})


@router.get("")
def list_sweeps(limit: PageSize = 20, after: After = None) -> Listing[SweepSummary]:
    """Sweeps, newest first."""
    rows, has_more = sweep_views.listing(limit=limit, after=after)
    standings = sweep_views.standings(rows)
    found = [SweepSummary.of(row, standing=standings[row.id]) for row in rows]
    return Listing[SweepSummary].of(found, has_more=has_more)


@router.get("/{sweep_id}", response_model=SweepSchema, responses={200: _CSV})
def get_sweep(sweep_id: SweepId, accept: Accept = "") -> Response:
    """One sweep with its jobs and the table over seeds; under `Accept: text/csv` the table alone."""
    sweep = sweep_views.get(sweep_id)
    if "text/csv" in accept:
        table = sweep_table.rows(sweep_views.children(sweep_id))
        return Response(_as_csv(sweep, table), media_type="text/csv; charset=utf-8; header=present")
    answer = _read(sweep)
    headers = {"Cache-Control": "no-cache"} | ({} if answer.is_terminal else {"Retry-After": "2"})
    return json_answer(answer, headers=headers)


@router.post(
    "/{sweep_id}/cancel",
    status_code=202,
    response_model=SweepSchema,
    responses={200: {"model": SweepSchema, "description": "All its jobs had ended before."}},
)
def cancel_sweep(sweep_id: SweepId) -> Response:
    """End all jobs of a sweep that have not ended; their best students so far are kept."""
    num_asked = sweeps.cancel(sweep_id)
    return json_answer(_read(sweep_views.get(sweep_id)), status=202 if num_asked else 200)


def _read(sweep: Sweep) -> SweepSchema:
    return SweepSchema.full(sweep, children=sweep_views.children(sweep.id))


def _as_csv(sweep: Sweep, rows: Sequence[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    axes = [axis["path"] for axis in sweep.axes if axis["path"] != SEED_PATH]
    figures = [f"{name}_{part}" for name in FIGURES for part in ("mean", "sd")]
    writer.writerow([*axes, "num_jobs", "num_finished", "is_complete", *figures])
    for row in rows:
        labels = [coordinate["label"] for coordinate in row.point]
        values = [value for name in FIGURES for value in (row.figures[name].mean, row.figures[name].sd)]
        writer.writerow([*labels, row.num_jobs, row.num_finished, str(row.is_complete).lower(), *values])
    return text.getvalue()
