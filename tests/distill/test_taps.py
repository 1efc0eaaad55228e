from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.errors import InputError
from distill.networks import resnet, wrn
from distill.spec import NetworkOptions
from distill.taps import Features, Tap, anatomy_of, linear_head, prove, prove_resumable
from distill.teachers import freeze

K = 4
TINY = NetworkOptions(width=0.25, stem_stride=2)
FAMILIES = [(resnet.build, "resnet8"), (wrn.build, "wrn_16_1")]
Build = Callable[..., nn.Module]


class Vector(nn.Module):
    """Stages, and a feature that is no mean of a map; what classifies it can be chosen."""

    anatomy = Anatomy(stages=("one", "two"), pooling=None, classifiers=("head",))

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 5, 3, stride=2), nn.Conv2d(5, 6, 3), head

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.two(self.one(images)).amax(dim=(2, 3)))
        return logits


class Skipping(Vector):
    """A connection leads around its second stage."""

    def forward(self, images: Tensor) -> Tensor:
        first = self.one(images)
        logits: Tensor = self.head(self.two(first).mean(dim=(2, 3)) + first.mean())
        return logits


class Pointwise(nn.Module):
    """Classified by a 1x1 convolution behind pooling."""

    anatomy: ClassVar[Anatomy] = Anatomy(stages=(), pooling="pool", classifiers=("head",))

    def __init__(self) -> None:
        super().__init__()
        self.body, self.pool, self.head = nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, K, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.pool(self.body(images))).flatten(1)
        return logits


class TwoHeads(nn.Module):
    """The mean of two classifiers' logits, each of a feature of its own."""

    anatomy: ClassVar[Anatomy] = Anatomy(stages=(), pooling=None, classifiers=("first", "second"))

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, K), nn.Linear(5, K, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = (self.first(images.mean(dim=(2, 3))) + self.second(images[:, 0, 0, :5])) / 2
        return logits


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(5))


def frozen(build: Build, name: str) -> nn.Module:
    torch.manual_seed(0)
    return freeze(build(name, options=TINY, num_classes=K, in_channels=3))


def num_hooks(network: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in network.modules())


@pytest.mark.parametrize(("build", "name"), FAMILIES)
def test_the_tap_sees_what_is_pooled_and_classified(build: Build, name: str, images: Tensor) -> None:
    network = frozen(build, name)
    tap = Tap(network, maps=["last"])

    prove(tap, network.fc, images_BCHW=images)  # type: ignore[arg-type]
    seen = tap(images)

    torch.testing.assert_close(seen.logits_BK, network(images))
    torch.testing.assert_close(seen.maps["last"].mean(dim=(2, 3)), seen.pooled_BC)
    torch.testing.assert_close(network.fc(seen.pooled_BC), seen.logits_BK)  # type: ignore[operator]


def test_the_tap_sees_the_stages_of_a_resnet(images: Tensor) -> None:
    network = frozen(resnet.build, "resnet8")
    assert isinstance(network, resnet.ResNet)
    first = network.layer1(nn.functional.relu(network.bn1(network.conv1(images))))
    second = network.layer2(first)

    seen = Tap(network, maps=["stage2", "stage1"])(images).maps

    assert seen.keys() == {"stage1", "stage2"}
    torch.testing.assert_close(seen["stage1"], first)
    torch.testing.assert_close(seen["stage2"], second)


def test_the_naive_hook_is_found_out_on_a_wide_resnet(images: Tensor) -> None:
    """The output of the last stage is the map before the last batch norm and ReLU."""

    class Naive(Tap):
        def __call__(self, images_BCHW: Tensor) -> Features:
            seen = super().__call__(images_BCHW)
            return Features(seen.pooled_BC, seen.logits_BK, {"last": seen.maps["stage3"]})

    network = frozen(wrn.build, "wrn_16_1")

    with pytest.raises(InputError, match="mean of the last map") as caught:
        prove(Naive(network, maps=["stage3"]), linear_head(network), images_BCHW=images)
    assert caught.value.code == "teacher_head_unsupported"


def test_a_classifier_that_is_not_the_last_word_is_found_out(images: Tensor) -> None:
    network = frozen(resnet.build, "resnet8")
    softened = nn.Sequential()
    softened.add_module("network", network)
    softened.add_module("softmax", nn.Softmax(dim=1))
    anatomy = Anatomy(stages=(), pooling="network.avgpool", classifiers=("network.fc",))

    with pytest.raises(InputError, match="are the logits"):
        prove(Tap(softened, maps=["last"], anatomy=anatomy), linear_head(network), images_BCHW=images)


def test_a_classifier_of_another_feature_is_found_out(images: Tensor) -> None:
    network = frozen(resnet.build, "resnet8")
    other = nn.Linear(linear_head(network).in_features, K + 1)

    with pytest.raises(InputError, match=r"shapes \[4, 5\], \[4, 4\]"):
        prove(Tap(network, maps=["last"]), other, images_BCHW=images)


def test_a_tap_keeps_no_graph_between_steps(images: Tensor) -> None:
    tap = Tap(resnet.build("resnet8", options=TINY, num_classes=K, in_channels=3), maps=["stage1", "last"])
    tap(images)

    assert tap._seen == {}


def test_a_closed_tap_leaves_no_hooks(images: Tensor) -> None:
    network = frozen(resnet.build, "resnet8")
    tap = Tap(network, maps=anatomy_of(network).maps)
    assert num_hooks(network) == 5

    tap.close()

    assert num_hooks(network) == 0
    network(images)


def test_a_network_that_pools_no_map_shows_its_feature_alone(images: Tensor) -> None:
    network = freeze(Vector(nn.Linear(6, K)))
    tap = Tap(network, maps=["stage2", "last"])

    prove(tap, linear_head(network), images_BCHW=images)
    seen = tap(images)

    assert seen.maps.keys() == {"stage2"}
    torch.testing.assert_close(seen.pooled_BC, seen.maps["stage2"].amax(dim=(2, 3)))


@pytest.mark.parametrize("make", [Pointwise, TwoHeads])
def test_pointwise_and_several_classifiers_are_one_linear_layer(make: Callable[[], nn.Module], images: Tensor) -> None:
    torch.manual_seed(0)
    network = freeze(make())
    head = linear_head(network)

    prove(Tap(network, maps=["last"]), head, images_BCHW=images)

    torch.testing.assert_close(head(Tap(network)(images).pooled_BC), network(images))


@pytest.mark.parametrize("head", [nn.Sequential(nn.Linear(6, K)), nn.Identity(), nn.Conv2d(6, K, 3)])
def test_a_head_that_is_no_linear_layer_is_refused(head: nn.Module) -> None:
    with pytest.raises(InputError, match=f"{type(head).__name__} is not a linear layer") as caught:
        linear_head(Vector(head))
    assert caught.value.code == "teacher_head_unsupported"


# ------------------------------------------------------------ the rest of a network


@pytest.mark.parametrize(("build", "name"), FAMILIES)
def test_every_stage_of_the_zoo_can_be_resumed(build: Build, name: str, images: Tensor) -> None:
    network = frozen(build, name)
    tap = Tap(network, maps=anatomy_of(network).maps)
    before = num_hooks(network)

    prove_resumable(tap, names=["stage1", "stage2", "stage3", "last"], images_BCHW=images)

    assert num_hooks(network) == before


def test_the_rest_of_a_resnet_is_what_its_own_modules_make(images: Tensor) -> None:
    """Of a map that is not its own, and of another number of images."""
    network = frozen(resnet.build, "resnet8")
    assert isinstance(network, resnet.ResNet)
    tap = Tap(network, maps=["stage1"])
    other = torch.rand_like(tap(images).maps["stage1"])[:3]
    pooled = network.avgpool(network.layer3(network.layer2(other))).flatten(1)

    seen = tap.resume("stage1", other)

    torch.testing.assert_close(seen.pooled_BC, pooled)
    torch.testing.assert_close(seen.logits_BK, network.fc(pooled))
    torch.testing.assert_close(tap(images).logits_BK, network(images))


def test_a_connection_around_a_stage_is_found_out(images: Tensor) -> None:
    torch.manual_seed(0)
    tap = Tap(freeze(Skipping(nn.Linear(6, K))), maps=["stage1", "stage2"])

    prove_resumable(tap, names=["stage1"], images_BCHW=images)
    with pytest.raises(InputError, match="behind stage2 nothing but its map is read") as caught:
        prove_resumable(tap, names=["stage1", "stage2"], images_BCHW=images)
    assert caught.value.code == "teacher_head_unsupported"
