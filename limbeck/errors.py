"""What can go wrong between a client and the service.

LimbeckError
├── Unreachable        no answer: nothing listens there, or the line broke too often
├── ApiError           the service refused: a problem+json answer (RFC 9457)
├── InputRejected      the checks of a teacher or a data set found an error
└── DownloadError      what arrived is not what the service has
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class LimbeckError(Exception):
    """The base of everything the client raises of its own accord."""


class Unreachable(LimbeckError):
    """No answer from the service."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot reach {url}: {reason}")
        self.url = url
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """One thing that is wrong with a request."""

    detail: str
    pointer: str = ""
    code: str = ""
    hint: str = ""
    did_you_mean: Sequence[str] = field(default=())

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Flaw:
        near = data.get("did_you_mean") or ()
        return cls(
            detail=str(data.get("detail") or data.get("message") or ""),
            pointer=str(data.get("pointer") or data.get("parameter") or data.get("param") or ""),
            code=str(data.get("code") or ""),
            hint=str(data.get("hint") or ""),
            did_you_mean=(near,) if isinstance(near, str) else tuple(near),
        )

    def lines(self, *, known: Sequence[str] = ()) -> list[str]:
        """For people, without the sentences that were said already."""
        said = [self.pointer, "" if self.detail in known else self.detail]
        found = [": ".join(part for part in said if part)]
        if self.did_you_mean:
            found.append(f"did you mean {' or '.join(self.did_you_mean)}?")
        if self.hint not in known:
            found.append(self.hint)
        return [line for line in found if line]

    def __str__(self) -> str:
        return " - ".join(self.lines())


class ApiError(LimbeckError):
    """The service answered with a problem.

    Args:
        status: of HTTP.
        code: one of the published codes, such as ``architecture_unknown``.
        detail: one sentence that says what is wrong.
        hint: one sentence that says how to mend it.
        flaws: where in the request, one by one.
        request_id: for the service's logs.
    """

    def __init__(
        self,
        *,
        status: int,
        code: str,
        detail: str,
        hint: str = "",
        flaws: Sequence[Flaw] = (),
        request_id: str = "",
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
        self.flaws = tuple(flaws)
        self.request_id = request_id
        super().__init__("\n  ".join([f"{detail} ({status} {code})", *self.more()]))

    def more(self) -> list[str]:
        """Where it is wrong and how to mend it, each sentence once."""
        found: list[str] = []
        for flaw in self.flaws:
            found += flaw.lines(known=[self.detail, *found])
        return found if self.hint in ("", *found) else [*found, self.hint]

    @classmethod
    def from_answer(cls, status: int, body: Any, *, reason: str = "", request_id: str = "") -> ApiError:
        """The error of an answer; ``body`` is its parsed JSON, or anything else from a proxy in between."""
        problem = body if isinstance(body, dict) else {}
        return cls(
            status=status,
            code=str(problem.get("code") or f"http_{status}"),
            detail=str(problem.get("detail") or problem.get("title") or reason or "the service refused"),
            hint=str(problem.get("hint") or ""),
            flaws=[Flaw.from_json(e) for e in problem.get("errors") or [] if isinstance(e, dict)],
            request_id=str(problem.get("request_id") or request_id),
        )


class InputRejected(LimbeckError):
    """A teacher or a data set that the service cannot use; ``error`` is what it says about it."""

    def __init__(self, kind: str, input_id: str, error: dict[str, Any]) -> None:
        self.kind = kind
        self.input_id = input_id
        self.error = error
        self.flaw = Flaw.from_json(error)
        super().__init__(f"{kind} {input_id} cannot be used: {self.flaw}")


class DownloadError(LimbeckError):
    """The bytes that arrived are not the bytes that were promised."""


class CommandError(LimbeckError):
    """The command cannot do what it was asked; for the person at the terminal."""

    def __init__(self, message: str, *, exit_code: int = 2) -> None:
        super().__init__(message)
        self.exit_code = exit_code
