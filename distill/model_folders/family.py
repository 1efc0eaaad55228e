"""What reading the config of one of transformers' families comes to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.architectures import timm_names
from distill.model_folders.description import refuse
from distill.model_folders.renaming import Renaming

_LONGEST, _LARGEST = 16, 100_000


@dataclass(frozen=True, kw_only=True)
class Found:
    """A network of timm's, and how its tensors are renamed to it.

    Attributes:
        architecture: begins with ``timm/``.
        image_size: side in pixels, where the config has it.
    """

    architecture: str
    renaming: Renaming
    image_size: int | None = None


def timm_network(plain_name: str | None, *, what: str) -> str:
    """``timm/<plain_name>`` if there is one; ``what`` says what the config describes.

    Raises:
        InputError: ``architecture_unknown``.
    """
    name = f"{timm_names.PREFIX}{plain_name}"
    if plain_name is None or timm_names.facts(name) is None:
        raise refuse(f"timm has no network like this one of transformers: {what}.")
    return name


def expect(config: Mapping[str, Any], **wanted: Any) -> None:
    """Hold settings of which timm's networks have one value only against it; what the config leaves out is that.

    Raises:
        InputError: ``architecture_unknown``.
    """
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise refuse(f"The config says {key} {str(config[key])[:60]}; timm's networks have {value}.")


def expect_at_most(config: Mapping[str, Any], **limits: float) -> None:
    """The same of numbers so small that they change nothing, up to a limit."""
    for key, limit in limits.items():
        found = config.get(key, limit)
        if not (isinstance(found, int | float) and 0 <= found <= limit):
            raise refuse(f"The config says {key} {str(found)[:60]}; timm's networks have at most {limit}.")


def numbers(config: Mapping[str, Any], key: str) -> tuple[int, ...]:
    """A list of whole numbers; raises KeyError or TypeError."""
    found = config[key]
    if not isinstance(found, list) or len(found) > _LONGEST or not all(map(_is_size, found)):
        raise TypeError(f"{key} is no short list of whole numbers")
    return tuple(found)


def number(config: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number; raises TypeError."""
    found = config.get(key, default)
    if not _is_size(found):
        raise TypeError(f"{key} is no whole number")
    return int(found)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST
