"""What is read of data sets."""

from __future__ import annotations

from typing import Literal

from api.schemas import InputSchema, Schema, common
from models import Dataset, InputStatus
from service import presets


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


class DatasetSchema(InputSchema):
    """Images; the report holds classes, splits, statistics and duplicates once it is ready."""

    object: Literal["dataset"] = "dataset"
    format: str
    preset: str | None
    """The name of the public data set that it is."""
    links: DatasetLinks

    @classmethod
    def of(cls, row: Dataset) -> DatasetSchema:
        preset = presets.name_of(row)
        facts = common(row) | ({"upload_id": None} if preset else {})
        return cls(**facts, format=row.format, preset=preset, links=DatasetLinks.of(row))


class SkippedSchema(Schema):
    """A file, or a line of a list, that is no part of the data set."""

    id: str
    """Its number in the list, from 1 on."""
    path: str
    reason: str
