"""Where an input comes from: an upload, a preset from the operator's files, or a URL that a worker fetches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from models import Dataset, Teacher

_PRESET = "preset:"
FETCHED = "url"
"""In place of an upload's id."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One of the three is given."""

    upload_id: str | None = None
    preset: str | None = None
    url: str | None = None
    """Without query and credentials."""


def of(row: Teacher | Dataset) -> Source:
    """The source of an input."""
    if row.upload_id.startswith(_PRESET):
        return Source(preset=row.upload_id.removeprefix(_PRESET))
    if row.upload_id == FETCHED and isinstance(row, Dataset):
        return Source(url=row.url)
    return Source(upload_id=row.upload_id)


def of_preset(name: str) -> str:
    """What stands for the upload's id in the row of a preset."""
    return f"{_PRESET}{name}"


def fetched_key(row: Teacher | Dataset, *, fence: int) -> str:
    """Where the worker with this fence stores what it has fetched."""
    return f"remote/{row.id}-{fence}{Path(row.filename).suffix.lower()[:16]}"


def keys(row: Teacher | Dataset) -> set[str]:
    """All that may lie in the store for an input, what killed workers stored and did not record included."""
    fences = range(1, row.fence + 1) if of(row).url is not None else ()
    return {row.source_key, row.key or "", *(fetched_key(row, fence=fence) for fence in fences)} - {""}
