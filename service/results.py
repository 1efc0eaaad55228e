"""What a job made: files in the store, their rows, and the promise that the bytes are the ones that were hashed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select

from distill.files import sha256_of
from models import HELD, Artifact, Job, JobEvent, utcnow
from service import database
from service.artifacts import store
from service.errors import Fenced, NotFound

STUDENT = "student.safetensors"
"""The artifact that every job has which finished an epoch."""


def keep(job_id: str, *, fence: int, name: str, path: Path, content_type: str) -> Artifact:
    """Store a file as the job's artifact, in the place of an earlier one of that name.

    Raises:
        Fenced: the job is another attempt's, or ended; the row was not changed.
    """
    digest = sha256_of(path)
    # The key holds the hash: a writer that lost its job cannot touch the bytes of its successor.
    key = f"jobs/{job_id}/{digest[:16]}-{name}"
    size, stored = store().put(key, path)
    with database.begin() as session:
        job = session.scalar(
            select(Job).where(Job.id == job_id, Job.fence == fence, Job.status.in_(HELD)).with_for_update()
        )
        if job is None:
            raise Fenced(job_id)
        earlier = session.get(Artifact, (job_id, name))
        old_key = earlier.key if earlier is not None else None
        row = session.merge(
            Artifact(
                job_id=job_id,
                name=name,
                key=key,
                size=size,
                sha256=stored,
                content_type=content_type,
                fence=fence,
                created_at=utcnow(),
            )
        )
        job.last_seq += 1
        job.version += 1
        said = {"name": name, "size": size, "sha256": stored}
        session.add(JobEvent(job_id=job_id, seq=job.last_seq, type="artifact", fence=fence, data=said))
    if old_key is not None and old_key != key:
        store().delete(old_key)
    return row


def verify(job_id: str) -> None:
    """Read every artifact of a job back and compare its hash.

    Raises:
        OSError: bytes are missing or differ.
    """
    for row in listing(job_id):
        if sha256_of(store().local_path(row.key)) != row.sha256:
            raise OSError(f"artifact {row.name!r} of {job_id} is damaged in the store")


def listing(job_id: str) -> Sequence[Artifact]:
    """The job's artifacts by name."""
    with database.read() as session:
        return session.scalars(select(Artifact).where(Artifact.job_id == job_id).order_by(Artifact.name)).all()


def get(job_id: str, *, name: str) -> Artifact:
    """One artifact.

    Raises:
        NotFound: the job has none of that name (yet).
    """
    with database.read() as session:
        row = session.get(Artifact, (job_id, name))
    if row is None:
        raise NotFound(
            f"Job {job_id!r} has no artifact {name!r}.",
            hint="A student is there from the first finished epoch on; GET the job's artifacts for what there is.",
        )
    return row
