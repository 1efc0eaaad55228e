"""What happens to every request: an id, safe headers, a bounded body, and no traceback outside."""

from __future__ import annotations

import re
import secrets
import time

import structlog
from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import internal_error, problem_response
from service.logs import logger
from service.settings import settings

_VALID_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_OWN_LIMIT = re.compile(r"(/v1)?/uploads/[^/]+(/content)?")
_HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class RequestContext:
    """Outermost: names the request, answers 500 itself, and writes the request's line of the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _VALID_ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = request_id
        started, status = time.monotonic(), 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            log = logger(__name__)
            try:
                await self.app(scope, receive, send_with_headers)
            except Exception:
                log.exception("request_failed", method=scope["method"], path=scope["path"])
                if status == 0:
                    await internal_error(Request(scope))(scope, receive, send_with_headers)
                else:
                    raise  # the answer has begun: only cutting it off says that it is not whole
            took = round((time.monotonic() - started) * 1000, 1)
            # Watchers read several times a second; their successes would bury everything else.
            level = log.debug if scope["method"] in ("GET", "HEAD") and status < 400 else log.info
            level("request", method=scope["method"], path=scope["path"], status=status, milliseconds=took)


class BodyLimit:
    """Refuses bodies beyond the limit by their announced length, and by counting where none is announced."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"] in ("PUT", "PATCH") and _OWN_LIMIT.fullmatch(scope["path"])):
            await self.app(scope, receive, send)
            return
        limit = settings().max_body_bytes
        detail = f"The body is larger than {limit} bytes."
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            refusal = problem_response(
                Request(scope),
                status=413,
                title="Too large",
                code="too_large",
                detail=detail,
                hint="Files go through POST /uploads.",
                headers={"Connection": "close"},
            )
            await refusal(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, detail, headers={"Connection": "close"})
            return message

        await self.app(scope, counted, send)
