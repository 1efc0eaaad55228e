"""The application: routes at the root and under /v1, the pages, errors, middleware."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.staticfiles import StaticFiles

from api import errors, openapi
from api.middleware import BodyLimit, RequestContext
from api.pages.routes import router as pages
from api.routes import artifacts, catalog, datasets, distill, events, health, queue, sweeps, teachers, uploads, wishes
from service import __version__, logs

_STATIC = Path(__file__).resolve().parent / "pages" / "static"
_DESCRIPTION = """Post a trained vision network, get a small one with the evidence that it is good.

Times are RFC 3339 in UTC. New fields and new values of `status`, `phase` and event types may come: use `is_terminal`.
Every route is also served under `/v1`."""


class Limbeck(FastAPI):
    """FastAPI with our OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        return openapi.build(self)


def create_app() -> FastAPI:
    """The ASGI application; it neither migrates the database nor starts anything."""
    logs.configure()
    app = Limbeck(
        title="Limbeck",
        version=__version__,
        summary="Distillation as a service",
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
    )
    errors.install(app)
    app.add_middleware(BodyLimit)
    app.add_middleware(RequestContext)
    api = APIRouter()
    # Sweeps before jobs, or the word `sweep` would be taken for a job's id.
    for module in (sweeps, distill, wishes, events, artifacts, uploads, teachers, datasets, catalog, queue, health):
        api.include_router(module.router)
    app.include_router(api)
    app.include_router(api, prefix="/v1", include_in_schema=False)
    app.include_router(pages, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name
