"""Public data sets by name, from the operator's own files: registered once for each state of the files."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from distill.data import presets
from distill.data.inspect import inspect_source
from distill.data.presets import Preset
from distill.errors import InputError
from models import Dataset, InputStatus
from service import database, sources
from service.data_facts import first_report
from service.data_facts import max_broken_share as share_of
from service.errors import Invalid
from service.ids import new_id
from service.settings import settings


@dataclass(frozen=True, kw_only=True)
class PresetState:
    """A preset, and whether jobs may name it now."""

    preset: Preset
    in_place: bool


def listing() -> list[PresetState]:
    """All presets."""
    root = settings().resolved_presets_dir
    return [PresetState(preset=p, in_place=presets.is_in_place(p, root)) for p in presets.PRESETS.values()]


def create_dataset(name: str, *, format: str, max_broken_share: float | None = None) -> tuple[Dataset, bool]:
    """Register a preset, or find it registered; the row, and whether it is new.

    Raises:
        Invalid: no such preset, or its files are not in place or not sound.
    """
    row = new_dataset(name, format=format, max_broken_share=max_broken_share)
    with database.begin() as session:
        earlier = same(session, row)
        if earlier is None:
            session.add(row)
    return earlier or row, earlier is None


def new_dataset(name: str, *, format: str, max_broken_share: float | None = None, at: str = "") -> Dataset:
    """The checked row, not yet stored; ``at`` is the JSON pointer of the data set in the request."""
    try:
        preset = presets.by_name(name)
        tree = presets.open_preset(preset, settings().resolved_presets_dir)
        found = inspect_source(tree, format=format)
        digest = presets.digest(preset, tree)
    except InputError as error:
        error.param = error.param or f"{at}/preset"
        raise Invalid([error]) from error
    return Dataset(
        id=new_id("ds"),
        upload_id=sources.of_preset(name),
        filename=name,
        size=tree.size,
        sha256=digest,
        source_key="",
        format=found.format,
        report=first_report(max_broken_share),
        status=InputStatus.PROCESSING,
    )


def same(session: Session, row: Dataset) -> Dataset | None:
    """The oldest data set that was made of the same files in the same way and did not fail."""
    made = session.scalars(
        select(Dataset)
        .where(Dataset.upload_id == row.upload_id, Dataset.sha256 == row.sha256, Dataset.status != InputStatus.ERROR)
        .order_by(Dataset.id)
    )
    return next((other for other in made if share_of(other) == share_of(row)), None)
