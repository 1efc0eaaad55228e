"""What Pydantic found wrong with a request, told by JSON pointers into the body that was sent."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from api.problems import CODES, Flaw

_BOUNDS = "GET /docs tells what may stand here, with bounds and defaults."
_CODES = {"missing": "missing_field", "extra_forbidden": "unknown_field", "union_tag_not_found": "missing_field"}


@cache
def body_model(endpoint: Any) -> type[BaseModel] | None:
    """The Pydantic class of a route's body, if it has one."""
    if endpoint is None:
        return None
    hints = [_bare(hint) for hint in get_type_hints(endpoint).values()]
    members = [member for hint in hints for member in (hint, *_members(hint))]
    return next((m for m in members if isinstance(m, type) and issubclass(m, BaseModel)), None)


def flaws_of(errors: Sequence[Mapping[str, Any]], *, model: type[BaseModel] | None) -> list[Flaw]:
    """One flaw per place; what the members of a union each complain about is told in one sentence."""
    flaws: dict[tuple[str | None, str | None], Flaw] = {}
    for error in errors:
        flaw = _flaw(error, model)
        place = (flaw.pointer, flaw.parameter)
        if place not in flaws:
            flaws[place] = flaw
        elif flaw.detail not in flaws[place].detail:
            flaws[place].detail += ", or: " + flaw.detail[:1].lower() + flaw.detail[1:]
    return list(flaws.values())


def _flaw(error: Mapping[str, Any], model: type[BaseModel] | None) -> Flaw:
    kind, place = error["type"], error["loc"]
    detail = error["msg"].removeprefix("Value error, ")
    flaw = Flaw(code=kind if kind in CODES else _CODES.get(kind, "invalid_value"), detail=detail, hint=_BOUNDS)
    if kind in CODES:  # one of ours, told by way of pydantic
        flaw.hint, flaw.did_you_mean = error["ctx"]["hint"], error["ctx"]["did_you_mean"]
    if place[0] != "body":
        flaw.parameter = str(place[-1])
        return flaw
    steps, holder = _walk(model, place[1:])
    if kind.startswith("union_tag") and "discriminator" in error.get("ctx", {}):
        steps.append(error["ctx"]["discriminator"].strip("'"))
    flaw.pointer = "".join(f"/{_escape(step)}" for step in steps)
    if kind == "extra_forbidden":
        _explain_unknown(flaw, str(place[-1]), holder)
    elif kind == "union_tag_invalid":
        flaw.detail = f"{error['ctx']['tag']!r} is not one of {error['ctx']['expected_tags']}"
        expected = [tag.strip(" '") for tag in error["ctx"]["expected_tags"].split(",")]
        flaw.did_you_mean = difflib.get_close_matches(error["ctx"]["tag"], expected)
        flaw.hint = "GET /methods lists what there is."
    elif kind == "missing" and not steps:
        flaw.hint = "Send a JSON body with Content-Type: application/json."
    return flaw


def _explain_unknown(flaw: Flaw, name: str, holder: type[BaseModel] | None) -> None:
    allowed = sorted(holder.model_fields) if holder is not None else []
    flaw.detail = f"There is no field {name[:80]!r} here"
    flaw.did_you_mean = difflib.get_close_matches(name, allowed, n=3)
    flaw.hint = f"Known here: {', '.join(allowed)}." if allowed else "Leave it out."


def _walk(model: type[BaseModel] | None, place: Sequence[int | str]) -> tuple[list[str], type[BaseModel] | None]:
    """The steps that exist in the sent JSON, and the class that holds the last one.

    Pydantic's places also name the members of unions that it tried; those are not in the JSON.
    """
    steps: list[str] = []
    at: Any = model
    holder: type[BaseModel] | None = None
    for part in place:
        at = _bare(at)
        members = [member for member in _members(at) if member is not types.NoneType]
        if len(members) == 1:  # what may be left out: no member is named in the place
            at, members = members[0], []
        if members:
            at = next((m for m in members if _has_tag(m, part)), None)
            if at is None:
                break
        elif isinstance(at, type) and issubclass(at, BaseModel):
            holder = at
            steps.append(str(part))
            field = at.model_fields.get(str(part))
            at = field.annotation if field is not None else None
        elif part == "[key]":
            break
        else:
            steps.append(str(part))
            inner = get_args(at)
            at = inner[-1] if inner else None
    return steps, holder


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return tuple(_bare(member) for member in get_args(annotation)) if is_union else ()


def _has_tag(member: Any, tag: int | str) -> bool:
    if not (isinstance(member, type) and issubclass(member, BaseModel)):
        return False
    annotations = [field.annotation for field in member.model_fields.values()]
    return any(get_origin(a) is Literal and tag in get_args(a) for a in annotations)


def _escape(step: str) -> str:
    return step.replace("~", "~0").replace("/", "~1")
