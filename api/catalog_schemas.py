"""What may be asked for: methods, networks, presets, recipes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from api.schemas import Schema
from service.presets import PresetState


class MethodSchema(Schema):
    """A way to distil."""

    type: str
    summary: str
    json_schema: dict[str, Any] = Field(serialization_alias="schema")
    """JSON schema of its settings with their defaults."""


class MethodList(Schema):
    """All methods."""

    object: Literal["list"] = "list"
    data: list[MethodSchema]


class NetworkInput(Schema):
    """The images that a network is made for."""

    channels: int
    height: int
    width: int
    fixed: bool
    """Whether it takes no others; else any size and number of channels will do."""


class NetworkPreprocessing(Schema):
    """What is done to images before the network sees them."""

    mean: list[float] | None
    """Per channel, of images in [0, 1]; null for the data set's own."""
    std: list[float] | None
    interpolation: str
    """Where images are resized at all."""


class NetworkSchema(Schema):
    """A network of the zoo, at 100 classes and images as in `input`."""

    name: str
    family: str
    stages: list[int]
    """Output channels of each stage."""
    feature_width: int
    """Length of the penultimate vector."""
    parameters: int
    macs: int | None
    """Multiply-adds of one image, of real numbers; null where they are not known."""
    binary_macs: int = 0
    """Multiply-adds of signs; 64 of them are one operation of a processor's word."""
    input: NetworkInput
    preprocessing: NetworkPreprocessing
    pools: bool | None
    """Whether the classifier reads the mean of a last map; null when only building the network tells."""
    roles: list[str]


class NetworkList(Schema):
    """Networks, and what may be varied about each."""

    object: Literal["list"] = "list"
    data: list[NetworkSchema]
    options_schema: dict[str, Any]


class PresetSchema(Schema):
    """A public data set that a request may name."""

    name: str
    title: str
    in_place: bool
    """Whether the operator has put its files where they are looked for."""
    needs: str
    """Which files these are."""

    @classmethod
    def of(cls, state: PresetState) -> PresetSchema:
        preset = state.preset
        return cls(name=preset.name, title=preset.title, in_place=state.in_place, needs=preset.needs)


class PresetList(Schema):
    """All presets."""

    object: Literal["list"] = "list"
    data: list[PresetSchema]


class RecipeData(Schema):
    """The data that a recipe's figures are about."""

    name: str
    preset: str | None
    """By which a request may name it."""
    classes: int
    train: int
    """Training images."""
    image_side: int


class PublishedFigures(Schema):
    """Accuracies as their source prints them, as shares of 1."""

    top1: float
    teacher_top1: float | None
    baseline_top1: float | None
    """The same student on labels alone."""
    rivals: dict[str, float]
    """Other methods on the same pair."""
    source: str


class RecipeSchema(Schema):
    """A row of a published table, with the settings that lead to it."""

    id: str
    title: str
    dataset: RecipeData
    teacher: dict[str, Any]
    student: dict[str, Any]
    method: dict[str, Any]
    """Its type, and settings that are not its defaults."""
    training: dict[str, Any]
    published: PublishedFigures
    settings_source: str
    notes: list[str]
    """What was not published, or does not agree."""


class RecipeList(Schema):
    """Recipes, table by table."""

    object: Literal["list"] = "list"
    data: list[RecipeSchema]
