"""What happened to a job: as a list, as a live stream, as series, as log lines."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import PlainTextResponse, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from sqlalchemy.exc import OperationalError
from starlette.concurrency import run_in_threadpool

from api.deps import MAX_INT, Accept, JobId, Seq, json_answer
from api.job_schemas import EventList, EventSchema, EventType, LogLevel, LogLine, LogList, MetricsSchema
from models import JobEvent
from service import job_views

router = APIRouter(prefix="/distill/{job_id}", tags=["events"])
_POLL_SECONDS = 0.3
_COMMENT_SECONDS = 15.0
_BATCH = 500
_RETRY_MILLISECONDS = 3000
_LEVELS: dict[str, int] = {"info": 0, "warning": 1, "error": 2}
_MAX_LINES = 10_000
_TEXT = {"schema": {"type": "string"}}


@router.get(
    "/events",
    response_model=EventList,
    responses={
        200: {"content": {"text/event-stream": _TEXT}},
        204: {"description": "The stream was read to its end: do not reconnect."},
    },
)
async def list_events(
    job_id: JobId,
    after: Seq = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Of the list; a stream has none.")] = 100,
    types: Annotated[list[EventType] | None, Query(alias="type", description="Only these; may be repeated.")] = None,
    accept: Accept = "",
    last_event_id: Annotated[str, Header(description="Of a stream: go on behind this one.")] = "",
) -> Response:
    """Events as a list, or under `Accept: text/event-stream` as they come, the earlier ones first."""
    job = await run_in_threadpool(job_views.get, job_id)
    if "text/event-stream" in accept:
        start = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 16 else after
        if job.is_terminal and start >= job.last_seq:
            return Response(status_code=204)
        stream = _stream(job_id, after=start, types=types or [])
        return EventSourceResponse(stream, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    rows = await run_in_threadpool(job_views.events, job_id, after=after, limit=limit + 1, types=types or [])
    items = [EventSchema.of(row) for row in rows[:limit]]
    ids = [item.id for item in items]
    page = EventList(
        data=items, has_more=len(rows) > limit, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None
    )
    return json_answer(page)


async def _stream(job_id: str, *, after: int, types: Sequence[str]) -> AsyncIterator[bytes]:
    """Events from the database until ``end``; cancelled by the server when the reader leaves."""
    wanted = [*types, "end"] if types else []
    spoke_at = time.monotonic()
    yield format_sse_event(retry=_RETRY_MILLISECONDS)
    while True:
        try:
            rows = await run_in_threadpool(job_views.events, job_id, after=after, limit=_BATCH, types=wanted)
        except OperationalError:
            return  # the reader reconnects with its Last-Event-ID and misses nothing
        for row in rows:
            yield _message(row)
            after, spoke_at = row.seq, time.monotonic()
            if row.type == "end":
                return
        if len(rows) == _BATCH:
            continue
        if time.monotonic() - spoke_at >= _COMMENT_SECONDS:
            yield KEEPALIVE_COMMENT
            spoke_at = time.monotonic()
        await asyncio.sleep(_POLL_SECONDS)


def _message(row: JobEvent) -> bytes:
    data = {"at": EventSchema.of(row).model_dump(mode="json")["at"], **row.data}
    return format_sse_event(event=row.type, id=str(row.seq), data_str=json.dumps(data, separators=(",", ":")))


@router.get("/metrics", response_model=MetricsSchema, responses={200: {"content": {"text/csv": _TEXT}}})
def list_metrics(
    job_id: JobId,
    names: Annotated[list[str] | None, Query(description="Only these; repeated, or separated by commas.")] = None,
    from_step: Annotated[int | None, Query(ge=0, le=MAX_INT)] = None,
    to_step: Annotated[int | None, Query(ge=0, le=MAX_INT)] = None,
    max_points: Annotated[int, Query(ge=2, le=10_000, description="Longer series are thinned evenly.")] = 500,
    accept: Accept = "",
) -> Response:
    """Series of values by step, as JSON or under `Accept: text/csv` as a table."""
    job_views.get(job_id)
    chosen = [part.strip() for name in names or [] for part in name.split(",") if part.strip()]
    series = job_views.series(job_id, names=chosen, from_step=from_step, to_step=to_step, max_points=max_points)
    if "text/csv" not in accept:
        return json_answer(MetricsSchema.model_validate({"job_id": job_id, "series": series}))
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["name", "step", "epoch", "value"])
    for name, points in series.items():
        writer.writerows([name, point["step"], point["epoch"], point["value"]] for point in points)
    return Response(table.getvalue(), media_type="text/csv; charset=utf-8; header=present")


@router.get("/logs", response_model=LogList, responses={200: {"content": {"text/plain": _TEXT}}})
def list_logs(
    job_id: JobId,
    tail: Annotated[int, Query(ge=1, le=_MAX_LINES, description="The last so many lines.")] = 1000,
    level: Annotated[LogLevel, Query(description="This level and worse.")] = "info",
    accept: Accept = "",
) -> Response:
    """The job's log as text, or under `Accept: application/json` line by line."""
    job_views.get(job_id)
    rows = job_views.events(job_id, types=["log"], limit=_MAX_LINES, newest=True)
    wanted = [LogLine.of(row) for row in rows if _LEVELS.get(row.data["level"], 0) >= _LEVELS[level]]
    lines = wanted[-tail:]
    if "application/json" in accept:
        return json_answer(LogList(data=lines))
    stamped = (f"{line.at:%Y-%m-%dT%H:%M:%SZ} {line.level.upper():7} {line.message}\n" for line in lines)
    return PlainTextResponse("".join(stamped))
