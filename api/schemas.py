"""What is read, but for jobs and the catalog: lists, uploads, inputs, the service's health."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.method_specs import Spec
from distill.spec import (
    Architecture,
    BrokenShare,
    DatasetFormat,
    HubName,
    RemoteUrl,
    Revision,
    Sha256,
    TeacherTraits,
    check_hub,
)
from models import Dataset, Teacher, Upload
from service import hub, sources
from service.uploads import Purpose

Item = TypeVar("Item", bound=BaseModel)


class Schema(BaseModel):
    """Base of what is read; new fields may come."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Listing(Schema, Generic[Item]):
    """One page, newest first; go on with `after=<last_id>`."""

    object: Literal["list"] = "list"
    data: list[Item]
    has_more: bool
    first_id: str | None
    last_id: str | None

    @classmethod
    def of(cls, items: list[Item], *, has_more: bool) -> Listing[Item]:
        ids = [str(getattr(item, "id", None) or getattr(item, "name", "")) for item in items]
        return cls(data=items, has_more=has_more, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None)


class ErrorSchema(Schema):
    """Why a job, a teacher or a data set failed."""

    code: str
    message: str
    param: str | None = None
    """JSON pointer into the request that caused it."""
    phase: str | None = None
    hint: str
    """How to mend it."""
    retryable: bool = False
    log_excerpt: list[str] = Field(default_factory=list)
    did_you_mean: list[str] = Field(default_factory=list)
    details: dict[str, Any] = Field(default_factory=dict)


# ---------------------------------------------------------------- uploads


class UploadRequest(Spec):
    """Announces a file."""

    filename: str = Field(min_length=1, max_length=255)
    bytes: int = Field(ge=1, le=2**53)
    purpose: Purpose
    sha256: Sha256 | None = None


class CompleteRequest(Spec):
    """May give the hash that was not known when the file was announced."""

    sha256: Sha256 | None = None


class UploadSchema(Schema):
    """A file on its way in."""

    id: str
    object: Literal["upload"] = "upload"
    filename: str
    purpose: str
    bytes: int
    """As announced."""
    offset: int
    """Bytes that have arrived."""
    sha256: str | None
    status: str
    """pending, then completed."""
    created_at: datetime
    expires_at: datetime
    """A pending upload is forgotten then."""

    @classmethod
    def of(cls, row: Upload) -> UploadSchema:
        return cls(
            id=row.id,
            filename=row.filename,
            purpose=row.purpose,
            bytes=row.size,
            offset=row.offset,
            sha256=row.sha256,
            status=row.status,
            created_at=row.created_at,
            expires_at=row.expires_at,
        )


# ---------------------------------------------------------------- inputs


class TeacherRequest(TeacherTraits):
    """Registers uploaded weights, or those of a network on a hub."""

    upload_id: str | None = None
    architecture: Architecture | None = None
    hub: HubName | None = None
    revision: Revision | None = None

    @property
    def traits(self) -> TeacherTraits:
        return TeacherTraits(options=self.options, classes=self.classes, preprocessing=self.preprocessing)

    @model_validator(mode="after")
    def _one_way(self) -> TeacherRequest:
        if (self.upload_id is None) == (self.hub is None):
            raise ValueError("give either upload_id or hub")
        check_hub(self.hub, self.revision, self.architecture)
        return self


class DatasetRequest(Spec):
    """Registers uploaded images, a public data set by its name, or what lies behind a URL."""

    upload_id: str | None = None
    preset: str | None = None
    """A name from GET /presets."""
    url: RemoteUrl | None = None
    """`https://host/path`, or `s3://bucket/key` of a bucket that the operator listed; a worker fetches it."""
    sha256: Sha256 | None = None
    """Of the file behind the URL, which is refused when it differs."""
    format: DatasetFormat = "auto"
    max_broken_share: BrokenShare | None = None

    @model_validator(mode="after")
    def _one_way(self) -> DatasetRequest:
        if [self.upload_id, self.preset, self.url].count(None) != 2:
            raise ValueError("give exactly one of upload_id, preset and url")
        if self.sha256 is not None and self.url is None:
            raise ValueError("sha256 goes with url; that of an upload is given when it is announced")
        return self


class InputSchema(Schema):
    """What teachers and data sets have in common."""

    id: str
    status: str
    """processing, then ready or error."""
    upload_id: str | None
    """None for a preset, for what was given by its URL, and for a teacher from a hub."""
    filename: str
    bytes: int
    """Of what is fetched, so far or as its host announced it."""
    sha256: str
    report: dict[str, Any]
    """What the checks found."""
    error: ErrorSchema | None
    created_at: datetime
    ready_at: datetime | None


class HubOrigin(Schema):
    """A repository on a hub, and what was taken of it."""

    repository: str
    revision: str
    """As it was asked for."""
    commit: str | None = None
    """What that was when it was fetched; None before."""


class TeacherSchema(InputSchema):
    """Trained weights under their architecture."""

    object: Literal["teacher"] = "teacher"
    architecture: str
    """`auto` until a worker has found it in the file, where the outline does not tell it before."""
    options: dict[str, Any]
    hub: HubOrigin | None
    """Where it was fetched from; None for an upload."""
    num_classes: int | None
    """None, as the channels, until the file has been looked into, where its header does not tell."""
    in_channels: int | None
    classes: list[str] | None
    """Names in the order of the outputs; None where neither the request nor the file gives them."""
    preprocessing: dict[str, Any]
    """As it was given; `report.normalisation` is what the file says."""

    @classmethod
    def of(cls, row: Teacher) -> TeacherSchema:
        origin = hub.origin_of(row)
        facts = common(row) | ({"upload_id": None} if origin else {})
        return cls(
            **facts,
            architecture=row.architecture,
            options=row.options,
            hub=None if origin is None else HubOrigin.model_validate(origin),
            num_classes=row.num_classes or None,
            in_channels=row.in_channels or None,
            classes=row.classes,
            preprocessing=row.preprocessing,
        )


def common(row: Teacher | Dataset) -> dict[str, Any]:
    """The fields of InputSchema."""
    return {
        "id": row.id,
        "status": row.status,
        "upload_id": sources.of(row).upload_id,
        "filename": row.filename,
        "bytes": row.size,
        "sha256": row.sha256,
        "report": row.report,
        "error": row.error,
        "created_at": row.created_at,
        "ready_at": row.ready_at,
    }


# ---------------------------------------------------------------- the service


class Alive(Schema):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Check(Schema):
    """One thing that the service needs."""

    ok: bool
    detail: str


class Readiness(Schema):
    """Whether jobs would be taken and run now."""

    ready: bool
    checks: dict[str, Check]


class Version(Schema):
    """What runs here."""

    name: Literal["limbeck"] = "limbeck"
    version: str
    api: Literal["v1"] = "v1"
