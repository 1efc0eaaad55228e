"""HTTP with patience: retries what may be retried, and turns refusals into :class:`ApiError`."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx

from limbeck.errors import ApiError, Unreachable

_TIMEOUT = httpx.Timeout(60.0, connect=5.0, pool=10.0)
# Servers drop idle connections after some seconds (uvicorn: 5): one must not be reused just as it goes.
_LIMITS = httpx.Limits(max_connections=10, keepalive_expiry=2.0)
_IDEMPOTENT = {"GET", "HEAD", "PUT", "DELETE"}
WORTH_WAITING = {429, 502, 503, 504}
_LONGEST_WAIT = 5.0

Body = Callable[[], Iterator[bytes]]


class Transport:
    """One service.

    Args:
        url: where it answers, with scheme.
        retries: how often a request is sent again; the waits double from 0.2 s.
    """

    def __init__(self, url: str, *, retries: int = 4) -> None:
        self.url = url.rstrip("/")
        self._retries = retries
        # A proxy of the environment has no business between two processes of one machine.
        self._http = httpx.Client(
            base_url=self.url, timeout=_TIMEOUT, limits=_LIMITS, trust_env=not _is_loopback(self.url)
        )

    def close(self) -> None:
        self._http.close()

    def json(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
    ) -> Any:
        """Send a JSON body, if any, and parse the answer.

        Raises:
            ApiError: the service refused.
            Unreachable: no answer, after all retries.
        """
        sent = dict(headers or {})
        content = None
        if body is not None:
            sent["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        answer = self.send(method, path, headers=sent, content=content, params=params)
        return answer.json() if answer.content else None

    def send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | Body | None = None,
        params: Mapping[str, str | int] | None = None,
    ) -> httpx.Response:
        """One request and its whole answer; ``content``, if it is a function, is called for each try.

        Raises:
            ApiError, Unreachable: as for :meth:`json`.
        """
        safe = method in _IDEMPOTENT or "Idempotency-Key" in (headers or {})
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            wait = backoff(attempt)
            try:
                data = content() if callable(content) else content
                request = self._http.build_request(method, path, headers=headers, content=data, params=params)
                answer = self._http.send(request)
            except httpx.TransportError as error:
                # A connection that was never made carried nothing: any request may be sent again.
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                if last or not (safe or unsent):
                    raise self.unreachable(error) from error
            else:
                if not (safe and answer.status_code in WORTH_WAITING) or last:
                    raise_for_problem(answer)
                    return answer
                wait = retry_after(answer, wait)
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    @contextlib.contextmanager
    def stream(self, path: str, *, headers: Mapping[str, str], read_seconds: float = 60.0) -> Iterator[httpx.Response]:
        """One GET whose answer is read in pieces; sent once, since only the caller knows where to go on.

        Raises:
            ApiError: the service refused.
            httpx.TransportError: no answer, or it broke off.
        """
        timeout = httpx.Timeout(_TIMEOUT.write, connect=_TIMEOUT.connect, read=read_seconds)
        with self._http.stream("GET", path, headers=dict(headers), timeout=timeout) as answer:
            if answer.is_error:
                answer.read()
                raise_for_problem(answer)
            yield answer

    def unreachable(self, error: Exception) -> Unreachable:
        """The error for people."""
        return Unreachable(self.url, str(error) or type(error).__name__)


def raise_for_problem(answer: httpx.Response) -> None:
    """Raise the problem that an answer carries.

    Raises:
        ApiError: its status is 400 or above.
    """
    if not answer.is_error:
        return
    try:
        body = answer.json()
    except ValueError:
        body = None
    request_id = answer.headers.get("X-Request-Id", "")
    raise ApiError.from_answer(answer.status_code, body, reason=answer.reason_phrase, request_id=request_id)


def backoff(attempt: int) -> float:
    """Seconds to wait after the given failed try: doubling, with a spread so that clients do not come in step."""
    spread: float = random.uniform(0.75, 1.25)
    return min(0.2 * 2.0**attempt, _LONGEST_WAIT) * spread


def retry_after(answer: httpx.Response, default: float) -> float:
    """What the service asks for, within reason."""
    asked = answer.headers.get("Retry-After", "")
    return min(float(asked), _LONGEST_WAIT) if asked.isdigit() else default


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
