"""The recipes by their ids: found, searched, and laid beneath a request."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import cache
from typing import Any

from distill.errors import InputError
from distill.recipes.recipe import Body, Recipe
from distill.recipes.rows import rows

# What a recipe says of the second is only meant together with what it says of the first.
_MEANT_TOGETHER = {"epochs": ("milestones",), "schedule": ("milestones", "gamma"), "augmentation": ("views",)}


@cache
def _by_id() -> dict[str, Recipe]:
    return {recipe.id: recipe for recipe in rows()}


def ids() -> list[str]:
    """Of all recipes, table by table."""
    return list(_by_id())


def find(id: str) -> Recipe:
    """A recipe by its id.

    Raises:
        InputError: ``recipe_unknown``, with the nearest ids.
    """
    recipe = _by_id().get(id)
    if recipe is None:
        raise InputError(
            "recipe_unknown",
            f"There is no recipe {id[:100]!r}.",
            hint="GET /recipes lists them",
            param="/recipe",
            did_you_mean=difflib.get_close_matches(id[:100].lower(), ids(), n=3),
        )
    return recipe


def catalog(q: str = "", *, method: str = "") -> list[dict[str, Any]]:
    """The recipes whose id or title contains every word of ``q``, ready for JSON; all methods or one."""
    words = q.lower().split()
    return [
        recipe.as_json()
        for recipe in _by_id().values()
        if method in ("", recipe.method["type"])
        and all(word in f"{recipe.id} {recipe.title}".lower() for word in words)
    ]


def complete(body: Mapping[str, Any]) -> Body:
    """A request with what its recipe says wherever it says nothing itself.

    Another network, method or schedule than the recipe's is taken as it is given: the recipe's options, settings
    and milestones mean nothing to it. A body without a recipe comes back as it was.

    Raises:
        InputError: ``recipe_unknown``.
    """
    given = dict(body)
    if not isinstance(given.get("recipe"), str):
        return given
    recipe = find(given["recipe"])
    student = given.get("student", {})
    if not (isinstance(student, Mapping) and student.get("budget") is not None):
        given["student"] = _network(recipe.student, student)
    given["method"] = _tagged(recipe.method, given.get("method", {}), tag="type")
    given["training"] = _training(recipe.training, given.get("training", {}))
    teacher = given.get("teacher")
    if isinstance(teacher, Mapping) and teacher.get("upload_id") is not None:
        given["teacher"] = _network(recipe.teacher, teacher)
    return given


def _network(recipe: Body, given: object) -> object:
    return _tagged(recipe, given, tag="architecture")


def _tagged(recipe: Body, given: object, *, tag: str) -> object:
    if not isinstance(given, Mapping) or given.get(tag, recipe[tag]) != recipe[tag]:
        return given
    return _beneath(recipe, given)


def _training(recipe: Body, given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    dropped = {
        name
        for first, others in _MEANT_TOGETHER.items()
        if given.get(first, recipe[first]) != recipe[first]
        for name in others
    }
    return _beneath({name: value for name, value in recipe.items() if name not in dropped}, given)


def _beneath(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> Body:
    merged = {**recipe, **given}
    for name in recipe.keys() & given.keys():
        if isinstance(recipe[name], Mapping) and isinstance(given[name], Mapping):
            merged[name] = _beneath(recipe[name], given[name])
    return merged
