"""Data sets by URL: taken in unseen, fetched by a worker, and from then on as if they had been uploaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from distill.data.inspect import inspect_dataset
from distill.errors import InputError
from distill.files import NO_ROOM
from distill.spec import public_part
from models import Dataset, InputStatus
from service import database, egress, inputs, sources, uploads
from service.artifacts import store
from service.data_facts import first_report
from service.errors import Invalid, TooLarge
from service.ids import new_id
from service.inputs import Hold
from service.settings import settings

_UPLOAD = "Upload the file instead."


def create_dataset(url: str, *, sha256: str | None, format: str, max_broken_share: float | None = None) -> Dataset:
    """Register what lies behind a URL; nothing is asked of its host yet.

    Raises:
        Invalid: the URL breaks a rule, or the operator does not let it be fetched.
    """
    row = new_dataset(url, sha256=sha256, format=format, max_broken_share=max_broken_share)
    with database.begin() as session:
        session.add(row)
    return row


def new_dataset(
    url: str, *, sha256: str | None, format: str, max_broken_share: float | None = None, at: str = ""
) -> Dataset:
    """The row, not yet stored; ``at`` is the JSON pointer of the data set in the request."""
    try:
        check_url(url)
    except InputError as error:
        error.param = f"{at}/url"
        raise Invalid([error]) from error
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    return Dataset(
        id=new_id("ds"),
        upload_id=sources.FETCHED,
        filename=name[:255] if name.isprintable() and name else "data",
        size=0,
        sha256="",
        source_key="",
        format=format,
        report=first_report(max_broken_share),
        status=InputStatus.PROCESSING,
        url=public_part(url),
        fetch={"request": url, "sha256": sha256 and sha256.lower(), "received": 0, "total": None},
    )


def check_url(url: str) -> None:
    """Whether this machine's operator lets a URL be fetched: workers have settings of their own.

    Raises:
        InputError: ``invalid_value``, and why not.
    """
    if (place := bucket_of(url)) is not None:
        _check_bucket(*place)
    elif settings().remote_sources == "none":
        hint = f"{_UPLOAD} The operator sets LIMBECK_REMOTE_SOURCES."
        raise InputError("invalid_value", "This service fetches nothing by https.", hint=hint)
    else:
        egress.check_url(url, egress.policy())


def bucket_of(url: str) -> tuple[str, str] | None:
    """Bucket and key of an ``s3://`` URL; None for another one."""
    if url[:5].lower() != "s3://":
        return None
    bucket, _, key = url[5:].partition("/")
    return bucket, key


def _check_bucket(bucket: str, key: str) -> None:
    if not key or not key.isprintable() or "?" in key or "#" in key or len(key.encode()) > 1024:
        hint = "Neither query nor fragment, and at most 1,024 bytes of key."
        raise InputError("invalid_value", "This is no s3://bucket/key.", hint=hint)
    if bucket not in settings().remote_buckets.replace(",", " ").split():
        hint = f"{_UPLOAD} The operator lists buckets in LIMBECK_REMOTE_BUCKETS."
        name = public_part(f"s3://{bucket}")
        raise InputError("invalid_value", f"{name[:100]!r} is not a bucket that is read here.", hint=hint)


@dataclass(frozen=True, kw_only=True)
class Fetch(Hold):
    """A worker's hold on a data set that is to be fetched."""

    url: str
    """In full."""
    sha256: str | None
    format: str
    room: int
    """Bytes that it may have: of one upload, and of what is left of the quota."""

    @property
    def code(self) -> str:
        """Of the refusal of more bytes."""
        return "too_large" if self.room == settings().max_upload_bytes else "quota_exceeded"


def claim_next(owner: str) -> Fetch | None:
    """Take the oldest data set that is to be fetched and that no live worker fetches; None when there is none."""
    row = inputs.claim(Dataset, owner, Dataset.url.is_not(None), Dataset.source_key == "")
    if row is None:
        return None
    asked = row.fetch or {}
    with database.read() as session:
        left = settings().upload_quota_bytes - uploads.bytes_held(session, but=row.id)
    return Fetch(
        kind=Dataset,
        id=row.id,
        fence=row.fence,
        url=asked["request"],
        sha256=asked["sha256"],
        format=row.format,
        room=max(0, min(left, settings().max_upload_bytes)),
    )


def progress(fetch: Fetch, *, received: int, total: int | None) -> None:
    """Tell how far it is; from here on the quota counts it.

    Raises:
        Fenced: another worker took it over.
    """
    with database.begin() as session:
        row = _row(inputs.held(session, fetch))
        row.fetch = {**(row.fetch or {}), "received": received, "total": total}
        row.size = max(received, total or 0)


def arrived(fetch: Fetch, path: Path, found: dict[str, Any]) -> None:
    """Keep what was fetched, or say why it is none: a data set is from here on prepared as an upload is.

    Args:
        fetch: the hold.
        path: the file.
        found: its ``sha256``, ``size`` in bytes and ``etag``.

    Raises:
        Fenced: another worker took it over.
    """
    try:
        format = inspect_dataset(path, format=fetch.format).format
    except InputError as error:
        inputs.failed(fetch, error)
        return
    with database.begin() as session:
        key = sources.fetched_key(_row(inputs.held(session, fetch)), fence=fetch.fence)
    try:
        store().put(key, path)
        with database.begin() as session:
            row = _row(inputs.held(session, fetch))
            uploads.check_quota(session, found["size"], but=row.id)
            row.source_key, row.format = key, format
            row.size, row.sha256 = found["size"], found["sha256"]
            row.fetch = {
                "sha256": fetch.sha256,
                "received": row.size,
                "total": row.size,
                "etag": found["etag"],
                "claims": row.fence,
            }
            row.lease_until = None
    except BaseException as error:
        store().delete(key)
        if isinstance(error, TooLarge):
            inputs.failed(fetch, InputError(error.code, error.detail, hint=error.hint))
            return
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            full = InputError("storage_full", "There is no room to keep the file.", hint="Make room, then try again.")
            inputs.failed(fetch, full)
            return
        raise
    for spare in sources.keys(row) - {key}:
        store().delete(spare)


def _row(row: inputs.Input) -> Dataset:
    assert isinstance(row, Dataset)
    return row
