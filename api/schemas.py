"""What is read, but for jobs: lists, uploads, inputs, what may be asked for, the service's health."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distill.method_specs import Spec
from distill.spec import Architecture, DatasetFormat, HubName, Revision, TeacherTraits, check_hub
from models import Dataset, Teacher, Upload
from service import hub, presets
from service.presets import PresetState
from service.uploads import Purpose

Item = TypeVar("Item", bound=BaseModel)
SHA256 = "^[0-9a-fA-F]{64}$"


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
    sha256: str | None = Field(default=None, pattern=SHA256)


class CompleteRequest(Spec):
    """May give the hash that was not known when the file was announced."""

    sha256: str | None = Field(default=None, pattern=SHA256)


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
    """Registers uploaded images, or a public data set by its name."""

    upload_id: str | None = None
    preset: str | None = None
    """A name from GET /presets."""
    format: DatasetFormat = "auto"

    @model_validator(mode="after")
    def _one_way(self) -> DatasetRequest:
        if (self.upload_id is None) == (self.preset is None):
            raise ValueError("give either upload_id or preset")
        return self


class InputSchema(Schema):
    """What teachers and data sets have in common."""

    id: str
    status: str
    """processing, then ready or error."""
    upload_id: str | None
    """None for a preset, and for a teacher from a hub."""
    filename: str
    bytes: int
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
        facts = _common(row) | ({"upload_id": None} if origin else {})
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


class DatasetSchema(InputSchema):
    """Images; the report holds classes, splits and statistics once it is ready."""

    object: Literal["dataset"] = "dataset"
    format: str
    preset: str | None
    """The name of the public data set that it is."""

    @classmethod
    def of(cls, row: Dataset) -> DatasetSchema:
        preset = presets.name_of(row)
        facts = _common(row) | ({"upload_id": None} if preset else {})
        return cls(**facts, format=row.format, preset=preset)


def _common(row: Teacher | Dataset) -> dict[str, Any]:
    return {
        "id": row.id,
        "status": row.status,
        "upload_id": row.upload_id,
        "filename": row.filename,
        "bytes": row.size,
        "sha256": row.sha256,
        "report": row.report,
        "error": row.error,
        "created_at": row.created_at,
        "ready_at": row.ready_at,
    }


# ---------------------------------------------------------------- what may be asked for


class MethodSchema(Schema):
    """A way to distil."""

    type: str
    summary: str
    json_schema: dict[str, Any] = Field(serialization_alias="schema")
    """JSON schema of its settings with their defaults."""


class MethodList(Schema):
    """All methods."""

    object: Literal["list"] = "list"
    data: list[MethodSchema]


class NetworkInput(Schema):
    """The images that a network is made for."""

    channels: int
    height: int
    width: int
    fixed: bool
    """Whether it takes no others; else any size and number of channels will do."""


class NetworkPreprocessing(Schema):
    """What is done to images before the network sees them."""

    mean: list[float] | None
    """Per channel, of images in [0, 1]; null for the data set's own."""
    std: list[float] | None
    interpolation: str
    """Where images are resized at all."""


class NetworkSchema(Schema):
    """A network of the zoo, at 100 classes and images as in `input`."""

    name: str
    family: str
    stages: list[int]
    """Output channels of each stage."""
    feature_width: int
    """Length of the penultimate vector."""
    parameters: int
    macs: int | None
    """Multiply-adds of one image, of real numbers; null where they are not known."""
    binary_macs: int = 0
    """Multiply-adds of signs; 64 of them are one operation of a processor's word."""
    input: NetworkInput
    preprocessing: NetworkPreprocessing
    pools: bool | None
    """Whether the classifier reads the mean of a last map; null when only building the network tells."""
    roles: list[str]


class NetworkList(Schema):
    """Networks, and what may be varied about each."""

    object: Literal["list"] = "list"
    data: list[NetworkSchema]
    options_schema: dict[str, Any]


class PresetSchema(Schema):
    """A public data set that a request may name."""

    name: str
    title: str
    in_place: bool
    """Whether the operator has put its files where they are looked for."""
    needs: str
    """Which files these are."""

    @classmethod
    def of(cls, state: PresetState) -> PresetSchema:
        preset = state.preset
        return cls(name=preset.name, title=preset.title, in_place=state.in_place, needs=preset.needs)


class PresetList(Schema):
    """All presets."""

    object: Literal["list"] = "list"
    data: list[PresetSchema]


class RecipeData(Schema):
    """The data that a recipe's figures are about."""

    name: str
    preset: str | None
    """By which a request may name it."""
    classes: int
    train: int
    """Training images."""
    image_side: int


class PublishedFigures(Schema):
    """Accuracies as their source prints them, as shares of 1."""

    top1: float
    teacher_top1: float | None
    baseline_top1: float | None
    """The same student on labels alone."""
    rivals: dict[str, float]
    """Other methods on the same pair."""
    source: str


class RecipeSchema(Schema):
    """A row of a published table, with the settings that lead to it."""

    id: str
    title: str
    dataset: RecipeData
    teacher: dict[str, Any]
    student: dict[str, Any]
    method: dict[str, Any]
    """Its type, and settings that are not its defaults."""
    training: dict[str, Any]
    published: PublishedFigures
    settings_source: str
    notes: list[str]
    """What was not published, or does not agree."""


class RecipeList(Schema):
    """Recipes, table by table."""

    object: Literal["list"] = "list"
    data: list[RecipeSchema]


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
