"""What a config says of a network, in our words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from distill.architectures import PLAIN as PLAIN_OPTIONS
from distill.architectures import Options
from distill.class_names import MAX_CLASS_NAME
from distill.errors import InputError
from distill.model_folders.renaming import PLAIN, Renaming

Form = Literal["timm", "transformers"]
MAX_CLASSES = 100_000

WAY_OUT = (
    "Read are configs of timm, of Limbeck's own results, and of transformers' ResNet, ViT, DeiT with teacher, "
    "ConvNeXt, RegNet, Swin and EfficientNet, each for image classification. Export any other network to ONNX, and "
    'send it as "architecture": "onnx".'
)


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What is subtracted from images in [0, 1], and what they are divided by, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Description:
    """A network by its config.

    Attributes:
        form: whose config it is.
        architectures: names of the zoo that it may mean; the weights decide.
        options: of those.
        classes: their names in the order of the outputs; None where the config has none.
        normalisation: None where the config has none.
        renaming: from the names of its weights to those of the zoo.
        facts: what else the config says and a reader may want to know, ready for JSON.
    """

    form: Form
    architectures: tuple[str, ...]
    options: Options = PLAIN_OPTIONS
    classes: tuple[str, ...] | None = None
    normalisation: Normalisation | None = None
    renaming: Renaming = PLAIN
    facts: Mapping[str, Any]


def refuse(message: str, *, did_you_mean: list[str] | None = None) -> InputError:
    """The error for a network that is not read, with the way out."""
    return InputError("architecture_unknown", message, hint=WAY_OUT, did_you_mean=did_you_mean)


def classes_of(names: Any) -> tuple[str, ...] | None:
    """Class names as a config lists them; None where they name nothing, or two alike."""
    if not isinstance(names, list) or not 0 < len(names) <= MAX_CLASSES:
        return None
    if not all(isinstance(name, str) and 0 < len(name) <= MAX_CLASS_NAME and name.isprintable() for name in names):
        return None
    are_numbers = all(name == f"LABEL_{number}" for number, name in enumerate(names))
    return None if are_numbers or len(set(names)) != len(names) else tuple(names)


def normalisation_of(mean: Any, std: Any) -> Normalisation | None:
    """None where these are no numbers for one or three channels."""
    if not (_are_numbers(mean) and _are_numbers(std) and len(mean) == len(std) and all(value > 0 for value in std)):
        return None
    return Normalisation(mean=tuple(map(float, mean)), std=tuple(map(float, std)))


def _are_numbers(values: Any) -> bool:
    return (
        isinstance(values, list | tuple)
        and len(values) in (1, 3)
        and all(isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6 for value in values)
    )
