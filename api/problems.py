"""The shape of a refusal, and the codes that are published."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Flaw(BaseModel):
    """One thing that is wrong with the request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    pointer: str | None = None
    """JSON pointer into the body, such as `/training/epochs`; empty for the body itself."""
    parameter: str | None = None
    """The query parameter or header, where it is not in the body."""
    code: str
    detail: str
    hint: str
    """How to mend it."""
    did_you_mean: list[str] = Field(default_factory=list)
    """Near names, best first."""
    details: dict[str, Any] = Field(default_factory=dict)
    """More facts, such as the names and shapes of tensors that do not fit."""


class Problem(BaseModel):
    """Why a request was refused, as RFC 9457 has it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str
    """URI reference to the explanation of the code."""
    title: str
    status: int
    code: str
    """Stable, for programs."""
    detail: str
    """One sentence for people."""
    hint: str
    """How to mend it."""
    instance: str
    """The path that was asked for."""
    request_id: str
    """Also in the header X-Request-Id and in the service's log."""
    errors: list[Flaw]


CODES = {
    "malformed_request": "The request cannot be read: broken JSON, a broken header, a broken connection.",
    "not_found": "There is no such route, or nothing with this id.",
    "method_not_allowed": "The route is there, but not for this method; the header Allow lists them.",
    "conflict": "The thing is in a state that does not allow this.",
    "gone": "It was there and has expired.",
    "request_timeout": "The body came too slowly.",
    "too_large": "More bytes than allowed, or more than were announced.",
    "unsupported_media_type": "The body must be JSON and say so in Content-Type.",
    "range_not_satisfiable": "The range begins behind the end; Content-Range tells the size.",
    "missing_field": "A field that is needed is not there.",
    "unknown_field": "A field that is not known; near names are given.",
    "invalid_value": "A value outside of what is allowed.",
    "idempotency_key_reused": "The Idempotency-Key was used before with another body.",
    "upload_busy": "Another sender is at work on the upload, or its bytes are being checked.",
    "precondition_failed": "Another version of the tus protocol than this service speaks.",
    "upload_corrupt": "Bytes are missing or differ from their SHA-256, or the file is cut short.",
    "unsafe_file": "A file that could carry code or would unpack beyond the limits.",
    "unsupported_format": "A kind of file that is not read.",
    "architecture_unknown": "No network of this name; near names are given.",
    "recipe_unknown": "No recipe of this id; near ids are given.",
    "state_dict_mismatch": "Names or shapes of the weights are not those of the architecture.",
    "teacher_head_unsupported": "The teacher does not end in one linear classifier.",
    "teacher_head_mismatch": "Teacher and data set have another number of classes.",
    "teacher_below_chance": "The teacher is no better than guessing on this data.",
    "dataset_empty": "The data set holds no images, or none in a split.",
    "dataset_unreadable": "The data set cannot be read.",
    "dataset_class_mismatch": "Labels and class names do not belong together.",
    "out_of_memory": "Training needs more memory than there is.",
    "loss_diverged": "The loss became infinite; the last good student is kept.",
    "queue_timeout": "The job waited too long in the queue, for a worker or for its inputs.",
    "max_runtime_exceeded": "The job ran longer than it may; the student so far is kept.",
    "worker_lost": "The worker stopped answering too often without progress.",
    "storage_error": "The artifact store failed: bytes are missing or damaged.",
    "storage_full": "The disk is full; nothing was kept of the request.",
    "quota_exceeded": "All uploads together would hold more than they may.",
    "cancelled_by_user": "The user cancelled the job, which is no failure; the student so far is kept.",
    "unavailable": "Something that the service needs does not answer now; try again.",
    "internal_error": "A fault of the service.",
}
