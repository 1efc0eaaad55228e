"""What can be wrong with a request, an input or a run, in words for its author.

DistillError            carries a published code, a pointer into the request, and a hint
├── InputError          the teacher or the data: upload_corrupt, state_dict_mismatch, dataset_empty, ...
└── RunError            training itself: loss_diverged, teacher_below_chance, out_of_memory, ...
"""

from __future__ import annotations

from typing import Any


class DistillError(Exception):
    """Something that the user can act on.

    Args:
        code: one of the published codes of the HTTP contract, such as ``state_dict_mismatch``.
        message: one sentence that says what is wrong, with the names and numbers.
        hint: one sentence that says how to mend it; nobody may leave it out.
        param: JSON pointer into the request that caused it, such as ``/student/architecture``.
        details: more facts, ready for JSON (the first ten wrong names, say).
        did_you_mean: near names, best first.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str,
        param: str | None = None,
        details: dict[str, Any] | None = None,
        did_you_mean: list[str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.param = param
        self.details = details or {}
        self.did_you_mean = did_you_mean or []

    def as_json(self) -> dict[str, Any]:
        """The error as the job, the teacher and the data set show it."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "param": self.param,
            "details": self.details,
            "did_you_mean": self.did_you_mean,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DistillError:
        return cls(
            data["code"],
            data["message"],
            hint=data["hint"],
            param=data.get("param"),
            details=data.get("details"),
            did_you_mean=data.get("did_you_mean"),
        )


class InputError(DistillError):
    """A teacher, a data set or an upload that cannot be used."""


class RunError(DistillError):
    """A run that cannot go on."""
