"""Whether a folder's weights are those of the network that its config names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from distill import architectures
from distill.architectures import NUM_REPORTED, PLAIN, Options, PlainOptions, TeacherFacts, timm_names
from distill.data.archive import shown
from distill.errors import InputError
from distill.model_folders.contents import Contents
from distill.model_folders.description import Description
from distill.model_folders.renaming import Parts, shapes_of
from distill.model_folders.weights import Outline


@dataclass(frozen=True, kw_only=True)
class Matched:
    """A network of the zoo and its weights, by their names in the folder.

    Attributes:
        parts: name in the zoo -> names in the folder.
        ignored: what of the folder is no part of the network.
    """

    architecture: str
    options: Options
    facts: TeacherFacts
    parts: Parts
    ignored: tuple[str, ...]


def match(description: Description, outline: Outline, *, param: str = "/architecture") -> Matched:
    """Find out which of the networks that a config may mean the weights are of.

    Args:
        outline: of all files of weights.
        param: JSON pointer for the error.

    Raises:
        InputError: ``state_dict_mismatch``, they are of none of them, or the config names another number of classes
            than they have; ``teacher_head_unsupported``.
    """
    weights = architectures.unwrap(outline.shapes)
    parts = description.renaming.parts(weights.shapes)
    clean = architectures.clean_names(parts)
    renamed = {clean[new]: shape for new, shape in shapes_of(parts, weights.shapes).items()}
    options = _options(description, outline)
    errors: list[InputError] = []
    for name in _candidates(description, options):
        try:
            facts = architectures.match_state(name, renamed, options=options, param=param)
        except InputError as error:
            errors.append(error)
            continue
        _check_classes(description, facts, param=param)
        used = {old for olds in parts.values() for old in olds}
        return Matched(
            architecture=name,
            options=options,
            facts=facts,
            parts={clean[new]: tuple(weights.prefix + old for old in olds) for new, olds in parts.items()},
            ignored=(*weights.ignored, *(old for old in weights.shapes if old not in used)),
        )
    raise errors[-1]


def _check_classes(description: Description, facts: TeacherFacts, *, param: str) -> None:
    if description.classes is not None and len(description.classes) != facts.num_classes:
        raise InputError(
            "state_dict_mismatch",
            f"The config names {len(description.classes)} classes, the weights have {facts.num_classes}.",
            hint="Send the config that was saved with these weights.",
            param=param,
        )


def report(contents: Contents, description: Description, network: Matched) -> dict[str, Any]:
    """For the teacher's report: which config was read, and what of the weights was left out."""
    ignored = [shown(name) for name in network.ignored[:NUM_REPORTED]]
    if len(network.ignored) > NUM_REPORTED:
        ignored.append(f"and {len(network.ignored) - NUM_REPORTED} more")
    return {
        "format": "pytorch" if contents.is_pickled else "safetensors",
        "folder": {"config": description.form, **description.facts, "files": len(contents.weights)},
        "ignored": ignored,
    }


def _candidates(description: Description, options: Options) -> tuple[str, ...]:
    """The networks that there are with these options: timm's take none."""
    found = description.architectures
    own = tuple(name for name in found if options == PLAIN or not name.startswith(timm_names.PREFIX))
    return own or found


def _options(description: Description, outline: Outline) -> Options:
    """As the config says, else as the header of one of Limbeck's students does."""
    metadata = outline.metadata
    if description.options != PLAIN or metadata.get("architecture") not in description.architectures:
        return description.options
    return options_in(metadata.get("options"))


def options_in(text: str | None) -> Options:
    """Options as a header has them, as JSON; the plain ones where they are none of ours."""
    try:
        given = json.loads(text or "{}")
        width, stride = given.get("width", PLAIN.width), given.get("stem_stride", PLAIN.stem_stride)
        sound = 0 < width <= 16 and stride in (1, 2)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return PLAIN
    return PlainOptions(width=float(width), stem_stride=int(stride)) if sound else PLAIN
