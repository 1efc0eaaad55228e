"""What is known of a network without building it, and where a name is looked up."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from distill.architectures.layers import Layer, Shape, Size
from distill.architectures.options import Options


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """The images that a network is made for."""

    channels: int = 3
    height: int = 32
    width: int = 32
    fixed: bool = False
    """Whether it takes no others; else any size and number of channels will do."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to images before a network sees them."""

    mean: tuple[float, ...] | None = None
    """Per channel, of images in [0, 1]; None for the data set's own."""
    std: tuple[float, ...] | None = None
    interpolation: str = "bilinear"
    """Where images are resized at all."""


@dataclass(frozen=True, kw_only=True)
class Blueprint(ABC):
    """A name and its options, read: the one source of depth and channels for descriptions and networks."""

    widths: tuple[int, ...]
    """Output channels of each stage."""

    family: ClassVar[str]
    first_layer: ClassVar[str]
    """Name of the convolution that sees the images."""
    is_complete: ClassVar[bool] = True
    """Whether ``state_shapes`` has every tensor; else those of the classifiers alone."""

    @property
    @abstractmethod
    def classifier(self) -> str:
        """Name of the last linear layer."""

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Names of all last linear layers: some networks answer with the mean of several."""
        return (self.classifier,)

    @property
    def input(self) -> ImageInput:
        """The images that it is made for."""
        return ImageInput()

    @property
    def preprocessing(self) -> Preprocessing:
        """What its published weights expect."""
        return Preprocessing()

    @property
    def pools(self) -> bool | None:
        """Whether the classifier reads the mean of a last map; None when only building it tells."""
        return True

    def takes_channels(self, in_channels: int) -> bool:
        """Whether it can be built for images of so many channels."""
        return True

    @property
    def has_linear_head(self) -> bool:
        """Whether the logits are linear in a penultimate feature; else no method has anything to hold on to."""
        return True

    @property
    def feature_width(self) -> int:
        """Channels of the map that is pooled, which is what the classifier reads."""
        return self.widths[-1]

    @abstractmethod
    def parameters(self, *, num_classes: int, in_channels: int) -> int:
        """How many numbers are trained (running statistics are not)."""

    @abstractmethod
    def macs(self, *, num_classes: int, in_channels: int, image_size: Size) -> int | None:
        """Multiply-adds of one image (height, width) in convolutions and linear layers, of real numbers.

        None where they are not known.
        """

    def binary_macs(self, *, image_size: Size) -> int:
        """Multiply-adds of signs."""
        return 0

    @property
    def binary_weights(self) -> Mapping[str, Shape]:
        """Name -> shape of the weights of which files of students keep the signs alone, as bits."""
        return {}

    @abstractmethod
    def state_shapes(self, *, num_classes: int, in_channels: int) -> dict[str, Shape]:
        """Name -> shape of the whole state dict, in its order, running statistics included."""


@dataclass(frozen=True, kw_only=True)
class LayeredBlueprint(Blueprint):
    """A network that can list its layers, from which all the rest follows."""

    @abstractmethod
    def layers(self, *, num_classes: int, in_channels: int, image_size: Size) -> Iterator[Layer]:
        """The layers with weights in the order of the state dict; ``image_size`` is (height, width)."""

    def parameters(self, *, num_classes: int, in_channels: int) -> int:
        parts = self.layers(num_classes=num_classes, in_channels=in_channels, image_size=(1, 1))
        return sum(layer.parameters for layer in parts)

    def macs(self, *, num_classes: int, in_channels: int, image_size: Size) -> int:
        parts = self.layers(num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        return sum(layer.macs for layer in parts)

    def binary_macs(self, *, image_size: Size) -> int:
        return sum(layer.binary_macs for layer in self.layers(num_classes=1, in_channels=1, image_size=image_size))

    @property
    def binary_weights(self) -> Mapping[str, Shape]:
        parts = self.layers(num_classes=1, in_channels=1, image_size=(1, 1))
        return {f"{layer.name}.weight": layer.weight for layer in parts if layer.kind == "binary_conv"}

    def state_shapes(self, *, num_classes: int, in_channels: int) -> dict[str, Shape]:
        parts = self.layers(num_classes=num_classes, in_channels=in_channels, image_size=(1, 1))
        return {key: shape for layer in parts for key, shape in layer.tensors.items()}


@dataclass(frozen=True, kw_only=True)
class Family:
    """Networks whose names are read in one way.

    Attributes:
        listed: the names that GET /networks shows; ``read`` may know more.
        read: name and options to the network's blueprint; None for a name that the family lacks.
        options: names of the options that it takes.
    """

    listed: tuple[str, ...]
    read: Callable[[str, Options], Blueprint | None]
    options: frozenset[str] = frozenset({"width", "stem_stride"})
