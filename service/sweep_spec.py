"""What a sweep is asked for: one request, the axes along which it varies, and the requests that this makes."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, field_validator

from distill.errors import DistillError, InputError
from distill.method_specs import Spec
from distill.spec import public_part
from service.errors import Invalid

MAX_CHILDREN = 500
_MAX_DEPTH = 32
_MAX_NAME = 200
_MAX_LABEL = 100
_MAX_VALUE = 4096
"""Characters as JSON: every job of the sweep keeps its values."""


class Axis(Spec):
    """One thing that varies."""

    path: str = Field(max_length=200, pattern=r"^(/([^~/]|~[01])+)+$")
    """JSON pointer into the body of POST /distill, such as `/method`; what is there is replaced."""
    values: list[Any] = Field(min_length=1, max_length=MAX_CHILDREN)
    labels: list[Annotated[str, Field(min_length=1, max_length=_MAX_LABEL)]] | None = None
    """What the table and the jobs' names call each value; else made from the values."""

    @field_validator("values")
    @classmethod
    def _can_be_stored(cls, values: list[Any]) -> list[Any]:
        _check_json(values)
        if any(len(_text(value)) > _MAX_VALUE for value in values):
            raise ValueError(f"a value is longer than {_MAX_VALUE} characters of JSON")
        return values


class SweepSpec(Spec):
    """The body of POST /distill/sweep: a job for every combination of the axes' values, at most 500."""

    name: str = Field(default="", max_length=_MAX_NAME)
    base: dict[str, Any]
    """The body of POST /distill; what an axis brings may be missing."""
    axes: list[Axis] = Field(min_length=1, max_length=8)
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default={}, max_length=16
    )
    """Of the sweep; that of its jobs is in the base."""

    @field_validator("base")
    @classmethod
    def _can_be_stored(cls, base: dict[str, Any]) -> dict[str, Any]:
        _check_json(base)
        return base


def _check_json(value: Any, *, depth: int = 0) -> None:
    """Refuse what parses as JSON but cannot be stored and read again as such."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("NaN and infinity are no numbers of JSON")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("half a surrogate pair is no character") from error
    parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    if isinstance(parts, list):
        for part in parts:
            _check_json(part, depth=depth + 1)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A job that the sweep asks for: its body, not yet validated."""

    sweep: SweepSpec
    indices: tuple[int, ...]
    """Which value of each axis."""
    point: list[dict[str, Any]]
    """``path``, ``label`` and ``value`` of each axis."""
    body: dict[str, Any]

    def blame(self, error: DistillError) -> InputError:
        """The same error, told of the sweep's body: of the value that brought it, or of the base.

        ``details`` hold where it is in the job's body, and which job that is.
        """
        pointer = error.param or ""
        where, inner = f"/base{pointer}", ""
        for number, axis in enumerate(self.sweep.axes):  # the last that covers it has put it there
            if pointer == axis.path or pointer.startswith(f"{axis.path}/"):
                where, inner = f"/axes/{number}/values/{self.indices[number]}", pointer[len(axis.path) :]
        return InputError(
            error.code,
            f"{inner}: {error.message}" if inner else error.message,
            hint=error.hint,
            param=where,
            details={**error.details, "pointer": pointer, "point": {p["path"]: p["label"] for p in self.point}},
            did_you_mean=error.did_you_mean,
        )


def expand(sweep: SweepSpec) -> Iterator[Candidate | InputError]:
    """The jobs in their order, the last axis varying fastest; an error in the place of one that cannot be made.

    Raises:
        Invalid: the axes do not fit each other, or make too many jobs.
    """
    _check_axes(sweep)
    labels = labels_of(sweep)
    for indices in itertools.product(*(range(len(axis.values)) for axis in sweep.axes)):
        body = sweep.base
        point = []
        try:
            for number, (axis, index) in enumerate(zip(sweep.axes, indices, strict=True)):
                body = _replaced(body, _tokens(axis.path), axis.values[index], at=f"/axes/{number}/path")
                point.append({"path": axis.path, "label": labels[number][index], "value": axis.values[index]})
        except InputError as error:
            yield error
            continue
        if isinstance(body.get("name", ""), str):
            body = {**body, "name": _name(sweep, point)}
        yield Candidate(sweep=sweep, indices=indices, point=point, body=body)


def _check_axes(sweep: SweepSpec) -> None:
    errors = [error for number in range(len(sweep.axes)) for error in _flaws(sweep.axes, number)]
    count = math.prod(len(axis.values) for axis in sweep.axes)
    if count > MAX_CHILDREN:
        message = f"The axes make {count} jobs; a sweep has at most {MAX_CHILDREN}."
        errors.append(InputError("invalid_value", message, param="/axes", hint="Split it into several sweeps."))
    if errors:
        raise Invalid(errors)


def _flaws(axes: Sequence[Axis], number: int) -> Iterator[InputError]:
    axis, here = axes[number], f"/axes/{number}"
    if axis.path == "/name":
        message = "Jobs of a sweep are named by its axes."
        yield InputError("invalid_value", message, param=f"{here}/path", hint="Give the sweep a name instead.")
    for later in axes[number + 1 :]:
        if axis.path == later.path or axis.path.startswith(f"{later.path}/"):
            message = f"What it brings is replaced by the later axis {later.path!r}."
            hint = "Each axis needs a path of its own; the axis of the whole comes before that of a part."
            yield InputError("invalid_value", message, param=f"{here}/path", hint=hint)
    if axis.labels is not None and len(axis.labels) != len(axis.values):
        message = f"There are {len(axis.labels)} labels for {len(axis.values)} values."
        yield InputError("invalid_value", message, param=f"{here}/labels", hint="Give one for each value, or none.")
    for name, told in (("values", [_text(value) for value in axis.values]), ("labels", axis.labels or [])):
        for index, text in enumerate(told):
            if text in told[:index]:
                message = f"The same as number {told.index(text)}."
                yield InputError("invalid_value", message, param=f"{here}/{name}/{index}", hint="Leave it out.")


def _replaced(node: Any, tokens: Sequence[str], value: Any, *, at: str) -> Any:
    """A copy with the value in its place; only what lies on the way is copied, the rest is shared."""
    if not tokens:
        return value
    token, rest = tokens[0], tokens[1:]
    if isinstance(node, dict):
        return {**node, token: _replaced(node.get(token, {} if rest else None), rest, value, at=at)}
    if isinstance(node, list) and token.isdecimal() and int(token) < len(node):
        index = int(token)
        return [*node[:index], _replaced(node[index], rest, value, at=at), *node[index + 1 :]]
    what = "list has no such place" if isinstance(node, list) else f"{_text(node)[:60]} has no parts"
    message = f"The path leads nowhere at {token!r}: the {what}."
    raise InputError("invalid_value", message, param=at, hint="Take a JSON pointer to a place in `base`.")


def _tokens(path: str) -> list[str]:
    return [token.replace("~1", "/").replace("~0", "~") for token in path.split("/")[1:]]


# ---------------------------------------------------------------- names


def labels_of(sweep: SweepSpec) -> list[list[str]]:
    """What each value of each axis is called, given or made; different values have different labels."""
    return [list(axis.labels) if axis.labels is not None else _labels(axis.values) for axis in sweep.axes]


def _labels(values: Sequence[Any]) -> list[str]:
    # The first wording that tells all values apart, from the shortest on.
    for words in (_short, _long):
        labels = [words(value)[:_MAX_LABEL] for value in values]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label[: _MAX_LABEL - 5]} #{index}" for index, label in enumerate(labels)]


def _short(value: Any) -> str:
    """A method, a network or an input by its name, anything else as JSON."""
    if isinstance(value, Mapping):
        named = (value.get(key) for key in ("type", "architecture", "id", "preset", "url"))
        name = next((name for name in named if isinstance(name, str) and name), _text(value))
        return public_part(name) if name == value.get("url") else name
    return value if isinstance(value, str) and value else _text(value)


def _long(value: Any) -> str:
    """Its name, and everything else that is said: ``srrl feature_weight=1``."""
    if not isinstance(value, Mapping):
        return _text(value)
    name = _short(value)
    said = [f"{path.rsplit('.', 1)[-1]}={text}" for path, text in _leaves(value) if text != name]
    return " ".join([name, *said])


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}")
    else:
        yield path, value if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _name(sweep: SweepSpec, point: Sequence[Mapping[str, Any]]) -> str:
    """``compare · srrl · seed 0``; when that is too long, the sweep's own name is cut."""
    given = sweep.base.get("name")
    head = sweep.name or (given if isinstance(given, str) else "")
    tail = "".join(f" · {_told(coordinate)}" for coordinate in point)
    return (head[: max(0, _MAX_NAME - len(tail))] + tail).removeprefix(" · ")[:_MAX_NAME]


def _told(coordinate: Mapping[str, Any]) -> str:
    label, value = str(coordinate["label"]), coordinate["value"]
    says_nothing_alone = label == _text(value) and not isinstance(value, str | Mapping)
    return f"{_tokens(coordinate['path'])[-1]} {label}" if says_nothing_alone else label
