"""What must not be believed of a network, on the smallest networks that would deceive."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.networks.dissection import Announced, Findings, choose, dissect

WIDTH, NUM_CLASSES = 5, 3


class Plain(nn.Module):
    """A convolution, its mean by a function, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.norm = nn.BatchNorm1d(WIDTH)
        self.fc = nn.Linear(WIDTH, NUM_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pooled(self.conv(images)))
        return logits

    def pooled(self, map_BCHW: Tensor) -> Tensor:
        return map_BCHW.mean(dim=(2, 3))


class NormBehindTheMean(Plain):
    """A fresh batch norm in eval mode is the identity."""

    def pooled(self, map_BCHW: Tensor) -> Tensor:
        normalised: Tensor = self.norm(map_BCHW.mean(dim=(2, 3)))
        return normalised


class OverwrittenMap(Plain):
    """Whoever kept the map finds another one after the pass."""

    def pooled(self, map_BCHW: Tensor) -> Tensor:
        mean_BC = map_BCHW.mean(dim=(2, 3))
        map_BCHW.relu_()
        return mean_BC


class MaximumOfTheMap(Plain):
    def pooled(self, map_BCHW: Tensor) -> Tensor:
        return map_BCHW.amax(dim=(2, 3))


class ScaledLogits(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return 1.02 * super().forward(images)


class CalledTwice(Plain):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + super().forward(-images)


class ShuffledTokens(Plain):
    """Tokens of a grid in an order in which neighbours are far apart, as Hiera keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.shuffle = nn.Identity()

    def pooled(self, map_BCHW: Tensor) -> Tensor:
        height, width = map_BCHW.shape[2:]
        grid = torch.arange(height * width).reshape(height // 2, 2, width // 2, 2)
        order = grid.permute(1, 3, 0, 2).flatten()
        tokens_BNC: Tensor = self.shuffle(map_BCHW.flatten(2)[:, :, order].transpose(1, 2))
        return tokens_BNC.mean(dim=1)


def findings(network: nn.Module, *, stage: str = "conv") -> Findings:
    return dissect(
        network,
        image_shape=(1, 8, 8),
        announced=[Announced(stage, WIDTH, 1)],
        heads=[network.get_submodule("fc")],
        num_classes=NUM_CLASSES,
        num_prefix_tokens=0,
    )


def test_a_mean_that_a_function_takes_is_found_where_its_map_comes_out() -> None:
    found = findings(Plain())

    assert found.proved
    assert (found.anatomy.pooling, found.anatomy.pooled_output) == ("conv", True)
    assert found.anatomy.classifiers == ("fc",)
    assert found.anatomy.stages == ("conv",)
    assert (found.stage_widths, found.feature_widths) == ((WIDTH,), (WIDTH,))


@pytest.mark.parametrize("kind", [NormBehindTheMean, OverwrittenMap, MaximumOfTheMap])
def test_what_is_not_the_mean_of_a_map_that_stays_is_not_pooling(kind: type[Plain]) -> None:
    found = findings(kind())

    assert found.anatomy.pooling is None
    assert found.anatomy.classifiers == ("fc",)
    assert found.anatomy.stages == (() if kind is OverwrittenMap else ("conv",))


@pytest.mark.parametrize("kind", [ScaledLogits, CalledTwice])
def test_layers_that_do_not_make_the_logits_are_no_classifiers(kind: type[Plain]) -> None:
    found = findings(kind())

    assert found.anatomy.classifiers == ()
    assert found.anatomy.pooling is None


def test_tokens_in_another_order_are_no_stage_though_their_mean_is_read() -> None:
    found = findings(ShuffledTokens(), stage="shuffle")

    assert found.anatomy.stages == ()
    assert found.anatomy.pooling == "shuffle"
    assert found.anatomy.pooling_layout == "tokens"


def test_stages_are_the_last_four_or_evenly_spaced_blocks() -> None:
    pyramid = [Announced(f"stage{i}", WIDTH, 2**i) for i in range(6)]
    blocks = [Announced(f"blocks.{i}", WIDTH, 16) for i in range(12)]

    assert [entry.module for entry in choose(pyramid)] == ["stage2", "stage3", "stage4", "stage5"]
    assert [entry.module for entry in choose(blocks)] == ["blocks.2", "blocks.5", "blocks.8", "blocks.11"]
    assert choose(blocks[:3]) == blocks[:3]
