"""What is read of data sets."""

from __future__ import annotations

from typing import Literal

from api.schemas import InputSchema, Schema, common
from models import Dataset, InputStatus
from service import sources


class DatasetLinks(Schema):
    """Where to go on from a data set."""

    self: str
    preview: str | None
    """A sheet of images; null while there is none."""
    skipped: str | None
    """All files that were left out, each with the reason; null until it is ready."""
    web: str

    @classmethod
    def of(cls, row: Dataset) -> DatasetLinks:
        here = f"/datasets/{row.id}"
        return cls(
            self=here,
            preview=f"{here}/preview" if "preview" in row.report else None,
            skipped=f"{here}/skipped" if row.status == InputStatus.READY else None,
            web=f"{here}/page",
        )


class FetchSchema(Schema):
    """How the fetching of a URL stands."""

    received: int
    """Bytes."""
    total: int | None
    """None until the host has told it."""
    etag: str | None = None
    """Of the file as it was fetched."""


class DatasetSchema(InputSchema):
    """Images; the report holds classes, splits, statistics and duplicates once it is ready."""

    object: Literal["dataset"] = "dataset"
    format: str
    phase: str | None
    """While it is processing: fetching, then checking."""
    preset: str | None
    """The name of the public data set that it is."""
    url: str | None
    """Where it is fetched from, without the query; None, as `fetch`, of anything else."""
    fetch: FetchSchema | None
    links: DatasetLinks

    @classmethod
    def of(cls, row: Dataset) -> DatasetSchema:
        source = sources.of(row)
        phase = "fetching" if source.url is not None and row.source_key == "" else "checking"
        return cls(
            **common(row),
            format=row.format,
            phase=phase if row.status == InputStatus.PROCESSING else None,
            preset=source.preset,
            url=source.url,
            fetch=None if row.fetch is None else FetchSchema(**row.fetch),
            links=DatasetLinks.of(row),
        )


class SkippedSchema(Schema):
    """A file, or a line of a list, that is no part of the data set."""

    id: str
    """Its number in the list, from 1 on."""
    path: str
    reason: str
