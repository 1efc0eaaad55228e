"""A sweep's life: checked as a whole, stored as a whole, cancelled as a whole; its jobs are ordinary ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from distill.errors import DistillError, InputError
from distill.spec import DistillSpec
from models import TERMINAL, Job, Sweep
from service import database, plans, wishes
from service.errors import Invalid, NotFound
from service.idempotency import digest_of, replay
from service.ids import new_id
from service.intake import new_job, take_in
from service.plans import Plan
from service.sweep_spec import Candidate, SweepSpec, labels_of

MAX_ERRORS = 1000
"""What is wrong with one value is wrong with many jobs; somewhere there is enough of it."""


@dataclass(frozen=True, kw_only=True)
class Child:
    """A job that a sweep asks for, valid in itself."""

    candidate: Candidate
    spec: DistillSpec


@dataclass(frozen=True, kw_only=True)
class PlannedChild:
    """A job that fits its inputs."""

    child: Child
    plan: Plan


def submit(
    sweep: SweepSpec,
    children: Sequence[Child],
    *,
    wrong: Sequence[DistillError] = (),
    idempotency_key: str | None = None,
) -> Sweep:
    """Accept a sweep: its row and all its jobs with their messages in one transaction, or nothing.

    Args:
        sweep: the request.
        children: the jobs that it asks for.
        wrong: what was found when they were read; told together with what their inputs add to it.
        idempotency_key: the same key and request is the same sweep.

    Raises:
        Invalid: everything that is wrong, or the idempotency key came with another body.
    """
    digest = digest_of(sweep)
    try:
        return _submit(sweep, children, wrong, idempotency_key, digest)
    except IntegrityError:
        # As for a job: meanwhile a twin came, or an input was deleted, and the second look finds either.
        return _submit(sweep, children, wrong, idempotency_key, digest)


def _submit(
    sweep: SweepSpec, children: Sequence[Child], wrong: Sequence[DistillError], key: str | None, digest: str
) -> Sweep:
    with database.read() as session:
        if (earlier := _earlier(session, key)) is not None:
            return replay(earlier, digest=digest)
    planned = plan(children, wrong=wrong)
    row = Sweep(
        id=new_id("sw"),
        name=sweep.name,
        base=sweep.base,
        axes=[
            {"path": axis.path, "values": axis.values, "labels": labels}
            for axis, labels in zip(sweep.axes, labels_of(sweep), strict=True)
        ],
        labels=sweep.metadata,
        idempotency_key=key,
        idempotency_digest=digest if key else None,
    )
    entries = [
        (new_job(each.child.spec, each.plan, sweep_id=row.id, point=each.child.candidate.point), each.plan)
        for each in planned
    ]
    with database.begin() as session:
        if (earlier := _earlier(session, key)) is not None:
            return replay(earlier, digest=digest)
        session.add(row)
        take_in(session, entries)
    return row


def plan(children: Sequence[Child], *, wrong: Sequence[DistillError] = ()) -> list[PlannedChild]:
    """Hold every job against its inputs; nothing is stored.

    An input that is deleted between this and storing is found by the database; one whose checks end in between
    is found by the sweeper, as for any job that waits for its inputs.

    Raises:
        Invalid: everything that is wrong with any of them, in places of the sweep's body, each thing once.
    """
    errors = list(wrong)
    planned: list[PlannedChild] = []
    seen: plans.Seen = {}
    brought = [plans.bring(child.spec, seen=seen) for child in children]
    with database.read() as session:
        for child, inputs in zip(children, brought, strict=True):
            try:
                _refuse_signed_url(child.spec)
                found = plans.make(session, child.spec, brought=inputs)
            except Invalid as invalid:
                errors = distinct([*errors, *map(child.candidate.blame, invalid.errors)])
                continue
            planned.append(PlannedChild(child=child, plan=found))
    if errors:
        raise Invalid(errors)
    return planned


def _refuse_signed_url(spec: DistillSpec) -> None:
    """A sweep keeps and shows its body and makes names of its values: no place for what may be a signature."""
    if "?" in (spec.dataset.url or ""):
        message, hint = "A sweep takes no URL with a query.", "POST it to /datasets, and give the id of that."
        raise Invalid([InputError("invalid_value", message, hint=hint, param="/dataset/url")])


def distinct(errors: Iterable[DistillError]) -> list[DistillError]:
    """Each thing once: what is wrong with the base is wrong with every job."""
    kept: dict[tuple[str | None, str, str], DistillError] = {}
    for error in errors:
        kept.setdefault((error.param, error.code, error.message), error)
    return list(kept.values())


def cancel(sweep_id: str) -> int:
    """Cancel all jobs of a sweep that have not ended, at once; how many.

    Raises:
        NotFound: no such sweep.
    """
    with database.begin() as session:
        if session.get(Sweep, sweep_id) is None:
            raise NotFound(f"No sweep {sweep_id!r}.", hint="GET /distill/sweep lists the sweeps.")
        unfinished = session.scalars(
            select(Job).where(Job.sweep_id == sweep_id, Job.status.not_in(TERMINAL)).order_by(Job.id).with_for_update()
        ).all()
        for job in unfinished:
            wishes.ask_to_end(session, job)
    return len(unfinished)


def _earlier(session: Session, key: str | None) -> Sweep | None:
    return session.scalar(select(Sweep).where(Sweep.idempotency_key == key)) if key is not None else None
