"""What several routes read from a request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Header, Path, Query
from fastapi.responses import Response
from pydantic import BaseModel

from service.errors import Malformed

MAX_INT = 2**53

JobId = Annotated[str, Path(max_length=64, description="Such as dj_01K5...")]
SweepId = Annotated[str, Path(max_length=64, description="Such as sw_01K5...")]
InputId = Annotated[str, Path(max_length=64)]
PageSize = Annotated[int, Query(ge=1, le=100, description="At most so many.")]
After = Annotated[str | None, Query(max_length=64, description="Go on behind this id.")]
Before = Annotated[str | None, Query(max_length=64, description="Only what is newer than this id.")]
Seq = Annotated[int, Query(ge=0, le=MAX_INT, description="Only events behind this id.")]
Accept = Annotated[str, Header(include_in_schema=False)]
IfNoneMatch = Annotated[str | None, Header(description="An ETag: 304 while nothing has changed.")]


def idempotency_key(
    key: Annotated[
        str | None,
        Header(alias="Idempotency-Key", description="The same key and body is the same job, however often it is sent."),
    ] = None,
) -> str | None:
    """The key of the request, quoted as the draft has it or bare as many send it.

    Raises:
        Malformed: it is empty or over 255 characters.
    """
    if key is None:
        return None
    bare = key.strip().removeprefix('"').removesuffix('"')
    if not 1 <= len(bare) <= 255:
        raise Malformed("The Idempotency-Key must have 1 to 255 characters.", hint="A UUID is a good key.")
    return bare


def etag_matches(given: str | None, etag: str) -> bool:
    """Whether an If-None-Match names this ETag (weak comparison, RFC 9110, 13.1.2)."""
    if given is None:
        return False
    tags = [tag.strip().removeprefix("W/") for tag in given.split(",")]
    return "*" in tags or etag in tags


def json_answer(schema: BaseModel, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer whose status or headers the route decides itself."""
    body = schema.model_dump_json(by_alias=True)
    return Response(body, status_code=status, media_type="application/json", headers=headers)
