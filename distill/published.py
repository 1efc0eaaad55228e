"""What a run is to be held against: the published figures of its recipe, and where it departs from that. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill import recipes
from distill.method_names import METHOD_NAMES
from distill.spec import DistillSpec, StudentSpec

# They change neither what is computed nor how long it goes on for, or no recipe names them.
_FREE = {"seed", "precision", "baseline", "max_runtime_seconds"}


def published(spec: DistillSpec, *, teacher: str, num_classes: int) -> dict[str, Any] | None:
    """The figures beside which a report is to be read, ready for JSON; None for a spec without a recipe.

    Args:
        spec: resolved.
        teacher: the name of its architecture.
        num_classes: of the data.

    Returns:
        Accuracies as shares of 1: ``top1`` of the student, ``teacher_top1``, ``baseline_top1``, ``rivals`` by method;
        their ``source``; and ``departures``, JSON pointers to what is otherwise than in the recipe.
    """
    if spec.recipe is None:
        return None
    recipe = recipes.find(spec.recipe)
    departures = _departures(spec, recipe)
    if num_classes != recipe.data.num_classes:
        departures.insert(0, "/dataset")
    if teacher != recipe.teacher["architecture"]:
        departures.insert(0, "/teacher/architecture")
    return {"recipe": recipe.id, "title": recipe.title, **recipe.as_json()["published"], "departures": departures}


def in_words(found: Mapping[str, Any] | None) -> list[str]:
    """What the figures are and what they are worth for the run, in sentences; none for None."""
    if not found:
        return []
    said = [f"{found['title']}: published with {100 * found['top1']:.2f} % ({found['source']})."]
    if found["rivals"]:
        named = {METHOD_NAMES.get(name, name.upper()): share for name, share in found["rivals"].items()}
        rivals = ", ".join(f"{name} {100 * share:.2f} %" for name, share in named.items())
        said.append(f"Other methods on the same pair: {rivals}.")
    if found["departures"]:
        said.append(f"This run departs from the recipe in {', '.join(found['departures'])}.")
    return said


def _departures(spec: DistillSpec, recipe: recipes.Recipe) -> list[str]:
    student = StudentSpec.model_validate(recipe.student).model_dump(mode="json")
    found = _differences(student, spec.student.model_dump(mode="json"), at="/student")
    if spec.method.type != recipe.method["type"]:
        found.append("/method/type")
    else:
        # With the method's own defaults, so that a setting which the recipe leaves alone counts as well.
        method = type(spec.method).model_validate(recipe.method).model_dump(mode="json")
        found += _differences(method, spec.method.model_dump(mode="json"), at="/method")
    training = {name: value for name, value in recipe.training.items() if name not in _FREE}
    return found + _differences(training, spec.training.model_dump(mode="json"), at="/training")


def _differences(wanted: Any, found: Any, *, at: str) -> list[str]:
    """Pointers to the leaves of ``wanted`` that are otherwise; what is ``auto`` there may be anything."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [place for name in wanted for place in _differences(wanted[name], found.get(name), at=f"{at}/{name}")]
    return [] if wanted in ("auto", found) else [at]
