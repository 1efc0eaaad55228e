"""The same key and body is the same thing, however often it is sent."""

from __future__ import annotations

import hashlib
import json
from typing import TypeVar

from pydantic import BaseModel

from distill.errors import InputError
from models import Job, Sweep
from service.errors import Invalid

Kept = TypeVar("Kept", Job, Sweep)


def digest_of(request: BaseModel) -> str:
    """What two requests with the same body have in common, however it was written."""
    return hashlib.sha256(json.dumps(request.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()


def replay(earlier: Kept, *, digest: str) -> Kept:
    """What was made under the key before.

    Raises:
        Invalid: with another body.
    """
    if earlier.idempotency_digest != digest:
        kind = type(earlier).__name__.lower()
        message = f"This Idempotency-Key was used for {kind} {earlier.id!r} with another body."
        raise Invalid([InputError("idempotency_key_reused", message, hint="Use a new key for a new request.")])
    return earlier
