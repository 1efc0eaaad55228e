"""Teachers and data sets: checked in outline at once, in full by a worker, then ready for any number of jobs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import ColumnElement, or_, select, update
from sqlalchemy import delete as delete_rows
from sqlalchemy.orm import Session

from distill.data.inspect import inspect_dataset
from distill.errors import DistillError, InputError
from distill.spec import TeacherTraits
from distill.traits import check_traits
from models import TERMINAL, Dataset, InputStatus, Job, Teacher, Upload, db_now, utcnow
from service import data_facts, data_overview, database, sources, teacher_files, uploads
from service.artifacts import store
from service.errors import Conflict, Fenced, Invalid, NotFound
from service.ids import new_id
from service.settings import settings

Input = Teacher | Dataset
Kind = TypeVar("Kind", Teacher, Dataset)


def create_teacher(upload_id: str, *, architecture: str | None, traits: TeacherTraits) -> Teacher:
    """Register trained weights under their architecture; names and shapes are compared before anything is stored.

    Args:
        architecture: None: what the upload says itself, as a folder with a config does.

    Raises:
        Invalid: unknown architecture, an incomplete upload, another format, weights that do not fit.
    """
    row = new_teacher(upload_id, architecture=architecture, traits=traits)
    with database.begin() as session:
        session.add(row)
    return row


def new_teacher(upload_id: str, *, architecture: str | None, traits: TeacherTraits, at: str = "") -> Teacher:
    """The checked row, not yet stored; ``at`` is the JSON pointer of the teacher in the request."""
    upload = uploads.completed(upload_id, purpose="teacher", at=at)
    key = uploads.source_key(upload)
    try:
        found = teacher_files.outline(store().local_path(key), architecture=architecture, options=traits.options, at=at)
        facts = found.facts
        if facts is not None:
            check_traits(traits, num_classes=facts.num_classes, in_channels=facts.in_channels, at=at)
    except InputError as error:
        error.param = error.param or f"{at}/upload_id"
        raise Invalid([error]) from error
    return Teacher(
        id=new_id("tch"),
        upload_id=upload.id,
        filename=upload.filename,
        size=upload.size,
        sha256=upload.sha256 or "",
        source_key=key,
        architecture=found.architecture,
        options=found.options.model_dump(mode="json"),
        classes=traits.classes or found.classes,
        preprocessing=traits.preprocessing.model_dump(mode="json"),
        num_classes=facts.num_classes if facts else 0,
        in_channels=facts.in_channels if facts else 0,
        report=found.report,
    )


def create_dataset(upload_id: str, *, format: str, max_broken_share: float | None = None) -> Dataset:
    """Register images; the file's structure is checked before anything is stored.

    Raises:
        Invalid: an incomplete upload, a format that is not read, a file that is cut short, unsafe or empty.
    """
    row = new_dataset(upload_id, format=format, max_broken_share=max_broken_share)
    with database.begin() as session:
        session.add(row)
    return row


def new_dataset(upload_id: str, *, format: str, max_broken_share: float | None = None, at: str = "") -> Dataset:
    """The checked row, not yet stored; ``at`` is the JSON pointer of the data set in the request."""
    upload = uploads.completed(upload_id, purpose="dataset", at=at)
    key = uploads.source_key(upload)
    try:
        found = inspect_dataset(store().local_path(key), format=format)
    except InputError as error:
        error.param = error.param or f"{at}/upload_id"
        raise Invalid([error]) from error
    return Dataset(
        id=new_id("ds"),
        upload_id=upload.id,
        filename=upload.filename,
        size=upload.size,
        sha256=upload.sha256 or "",
        source_key=key,
        format=found.format,
        report=data_facts.first_report(max_broken_share),
    )


def get(kind: type[Kind], input_id: str) -> Kind:
    """A teacher or a data set.

    Raises:
        NotFound: no such id.
    """
    with database.read() as session:
        row = session.get(kind, input_id)
    if row is None:
        raise _unknown(kind, input_id)
    return row


def _unknown(kind: type[Input], input_id: str) -> NotFound:
    name = kind.__name__.lower()
    return NotFound(f"No {name} {input_id!r}.", hint=f"GET /{name}s lists them.")


def listing(kind: type[Kind], *, limit: int, after: str | None) -> tuple[list[Kind], bool]:
    """Newest first, and whether there are more."""
    query = select(kind).order_by(kind.id.desc()).limit(limit + 1)
    if after:
        query = query.where(kind.id < after)
    with database.read() as session:
        rows = list(session.scalars(query))
    return rows[:limit], len(rows) > limit


def delete(kind: type[Input], input_id: str) -> None:
    """Remove an input and its files.

    Raises:
        NotFound: no such id.
        Conflict: a job refers to it.
    """
    with database.begin() as session:
        row = cast("Input | None", session.get(kind, input_id))
        if row is None:
            raise _unknown(kind, input_id)
        column = Job.teacher_id if kind is Teacher else Job.dataset_id
        live = session.scalar(select(Job.id).where(column == input_id, Job.status.not_in(TERMINAL)).limit(1))
        if live is not None:
            raise Conflict(f"Job {live!r} uses it.", hint="Cancel the job or wait for its end.")
        kept = session.scalar(select(Job.id).where(column == input_id).limit(1))
        if kept is not None:
            raise Conflict(f"Job {kept!r} was made from it.", hint="Delete that job first.")
        session.delete(row)
    for key in sources.keys(row):
        store().delete(key)
    if isinstance(row, Dataset) and row.key:
        data_overview.forget(row.key)


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A worker's hold on an input, until its lease is over or a later one is taken."""

    kind: type[Input]
    id: str
    fence: int


@dataclass(frozen=True, kw_only=True)
class Preparation(Hold):
    """A hold on an input that is to be checked in full."""

    tries: int
    """How often its checking was begun, this time included."""
    request: dict[str, Any]
    """What the checking process is told: paths and names."""


def claim_next(owner: str) -> Preparation | None:
    """Take the oldest input that is there and that no live worker prepares; None when there is none."""
    row: Input | None = claim(Teacher, owner)
    if row is None:
        row = claim(Dataset, owner, or_(Dataset.url.is_(None), Dataset.source_key != ""))
    if row is None:
        return None
    fetching = (row.fetch or {}).get("claims", 0) if isinstance(row, Dataset) else 0
    return Preparation(kind=type(row), id=row.id, fence=row.fence, tries=row.fence - fetching, request=_request(row))


def claim(kind: type[Kind], owner: str, *where: ColumnElement[bool]) -> Kind | None:
    """Take the oldest input of a kind that waits for a worker and satisfies conditions, with its lease."""
    free = or_(kind.lease_until.is_(None), kind.lease_until < db_now())
    oldest = (
        select(kind.id)
        .where(kind.status == InputStatus.PROCESSING, free, *where)
        .order_by(kind.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    with database.begin() as session:
        row: Kind | None = session.scalar(
            update(kind)
            .where(kind.id == oldest)
            .values(owner=owner, fence=kind.fence + 1, lease_until=db_now() + settings().lease_seconds)
            .returning(kind)
        )
    return row


def _request(row: Input) -> dict[str, Any]:
    request: dict[str, Any] = {"attempt": row.fence, "memory_bytes": settings().ingest_memory_bytes}
    if isinstance(row, Dataset):
        request |= {"kind": "dataset", "max_broken_share": data_facts.max_broken_share(row)}
        if (preset := sources.of(row).preset) is not None:
            return request | {"source": str(settings().resolved_presets_dir), "preset": preset, "sha256": row.sha256}
    if row.source_key:
        request["source"] = str(store().local_path(row.source_key))
    if isinstance(row, Teacher):
        request |= {"hub": row.report["hub"]} if "hub" in row.report else {}
        request |= {
            "kind": "teacher",
            "architecture": row.architecture,
            "options": row.options,
            "classes": row.classes,
            "preprocessing": row.preprocessing,
            "num_classes": row.num_classes,
            "in_channels": row.in_channels,
            "pickled": teacher_files.is_pickled(row.report),
            "folder": teacher_files.is_folder(row.report),
        }
    else:
        request["format"] = row.format
    return request


def ready(preparation: Preparation, *, report: dict[str, Any], packed: Path | None) -> None:
    """The input passed; ``packed`` is the file that trainers shall read, or None for the upload itself.

    What lies beside the packed file of a data set is kept with it. A pickle is not kept once it has been converted,
    and neither is its upload.

    Raises:
        Fenced: another worker took it over.
    """
    key = None
    if packed is not None:
        key = f"inputs/{preparation.id}-{preparation.fence}{packed.suffix}"
        data_overview.keep(packed, key=key)
        store().put(key, packed)
    report = dict(report)
    with database.begin() as session:
        row = held(session, preparation)
        row.status, row.ready_at = InputStatus.READY, utcnow()
        if isinstance(row, Teacher):
            row.architecture = report.pop("architecture", row.architecture)
            row.options = report.pop("options", row.options)
            row.num_classes = report.get("num_classes", row.num_classes)
            row.in_channels = report.get("in_channels", row.in_channels)
            row.classes = report.get("classes", row.classes)
            if "hub" in report:
                row.size, row.sha256 = report["hub"]["bytes"], _digest_of(report["hub"]["files"])
        row.report = {**row.report, **report}
        row.key = key or row.source_key
        spent = _spent(session, row) if key is not None else None
    if spent is not None:
        store().delete(spent)


def _digest_of(files: list[dict[str, Any]]) -> str:
    """SHA-256 in hex of the files of weights; of their list, as sha256sum writes it, where there are several."""
    weights = [file for file in files if file["name"].endswith(".safetensors")]
    if len(weights) == 1:
        return str(weights[0]["sha256"])
    return hashlib.sha256("".join(f"{file['sha256']}  {file['name']}\n" for file in weights).encode()).hexdigest()


def _spent(session: Session, row: Input) -> str | None:
    """Where the pickle lies of which only the safetensors are kept; None if there is none, or another waits for it."""
    if not teacher_files.is_pickled(row.report) or row.key is None:
        return None
    source, row.source_key = row.source_key, row.key
    others = (Teacher.source_key == source, Teacher.id != row.id, Teacher.status == InputStatus.PROCESSING)
    if session.scalar(select(Teacher.id).where(*others).limit(1)) is not None:
        return None
    session.execute(delete_rows(Upload).where(Upload.id == row.upload_id))
    return source


def failed(hold: Hold, error: DistillError) -> None:
    """The input cannot be used, and why.

    Raises:
        Fenced: another worker took it over.
    """
    with database.begin() as session:
        row = held(session, hold)
        row.status, row.error = InputStatus.ERROR, error.as_json()
        if isinstance(row, Dataset) and row.fetch is not None:
            row.fetch = {name: value for name, value in row.fetch.items() if name != "request"}


def renew(hold: Hold) -> None:
    """Keep the hold on an input that is still being worked on.

    Raises:
        Fenced: another worker took it over.
    """
    with database.begin() as session:
        row = held(session, hold)
        row.lease_until = (session.scalar(select(db_now())) or 0.0) + settings().lease_seconds


def release(hold: Hold) -> None:
    """Let the input be taken again at once.

    Raises:
        Fenced: another worker took it over.
    """
    with database.begin() as session:
        held(session, hold).lease_until = None


def held(session: Session, hold: Hold) -> Input:
    """The row, locked.

    Raises:
        Fenced: another worker took it over, or this one let go of it.
    """
    row = cast("Input | None", session.get(hold.kind, hold.id, with_for_update=True))
    if row is None or row.fence != hold.fence or row.status != InputStatus.PROCESSING or row.lease_until is None:
        raise Fenced(hold.id)
    return row


def is_held(kind: type[Input], input_id: str, *, fence: int) -> bool:
    """Whether a worker that took an input with this fence may still be at work on it."""
    waits = (kind.id == input_id, kind.fence == fence, kind.status == InputStatus.PROCESSING)
    with database.read() as session:
        return session.scalar(select(kind.id).where(*waits, kind.lease_until >= db_now())) is not None
