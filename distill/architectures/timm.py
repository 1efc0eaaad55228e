"""Networks of timm, described by a table that was generated from them: sizes and costs, not their every tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from distill.architectures import timm_names
from distill.architectures.blueprint import Blueprint, Family, ImageInput, Preprocessing
from distill.architectures.layers import Shape, Size
from distill.architectures.options import Options
from distill.architectures.timm_names import TimmFacts


@dataclass(frozen=True, kw_only=True)
class TimmBlueprint(Blueprint):
    """What the table says of one network."""

    facts: TimmFacts

    family: ClassVar[str] = "timm"
    first_layer: ClassVar[str] = ""
    is_complete: ClassVar[bool] = False

    @property
    def classifier(self) -> str:
        return self.facts.classifiers[0] if self.facts.classifiers else ""

    @property
    def classifiers(self) -> tuple[str, ...]:
        return self.facts.classifiers

    @property
    def pools(self) -> bool | None:
        return self.facts.pooled

    def takes_channels(self, in_channels: int) -> bool:
        return self.facts.takes_channels(in_channels)

    @property
    def has_linear_head(self) -> bool:
        return bool(self.facts.classifiers)

    @property
    def input(self) -> ImageInput:
        height, width = self.facts.image_size
        return ImageInput(channels=timm_names.NUM_CHANNELS, height=height, width=width, fixed=self.facts.fixed_size)

    @property
    def preprocessing(self) -> Preprocessing:
        given = self.facts.preprocessing
        return Preprocessing(mean=given.mean, std=given.std, interpolation=given.interpolation)

    @property
    def feature_width(self) -> int:
        return sum(self.facts.feature_widths)

    def parameters(self, *, num_classes: int, in_channels: int) -> int:
        if not self.facts.takes_channels(in_channels):
            in_channels = timm_names.NUM_CHANNELS  # it will be refused when it is built
        return self.facts.parameters(num_classes=num_classes, in_channels=in_channels)

    def macs(self, *, num_classes: int, in_channels: int, image_size: Size) -> int | None:
        size = self.facts.image_size if self.facts.fixed_size else image_size
        return self.facts.estimated_macs(num_classes=num_classes, image_size=size)

    def state_shapes(self, *, num_classes: int, in_channels: int) -> dict[str, Shape]:
        widths = zip(self.facts.classifiers, self.facts.feature_widths, strict=True)
        return {f"{name}.weight": (num_classes, width) for name, width in widths}


def read(name: str, options: Options) -> TimmBlueprint | None:
    """The network of a name that begins with ``timm/``."""
    facts = timm_names.facts(name)
    return None if facts is None else TimmBlueprint(widths=facts.stage_widths, facts=facts)


FAMILY = Family(listed=(), read=read, options=frozenset())
