"""Whether a folder's weights are those of the network that its config names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distill import architectures
from distill.architectures import Options, Shape, TeacherFacts
from distill.errors import InputError
from distill.model_folders.description import Description
from distill.model_folders.renaming import Parts, shapes_of


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


def match(description: Description, shapes: Mapping[str, Shape], *, param: str = "/architecture") -> Matched:
    """Find out which of the networks that a config may mean the weights are of.

    Args:
        shapes: name in the folder -> shape.
        param: JSON pointer for the error.

    Raises:
        InputError: ``state_dict_mismatch``, they are of none of them, or the config names another number of classes
            than they have; ``teacher_head_unsupported``.
    """
    weights = architectures.unwrap(shapes)
    parts = description.renaming.parts(weights.shapes)
    clean = architectures.clean_names(parts)
    renamed = {clean[new]: shape for new, shape in shapes_of(parts, weights.shapes).items()}
    errors: list[InputError] = []
    for name in description.architectures:
        try:
            facts = architectures.match_state(name, renamed, options=description.options, param=param)
        except InputError as error:
            errors.append(error)
            continue
        _check_classes(description, facts, param=param)
        used = {old for olds in parts.values() for old in olds}
        return Matched(
            architecture=name,
            options=description.options,
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
