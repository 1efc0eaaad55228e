"""Losses and measures of points against loops in float64, written from their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch

from distill.landmarks import (
    LandmarkLoss,
    area_under_curve,
    as_points,
    failure_rate,
    landmark_figures,
    landmark_loss,
    normalised_errors,
    to_pixels,
    wing,
)
from distill.markup import Normaliser

B, L = 7, 5


def points(seed: int, *, spread: float = 12.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(30, spread, (B, L, 2)).astype(np.float32))


def wing_of_one(x: float, *, width: float, epsilon: float) -> float:
    if abs(x) < width:
        return width * math.log(1 + abs(x) / epsilon)
    return abs(x) - (width - width * math.log(1 + width / epsilon))


ONE: dict[LandmarkLoss, Callable[[float], float]] = {
    "l1": abs,
    "l2": lambda x: x * x,
    "smooth_l1": lambda x: 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5,
    "wing": lambda x: wing_of_one(x, width=10, epsilon=2),
}


@pytest.mark.parametrize("kind", get_args(LandmarkLoss))
@pytest.mark.parametrize("spread", [0.3, 12.0])
def test_losses_equal_their_definition(kind: LandmarkLoss, spread: float) -> None:
    given, truth = points(0, spread=spread), points(1, spread=spread)
    differences = (given.double() - truth.double()).flatten().tolist()
    expected = sum(ONE[kind](x) for x in differences) / len(differences)
    assert landmark_loss(given, truth, kind=kind).item() == pytest.approx(expected, rel=1e-5)
    assert landmark_loss(truth, truth, kind=kind).item() == 0


@pytest.mark.parametrize("kind", get_args(LandmarkLoss))
def test_losses_of_half_precision_are_taken_in_float32(kind: LandmarkLoss) -> None:
    given, truth = points(0).bfloat16().requires_grad_(), points(1)
    loss = landmark_loss(given, truth, kind=kind)
    assert loss.dtype == torch.float32
    loss.backward()
    assert given.grad is not None
    assert given.grad.isfinite().all()
    assert given.grad.abs().sum() > 0


@pytest.mark.parametrize(("width", "epsilon"), [(10.0, 2.0), (5.0, 0.5)])
def test_wing_joins_its_two_pieces_and_is_steepest_at_zero(width: float, epsilon: float) -> None:
    def at(x: float) -> float:
        return wing(torch.full((1, 1, 2), x), torch.zeros(1, 1, 2), width=width, epsilon=epsilon).item()

    assert at(width - 1e-4) == pytest.approx(at(width + 1e-4), abs=1e-3)
    assert at(-3.0) == pytest.approx(wing_of_one(3.0, width=width, epsilon=epsilon), rel=1e-5)
    error = torch.tensor([[[0.01, 50.0]]], requires_grad=True)
    wing(error, torch.zeros(1, 1, 2), width=width, epsilon=epsilon).backward()
    assert error.grad is not None
    steep, flat = (2 * error.grad).flatten().tolist()
    assert steep == pytest.approx(width / (epsilon + 0.01), rel=1e-4)
    assert flat == pytest.approx(1.0)


def test_points_that_hit_exactly_give_finite_gradients() -> None:
    for kind in get_args(LandmarkLoss):
        given = torch.zeros(2, 3, 2, requires_grad=True)
        landmark_loss(given, torch.zeros(2, 3, 2), kind=kind).backward()
        assert given.grad is not None
        assert given.grad.isfinite().all()


def test_outputs_are_x_y_x_y_and_pixels_are_width_and_height() -> None:
    outputs = torch.tensor([[0.0, 1.0, 0.5, 0.25, 1.0, 0.0]], dtype=torch.bfloat16)
    shares = as_points(outputs)
    assert shares.tolist() == [[[0.0, 1.0], [0.5, 0.25], [1.0, 0.0]]]
    assert shares.dtype == torch.float32
    assert to_pixels(shares, image_size=(40, 100)).tolist() == [[[0, 40], [50, 10], [100, 0]]]


def errors_by_loops(given: np.ndarray, truth: np.ndarray, *, normaliser: Normaliser) -> list[float]:
    errors = []
    for a, b in zip(given.astype(np.float64), truth.astype(np.float64), strict=True):
        if normaliser == "box":
            length = math.sqrt((b[:, 0].max() - b[:, 0].min()) * (b[:, 1].max() - b[:, 1].min()))
        else:
            length = math.dist(b[normaliser[0]], b[normaliser[1]])
        errors.append(sum(math.dist(p, q) for p, q in zip(a, b, strict=True)) / len(a) / length)
    return errors


@pytest.mark.parametrize("normaliser", [(0, 3), (4, 1), "box"])
def test_normalised_errors_equal_a_loop(normaliser: Normaliser) -> None:
    given, truth = points(2), points(3)
    expected = errors_by_loops(given.numpy(), truth.numpy(), normaliser=normaliser)
    found = normalised_errors(given, truth, normaliser=normaliser)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_figures_equal_numpy_on_a_fine_grid() -> None:
    random = np.random.default_rng(4)
    truth = random.uniform(0, 32, (400, L, 2)).astype(np.float32)
    given = (truth + random.normal(0, 1.5, truth.shape) * random.uniform(0, 2, (400, 1, 1))).astype(np.float32)
    figures = landmark_figures(torch.from_numpy(given), torch.from_numpy(truth), normaliser="box")
    errors = np.array(errors_by_loops(given, truth, normaliser="box"))
    thresholds = np.linspace(0, 0.1, 200_001)
    curve = np.searchsorted(np.sort(errors), thresholds, side="right") / len(errors)
    assert 0.1 < figures["failure_rate"] < 0.9
    assert figures["nme"] == pytest.approx(errors.mean(), rel=1e-9)
    assert figures["failure_rate"] == np.mean(errors > 0.1)
    assert figures["auc"] == pytest.approx(np.trapezoid(curve, thresholds) / 0.1, abs=1e-5)


def test_the_ends_of_the_scale() -> None:
    truth = points(5)
    assert landmark_figures(truth, truth, normaliser="box") == {"nme": 0.0, "failure_rate": 0.0, "auc": 1.0}
    far = landmark_figures(truth + 1000, truth, normaliser="box")
    assert (far["failure_rate"], far["auc"]) == (1.0, 0.0)
    at_the_threshold = torch.tensor([0.1, 0.05], dtype=torch.float64)
    assert failure_rate(at_the_threshold) == 0.0
    assert area_under_curve(at_the_threshold) == pytest.approx(0.25)
    assert area_under_curve(at_the_threshold, threshold=0.2) == pytest.approx((0.5 + 0.75) / 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_answer_that_is_no_number_is_a_failure(bad: float) -> None:
    truth = points(6)
    given = truth.clone()
    given[2, 1, 0] = bad
    figures = landmark_figures(given, truth, normaliser=(0, 1))
    assert figures["nme"] == math.inf
    assert figures["failure_rate"] == pytest.approx(1 / B)
    assert figures["auc"] == pytest.approx((B - 1) / B)


def test_measures_do_not_change_with_place_and_scale() -> None:
    given, truth = points(7), points(8)
    for normaliser in ((0, 1), "box"):
        first = normalised_errors(given, truth, normaliser=normaliser)
        second = normalised_errors(given * 4 + 8, truth * 4 + 8, normaliser=normaliser)
        torch.testing.assert_close(first, second)
