from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill import events
from distill.errors import RunError
from distill.registry import build_network
from distill.spec import NetworkOptions
from distill.taps import Tap, linear_head
from distill.teachers import FeatureBank, Teacher, check_above_chance, feature_bank, freeze

CPU = torch.device("cpu")
N, K, V = 10, 4, 3


def prepare(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.5) / 0.25


@pytest.fixture
def network() -> nn.Module:
    """With running statistics that are not those of a fresh network."""
    torch.manual_seed(0)
    network = build_network("resnet8", options=NetworkOptions(width=0.25), num_classes=K, in_channels=3)
    network(prepare(torch.randint(256, (16, 3, 8, 8))))
    return network


@pytest.fixture
def teacher(network: nn.Module) -> Teacher:
    freeze(network)
    return Teacher(Tap(network, maps=["stage2"]), linear_head(network), prepare, torch.float32)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(256, (N, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def view(images: Tensor) -> Callable[[Tensor, int], Tensor]:
    return lambda indices, slot: images[indices].roll(slot, dims=3)


def bank_of(teacher: Teacher, view: Callable[[Tensor, int], Tensor], **how: Any) -> FeatureBank:
    return events.result(feature_bank(teacher, num_images=N, num_views=V, view=view, device=CPU, **how))


def pooled_by_hand(network: nn.Module, images: Tensor) -> Tensor:
    """The penultimate feature along the network's own layers, without any hook."""
    x = F.relu(network.get_submodule("bn1")(network.get_submodule("conv1")(prepare(images))))
    for name in ("layer1", "layer2", "layer3"):
        x = network.get_submodule(name)(x)
    return x.mean(dim=(2, 3)).detach()


def test_features_and_logits_are_the_networks(teacher: Teacher, network: nn.Module, images: Tensor) -> None:
    features = teacher.features(images)
    torch.testing.assert_close(features.pooled_BC, pooled_by_hand(network, images))
    torch.testing.assert_close(features.logits_BK, network(prepare(images)))
    assert not features.pooled_BC.requires_grad


def test_features_of_bf16_are_near_and_in_float32(teacher: Teacher, images: Tensor) -> None:
    found = replace(teacher, precision=torch.bfloat16).features(images).pooled_BC
    exact = teacher.features(images).pooled_BC
    assert found.dtype == torch.float32
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("batch_size", [1, 4, N, 500])
def test_bank_holds_the_features_of_every_view(
    teacher: Teacher, network: nn.Module, view: Callable[[Tensor, int], Tensor], batch_size: int
) -> None:
    kept = bank_of(teacher, view, batch_size=batch_size)
    bank = kept.values["pooled"]

    assert bank.shape == (N, V, 16)
    assert bank.dtype == torch.float32
    for slot in range(V):
        for index in range(N):
            one = pooled_by_hand(network, view(torch.tensor([index]), slot))
            torch.testing.assert_close(bank[index, slot], one[0])
    assert not torch.allclose(bank[:, 0], bank[:, 1])


def test_bank_is_the_same_bit_for_bit_each_time(teacher: Teacher, view: Callable[[Tensor, int], Tensor]) -> None:
    first, again = (bank_of(teacher, view, maps=["stage2"], batch_size=4).values for _ in range(2))
    assert first.keys() == {"pooled", "stage2"}
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_bank_answers_as_the_teacher_does(teacher: Teacher, view: Callable[[Tensor, int], Tensor]) -> None:
    bank = bank_of(teacher, view, maps=["stage2"])
    indices, slots = torch.tensor([3, 0, 7]), torch.tensor([2, 0, 1])
    images = torch.cat([view(index[None], int(slot)) for index, slot in zip(indices, slots, strict=True)])

    kept, asked = bank.features(indices, slots), teacher.features(images, maps=["stage2"])

    torch.testing.assert_close(kept.pooled_BC, asked.pooled_BC)
    torch.testing.assert_close(kept.logits_BK, asked.logits_BK)
    torch.testing.assert_close(kept.maps["stage2"], asked.maps["stage2"])


def test_asking_changes_nothing_of_the_teacher(
    teacher: Teacher, network: nn.Module, images: Tensor, view: Callable[[Tensor, int], Tensor]
) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}

    bank_of(teacher, view)
    teacher.logits(teacher.features(images).pooled_BC)

    after = network.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert value.numpy().tobytes() == after[name].numpy().tobytes(), name
    assert all(parameter.grad is None for parameter in network.parameters())


def test_frozen_network_neither_learns_nor_keeps_statistics(network: nn.Module) -> None:
    assert network.training
    assert freeze(network) is network
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())


def sure_of(guesses: Tensor, *, classes: int) -> Tensor:
    """Logits whose highest is at the guess."""
    return F.one_hot(guesses, classes) * 3.0 + torch.rand(len(guesses), classes)


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_good_teacher_passes_with_its_accuracy(classes: int) -> None:
    labels = torch.arange(1000) % classes
    guesses = torch.where(torch.arange(1000) < 900, labels, (labels + 1) % classes)
    assert check_above_chance(sure_of(guesses, classes=classes), labels) == pytest.approx(0.9)


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_teacher_whose_classes_are_in_another_order_is_told_so(classes: int) -> None:
    labels = torch.arange(1000) % classes
    guesses = torch.where(torch.arange(1000) % 100 < 99, (labels + 1) % classes, labels)

    with pytest.raises(RunError) as caught:
        check_above_chance(sure_of(guesses, classes=classes), labels)

    error = caught.value
    assert (error.code, error.param) == ("teacher_below_chance", "/teacher")
    assert "right on 1.0% of 1000" in error.message
    assert f"gives {100 / classes:.1f}%" in error.message
    assert "label order differs" in error.hint
    assert float(error.hint.split("%")[0].split()[-1]) == pytest.approx(99, abs=3)


@pytest.mark.parametrize(("count", "classes"), [(1000, 2), (1000, 3), (1000, 10), (1000, 100), (150, 100), (3, 10)])
@pytest.mark.parametrize("seed", range(5))
def test_teacher_that_knows_nothing_is_told_to_check_its_normalisation(count: int, classes: int, seed: int) -> None:
    labels = torch.arange(count) % classes
    guesses = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))

    with pytest.raises(RunError) as caught:
        check_above_chance(sure_of(guesses, classes=classes), labels)

    assert caught.value.code == "teacher_below_chance"
    assert "normalisation" in caught.value.hint
    assert "order differs" not in caught.value.hint


@pytest.mark.parametrize("always", [0, 3])
def test_teacher_that_always_says_the_same_is_refused(always: int) -> None:
    labels = torch.arange(500) % 10
    with pytest.raises(RunError) as caught:
        check_above_chance(sure_of(torch.full((500,), always), classes=10), labels)
    assert "normalisation" in caught.value.hint


def test_the_line_lies_three_deviations_above_chance() -> None:
    count, classes = 1000, 10
    labels = torch.arange(count) % classes
    line = 100 + 3 * math.sqrt(count * 0.1 * 0.9)  # mean and deviation of a binomial count

    def ask(right: int) -> float:
        guesses = torch.where(torch.arange(count) < right, labels, (labels + 1) % classes)
        return check_above_chance(sure_of(guesses, classes=classes), labels)

    assert ask(math.floor(line) + 1) == pytest.approx((math.floor(line) + 1) / count)
    with pytest.raises(RunError):
        ask(math.floor(line))
