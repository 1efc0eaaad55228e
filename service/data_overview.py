"""What is shown of a ready data set beside its report: the preview, and everything that was skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distill.data.beside import PREVIEW, SKIPPED, SUFFIXES, read_skipped
from models import Dataset, InputStatus
from service.artifacts import store
from service.errors import NotFound


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A sheet of images."""

    content: bytes
    content_type: str
    sha256: str


def keep(packed: Path, *, key: str) -> None:
    """Store what lies beside a packed file, beside the key that the file itself will have."""
    for suffix in SUFFIXES:
        beside = packed.with_suffix(suffix)
        if beside.exists():
            store().put(_beside(key, suffix), beside)


def forget(key: str) -> None:
    """Remove what lies beside a key, if anything does."""
    for suffix in SUFFIXES:
        store().delete(_beside(key, suffix))


def preview(row: Dataset) -> Preview:
    """The sheet of a data set.

    Raises:
        NotFound: there is none, or none yet.
    """
    _check_ready(row, "preview")
    try:
        facts = row.report["preview"]
        content = b"".join(store().read(_beside(row.key or "", PREVIEW)))
    except (KeyError, FileNotFoundError):
        message = f"Data set {row.id!r} has no preview: an earlier version of the service read it."
        raise NotFound(message, hint="Register the upload again.") from None
    return Preview(content=content, content_type=facts["content_type"], sha256=facts["sha256"])


def skipped(row: Dataset, *, after: int = 0, limit: int | None = None) -> Iterator[dict[str, str]]:
    """What was left out, with ``path`` and ``reason``, behind the first ``after``.

    Raises:
        NotFound: the data set is not ready.
    """
    _check_ready(row, "list of what was skipped")
    try:
        path = store().local_path(_beside(row.key or "", SKIPPED))
    except FileNotFoundError:
        # Nothing was skipped; or an earlier version read it, and the report has all that was kept.
        listed: list[dict[str, str]] = row.report.get("skipped", [])
        return iter(listed[after:][:limit])
    return read_skipped(path, after=after, limit=limit)


def _check_ready(row: Dataset, what: str) -> None:
    if row.status == InputStatus.PROCESSING:
        hint = f"It comes when a worker has read the images; watch GET /datasets/{row.id}."
        raise NotFound(f"Data set {row.id!r} has no {what} yet.", hint=hint)
    if row.status == InputStatus.ERROR:
        hint = "Its error says what is wrong with the file."
        raise NotFound(f"Data set {row.id!r} has no {what}: it could not be read.", hint=hint)


def _beside(key: str, suffix: str) -> str:
    return str(PurePosixPath(key).with_suffix(suffix))
