"""Every answer that is not a success is problem+json (RFC 9457); no traceback leaves the process."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api.problems import Flaw, Problem
from api.validation import body_model, flaws_of
from distill.errors import DistillError
from service.errors import Invalid, ServiceError
from service.logs import logger

PROBLEM_JSON = "application/problem+json"
_RETRY_SECONDS = "5"

_HTTP_CODES = {
    400: ("malformed_request", "Malformed request", "Send the body again, as /docs tells it."),
    404: ("not_found", "Not found", "GET /docs lists the routes."),
    405: ("method_not_allowed", "Method not allowed", "The header Allow lists the methods; GET /docs the routes."),
    408: ("request_timeout", "The body came too slowly", "HEAD tells how much has come; PATCH goes on from there."),
    412: ("precondition_failed", "Precondition failed", "The header Tus-Version lists what is spoken."),
    413: ("too_large", "Too large", "Files go through POST /uploads."),
    415: ("unsupported_media_type", "Unsupported media type", "Send the header Content-Type as /docs tells it."),
}


def problem_response(
    request: Request,
    *,
    status: int,
    title: str,
    code: str,
    detail: str,
    hint: str,
    errors: Sequence[Flaw] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The one way to refuse."""
    problem = Problem(
        type=f"/docs#error-{code}",
        title=title,
        status=status,
        code=code,
        detail=detail,
        hint=hint,
        instance=request.url.path,
        request_id=getattr(request.state, "request_id", ""),
        errors=list(errors),
    )
    return Response(problem.model_dump_json(), status_code=status, media_type=PROBLEM_JSON, headers=dict(headers or {}))


def internal_error(request: Request) -> Response:
    """What a user sees of a fault of ours; the log has the rest under the same request id."""
    return problem_response(
        request,
        status=500,
        title="Internal error",
        code="internal_error",
        detail="The service failed to answer this request.",
        hint="It is not the request's fault; tell the operator the request id.",
    )


def install(app: FastAPI) -> None:
    """Register a handler for everything that may be raised below the middleware."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(OSError, _os_error)
    app.add_exception_handler(DataError, _data_error)
    for database_away in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(database_away, _database_away)


def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    return problem_response(
        request,
        status=error.status,
        title=error.title,
        code=error.code,
        detail=error.detail,
        hint=error.hint,
        errors=[_flaw(each) for each in error.errors] if isinstance(error, Invalid) else (),
        headers=error.headers,
    )


def _flaw(error: DistillError) -> Flaw:
    return Flaw(
        pointer=error.param,
        code=error.code,
        detail=error.message,
        hint=error.hint,
        did_you_mean=error.did_you_mean,
        details=error.details,
    )


def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        where = first["loc"][-1]
        detail = f"The body is not JSON: {first['ctx']['error']}, at character {where}."
        return _malformed(request, detail, hint="Check quotes, commas and brackets near there.")
    if first["loc"] == ("body",) and isinstance(error.body, bytes):
        return problem_response(
            request,
            status=415,
            title="Unsupported media type",
            code="unsupported_media_type",
            detail=f"The body must be JSON, not {request.headers.get('content-type', 'untyped')!r}.",
            hint="Send the header Content-Type: application/json (curl: --json).",
        )
    flaws = flaws_of(error.errors(), model=body_model(request.scope.get("endpoint")))
    where = flaws[0].pointer or flaws[0].parameter
    return problem_response(
        request,
        status=422,
        title=Invalid.title,
        code=flaws[0].code,
        detail=f"{where}: {flaws[0].detail}" if where else flaws[0].detail,
        hint=flaws[0].hint,
        errors=flaws,
    )


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    unnamed = (f"http_{error.status_code}", "Refused", "GET /docs lists the routes and what they take.")
    code, title, hint = _HTTP_CODES.get(error.status_code, unnamed)
    detail = str(error.detail)
    if error.status_code == 404:
        detail = f"There is nothing at {request.url.path!r}."
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("allow") or (error.headers or {}).get("Allow")
        detail = f"{request.method} is not possible here" + (f"; possible: {allowed}." if allowed else ".")
    return problem_response(
        request,
        status=error.status_code,
        title=title,
        code=code,
        detail=detail,
        hint=hint,
        headers=error.headers,
    )


def _malformed(request: Request, detail: str, *, hint: str) -> Response:
    return problem_response(
        request, status=400, title="Malformed request", code="malformed_request", detail=detail, hint=hint
    )


def _client_gone(request: Request, error: Exception) -> Response:
    return _malformed(request, "The connection broke before the whole body had arrived.", hint="Send it again.")


def _data_error(request: Request, error: Exception) -> Response:
    return _malformed(
        request, "The request holds text or a number that cannot be stored.", hint="Leave out NUL characters."
    )


def _database_away(request: Request, error: Exception) -> Response:
    logger(__name__).warning("database_unavailable", error=type(error).__name__, detail=str(error)[:500])
    return problem_response(
        request,
        status=503,
        title="Unavailable",
        code="unavailable",
        detail="The database does not answer now.",
        hint="Try again; GET /readyz says what is missing.",
        headers={"Retry-After": _RETRY_SECONDS},
    )


def _os_error(request: Request, error: Exception) -> Response:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if not full:
        logger(__name__).error("storage_error", exc_info=error)
        return internal_error(request)
    return problem_response(
        request,
        status=507,
        title="Insufficient storage",
        code="storage_full",
        detail="The service's disk is full.",
        hint="Nothing was kept of this request; free room, or tell the operator.",
    )
