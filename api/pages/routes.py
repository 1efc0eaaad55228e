"""The pages and what their script reads; no part of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.templating import Jinja2Templates

from api.deps import InputId, JobId, SweepId
from api.pages import datasets, reference, sweeps, views, wording
from models import Dataset
from service import inputs, job_views, sweep_views

router = APIRouter()
_templates = Jinja2Templates(directory=Path(__file__).resolve().parent / "templates")
_templates.env.filters |= {
    "ago": wording.ago,
    "size": wording.size,
    "duration": wording.duration,
    "marked": wording.marked,
}


@router.get("/")
def jobs_page(request: Request) -> Response:
    """The newest jobs with their state."""
    return _page(request, "jobs.html", views.job_list())


@router.get("/jobs.json")
def jobs_state() -> Response:
    """What the first page shows, for its script."""
    return JSONResponse(views.job_list(), headers={"Cache-Control": "no-store"})


@router.get("/jobs/{job_id}")
def job_page(request: Request, job_id: JobId) -> Response:
    """One job: where it stands, its curve, its result."""
    return _page(request, "job.html", views.job_page(job_views.get(job_id)))


@router.get("/jobs/{job_id}/state.json")
def job_state(job_id: JobId) -> Response:
    """What changes on a job's page, for its script."""
    return JSONResponse(views.job_state(job_views.get(job_id)), headers={"Cache-Control": "no-store"})


@router.get("/sweeps/{sweep_id}")
def sweep_page(request: Request, sweep_id: SweepId) -> Response:
    """One sweep: how far it is, the comparison, its jobs."""
    return _page(request, "sweep.html", sweeps.sweep_page(sweep_views.get(sweep_id)))


@router.get("/sweeps/{sweep_id}/state.json")
def sweep_state(sweep_id: SweepId) -> Response:
    """What changes on a sweep's page, for its script."""
    state = sweeps.sweep_state(sweep_views.get(sweep_id))
    return JSONResponse(state, headers={"Cache-Control": "no-store"})


@router.get("/datasets/{dataset_id}/page")
def dataset_page(request: Request, dataset_id: InputId) -> Response:
    """One data set: its images, classes, duplicates, and what was skipped."""
    return _page(request, "dataset.html", datasets.dataset_page(inputs.get(Dataset, dataset_id)))


@router.get("/datasets/{dataset_id}/state.json")
def dataset_state(dataset_id: InputId) -> Response:
    """What changes on a data set's page, for its script."""
    state = datasets.dataset_state(inputs.get(Dataset, dataset_id))
    return JSONResponse(state, headers={"Cache-Control": "no-store"})


@router.get("/docs")
def docs_page(request: Request) -> Response:
    """The routes, their parameters and schemas, and the codes of refusals."""
    return _page(request, "docs.html", reference.of(request.app.openapi()))


def _page(request: Request, name: str, context: dict[str, Any]) -> Response:
    return _templates.TemplateResponse(request, name, context, headers={"Cache-Control": "no-store"})
