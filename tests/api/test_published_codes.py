"""Every published code: it is provoked, where docs/errors.md says so, and its hint tells the way out."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.problems import CODES
from tests.fixtures import failing_jobs  # noqa: F401 - it enters what jobs fail with into the table
from tests.fixtures.provocations import PROVOCATIONS, Ground, documented

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

ROOT = Path(__file__).parents[2]
DOCUMENTED = documented(ROOT / "docs" / "errors.md")
ERRORS = {"DistillError", "InputError", "RunError", "Flaw", "ServiceError", "Malformed", "NotFound", "Conflict"} | {
    "Gone",
    "TooLarge",
    "RangeNotSatisfiable",
    "Unavailable",
}


@pytest.fixture
def ground(
    client: httpx.Client,
    monkeypatch: pytest.MonkeyPatch,
    tiny_teacher: TeacherFile,
    tiny_npz: Path,
    prepare: Callable[[], None],
    hire: Callable[[str], Any],
) -> Ground:
    return Ground(
        client=client,
        patch=monkeypatch,
        teacher=tiny_teacher,
        npz=tiny_npz,
        prepare=prepare,
        hire=hire,
    )


def test_what_is_documented_known_and_provoked_are_the_same_codes() -> None:
    assert DOCUMENTED.keys() == CODES.keys() == PROVOCATIONS.keys()


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("code", sorted(CODES))
def test_it_is_told_with_the_way_out(ground: Ground, code: str) -> None:
    told = PROVOCATIONS[code](ground)

    assert told.code == code, told
    assert told.where in DOCUMENTED[code]
    assert told.message
    assert all(len(hint) > 10 for hint in told.hints), told


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every place that makes an error."""
    for folder in ("api", "service", "worker", "distill"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def test_no_error_is_made_without_a_hint() -> None:
    """mypy holds that the argument is there; an empty text would get past it."""
    found = list(calls())
    assert len(found) > 200
    for place, call in found:
        hints = [keyword.value for keyword in call.keywords if keyword.arg == "hint"]
        assert len(hints) == 1, place
        assert not (isinstance(hints[0], ast.Constant) and not hints[0].value), place


def test_no_error_is_made_with_a_code_that_is_not_published() -> None:
    for place, call in calls():
        named = [*call.args[:1]] if call.func.id in {"DistillError", "InputError", "RunError"} else []  # type: ignore[attr-defined]
        named += [keyword.value for keyword in call.keywords if keyword.arg == "code"]
        for value in named:
            assert not (isinstance(value, ast.Constant) and value.value not in CODES), place
