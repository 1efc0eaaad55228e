"""Whether the service is alive, and ready."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

import anyio
from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from fastapi.responses import Response

from api.deps import json_answer
from api.schemas import Alive, Check, Readiness, Version
from service import __version__, database, queue, workers
from service.settings import settings

router = APIRouter(tags=["health"])
_PATIENCE_SECONDS = 3.0


@router.get("/healthz")
async def get_health() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/version")
async def get_version() -> Version:
    """What runs here."""
    return Version(version=__version__)


@router.get("/readyz", response_model=Readiness, responses={503: {"model": Readiness, "description": "Not ready."}})
async def get_readiness() -> Response:
    """Whether jobs would be taken and run: database, broker, storage, a live worker."""
    # A frozen part must not use up the threads that answer everything else.
    limiter = CapacityLimiter(4)
    checks: dict[str, Check] = {}

    async def check(name: str, probe: Callable[[], str]) -> None:
        checks[name] = Check(ok=False, detail=f"no answer in {_PATIENCE_SECONDS:g} s")
        with anyio.move_on_after(_PATIENCE_SECONDS):
            checks[name] = await to_thread.run_sync(_outcome, probe, abandon_on_cancel=True, limiter=limiter)

    async with anyio.create_task_group() as group:
        for name, probe in _PROBES.items():
            group.start_soon(check, name, probe)
    ready = all(found.ok for found in checks.values())
    report = Readiness(ready=ready, checks={name: checks[name] for name in _PROBES})
    headers = {"Cache-Control": "no-store"} | ({} if ready else {"Retry-After": "2"})
    return json_answer(report, status=200 if ready else 503, headers=headers)


def _outcome(probe: Callable[[], str]) -> Check:
    try:
        return Check(ok=True, detail=probe())
    except Exception as error:  # whatever it is, it is the finding
        first_line = (str(error).splitlines() or [""])[0]
        return Check(ok=False, detail=f"{type(error).__name__}: {first_line[:200]}")


def _database() -> str:
    database.ping()
    return database.engine().dialect.name


def _broker() -> str:
    queue.ping()
    return "answers"


def _storage() -> str:
    folder = settings().data_dir
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"ready")
    return "writable"


def _worker() -> str:
    alive = workers.count_alive()
    if alive == 0:
        raise LookupError("no worker is alive; start one with `limbeck work`")
    return f"{alive} alive"


_PROBES: dict[str, Callable[[], str]] = {
    "database": _database,
    "broker": _broker,
    "storage": _storage,
    "worker": _worker,
}
