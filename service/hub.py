"""Teachers by their name on a model hub: what a name means; a worker fetches what it names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from distill.architectures import AUTO
from distill.errors import InputError
from distill.spec import TeacherTraits
from models import Teacher
from service import database, teacher_files
from service.errors import Invalid
from service.ids import new_id
from service.settings import settings

_PART = "[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(f"(?:hf-hub:(?P<owner>{_PART})/|timm:)(?P<name>{_PART})(?:@(?P<revision>.+))?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_MARK = "hub"
MAIN = "main"


@dataclass(frozen=True, kw_only=True)
class HubName:
    """A repository, ``owner/name``, and a branch, a tag or a commit of it."""

    repository: str
    revision: str


def parse(name: str, *, revision: str | None, at: str = "") -> HubName:
    """Read a name in timm's vocabulary: ``hf-hub:owner/name``, ``timm:name``; both may end in ``@revision``.

    Args:
        name: as the request has it.
        revision: as the request has it beside the name.
        at: JSON pointer of the teacher in the request.

    Raises:
        InputError: ``invalid_value``.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(
            "invalid_value",
            f"{name[:80]!r} is no name of a network on a hub.",
            hint="Write hf-hub:owner/name, or timm:name as in timm:resnet18.a1_in1k.",
            param=f"{at}/hub",
        )
    if revision is not None and found["revision"] is not None:
        message = f"The name has a revision, {found['revision'][:40]!r}, and the request another."
        raise InputError("invalid_value", message, hint="Give one of them.", param=f"{at}/revision")
    chosen = revision or found["revision"] or MAIN
    if len(chosen) > 200 or not _REVISION.fullmatch(chosen):
        raise InputError(
            "invalid_value",
            f"{chosen[:80]!r} is no branch, tag or commit.",
            hint="Leave revision out for main.",
            param=f"{at}/revision" if revision is not None else f"{at}/hub",
        )
    return HubName(repository=f"{found['owner'] or 'timm'}/{found['name']}", revision=chosen)


def create_teacher(name: str, *, revision: str | None, traits: TeacherTraits) -> Teacher:
    """Register a network on a hub, for a worker to fetch.

    Raises:
        Invalid: the name is none, or the operator lets nothing be fetched.
    """
    row = new_teacher(name, revision=revision, traits=traits)
    with database.begin() as session:
        session.add(row)
    return row


def new_teacher(name: str, *, revision: str | None, traits: TeacherTraits, at: str = "") -> Teacher:
    """The row, not yet stored; ``at`` is the JSON pointer of the teacher in the request."""
    try:
        check_allowed(param=f"{at}/hub")
        found = parse(name, revision=revision, at=at)
        if traits.options != TeacherTraits().options:
            message = "A network on a hub says its options itself."
            raise InputError("invalid_value", message, hint="Leave them out.", param=f"{at}/options")
    except InputError as error:
        raise Invalid([error]) from error
    return Teacher(
        id=new_id("tch"),
        upload_id=_MARK,
        filename=f"hf-hub:{found.repository}",
        size=0,
        sha256="",
        source_key="",
        architecture=AUTO,
        options=traits.options.model_dump(mode="json"),
        classes=traits.classes,
        preprocessing=traits.preprocessing.model_dump(mode="json"),
        num_classes=0,
        in_channels=0,
        report={
            **teacher_files.unread_folder(),
            "hub": {"repository": found.repository, "revision": found.revision},
        },
    )


def origin_of(row: Teacher) -> dict[str, Any] | None:
    """``repository``, ``revision`` and, once it was fetched, ``commit``; None for a teacher that was uploaded."""
    found: dict[str, Any] | None = row.report.get("hub") if row.upload_id == _MARK else None
    return found


def check_allowed(*, param: str | None = None) -> None:
    """Whether the operator lets this process fetch from a hub.

    Raises:
        InputError: ``invalid_value``.
    """
    if not settings().hub_url:
        raise InputError(
            "invalid_value",
            "This service fetches nothing from a hub.",
            hint="Send the repository's folder as a zip, or have the operator set LIMBECK_HUB_URL.",
            param=param,
        )
