"""Reusable inputs of jobs: teachers and data sets, each checked by a worker before it is ready."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import BigInteger, Float, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Json, Table, Utc, utcnow


class InputStatus(StrEnum):
    """processing -> ready | error."""

    PROCESSING = "processing"
    READY = "ready"
    ERROR = "error"


class InputColumns:
    """What teachers and data sets have in common."""

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    upload_id: Mapped[str] = mapped_column(String(40))
    """Of the upload; `preset:` and a name for a public data set; `url` for what a worker fetches."""
    filename: Mapped[str] = mapped_column(String(255))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    """Of the uploaded or fetched file; of a preset the digest of its files."""
    source_key: Mapped[str] = mapped_column(String(255))
    """The uploaded or fetched file in the store; empty until it is fetched, and for a preset, whose files lie where the
    operator put them; of a converted pickle what ``key`` says, since the upload is not kept."""
    key: Mapped[str | None] = mapped_column(String(255))
    """What trainers read, once ready."""
    status: Mapped[str] = mapped_column(String(16), default=InputStatus.PROCESSING)
    report: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    error: Mapped[dict[str, Any] | None] = mapped_column(Json)
    owner: Mapped[str | None] = mapped_column(String(200))
    fence: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[float | None] = mapped_column(Float(53))
    created_at: Mapped[datetime] = mapped_column(Utc, default=utcnow)
    ready_at: Mapped[datetime | None] = mapped_column(Utc)


class Teacher(InputColumns, Table):
    """Trained weights and the name of their architecture."""

    __tablename__ = "teachers"

    architecture: Mapped[str] = mapped_column(String(128))
    options: Mapped[dict[str, Any]] = mapped_column(Json, default=dict)
    num_classes: Mapped[int] = mapped_column()
    """0, as the channels, until a worker has looked into the file, where no header tells it before."""
    in_channels: Mapped[int] = mapped_column()
    classes: Mapped[list[str] | None] = mapped_column(Json)
    """Names in the order of the outputs, as the request or the file gives them."""
    preprocessing: Mapped[dict[str, Any]] = mapped_column(Json, default=dict, server_default="{}")
    """What the request says is done to images: a `distill.spec.TeacherPreprocessing`."""


class Dataset(InputColumns, Table):
    """Images, with labels or without; ``report`` holds classes, counts and statistics once ready."""

    __tablename__ = "datasets"

    format: Mapped[str] = mapped_column(String(16))
    url: Mapped[str | None] = mapped_column(Text)
    """Where a worker fetches it from, without query or credentials; None unless it was given by a URL."""
    fetch: Mapped[dict[str, Any] | None] = mapped_column(Json)
    """Of a URL: the ``request`` in full, which may be signed and is dropped with the last byte; the ``sha256`` that was
    announced; ``received`` and ``total`` bytes; ``etag``; ``claims`` that the fetching took."""
