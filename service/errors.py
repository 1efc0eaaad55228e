"""What a caller did wrong or the service cannot do now; the API turns each into problem+json.

ServiceError            status 500
├── Malformed           400
├── NotFound            404
├── Conflict            409
├── Gone                410
├── TooLarge            413
├── RangeNotSatisfiable 416
├── Invalid             422   carries DistillErrors with their pointers
└── Unavailable         503
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill.errors import DistillError


class ServiceError(Exception):
    """Base: ``status`` and ``code`` are the class's, the message and the way out, ``hint``, are for people."""

    status = 500
    code = "internal_error"
    title = "Internal error"

    def __init__(
        self, detail: str, *, hint: str, code: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code or self.code
        self.hint = hint
        self.headers = dict(headers or {})


class Malformed(ServiceError):
    """The request cannot be read."""

    status, code, title = 400, "malformed_request", "Malformed request"


class NotFound(ServiceError):
    """There is no such thing."""

    status, code, title = 404, "not_found", "Not found"


class Conflict(ServiceError):
    """The thing is in another state than the request needs."""

    status, code, title = 409, "conflict", "Conflict"


class Gone(ServiceError):
    """It was there."""

    status, code, title = 410, "gone", "Gone"


class TooLarge(ServiceError):
    """More bytes than allowed."""

    status, code, title = 413, "too_large", "Too large"


class RangeNotSatisfiable(ServiceError):
    """No such bytes."""

    status, code, title = 416, "range_not_satisfiable", "Range not satisfiable"


class Invalid(ServiceError):
    """The request can be read but not be done; ``errors`` say where and how to mend it."""

    status, code, title = 422, "invalid_request", "Request is not valid"

    def __init__(self, errors: Sequence[DistillError]) -> None:
        first = errors[0]
        super().__init__(first.message, code=first.code, hint=first.hint)
        self.errors = list(errors)


class Unavailable(ServiceError):
    """Try again later."""

    status, code, title = 503, "unavailable", "Unavailable"


class Fenced(Exception):
    """The job belongs to a later attempt: the writer must stop at once."""
