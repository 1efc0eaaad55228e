from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill.losses import feature_matching, softmax_regression

Array = NDArray[np.float64]
B, C, K = 7, 12, 5


@pytest.fixture
def arrays() -> tuple[Array, Array]:
    random = np.random.default_rng(3)
    return random.normal(size=(B, C)), random.normal(size=(B, C)) + 0.3


def squares(a: Array, b: Array, *, reduction: str) -> float:
    """The definition, one number at a time, in float64."""
    per_image = [[(x - y) ** 2 for x, y in zip(row, other, strict=True)] for row, other in zip(a, b, strict=True)]
    sums = [sum(row) for row in per_image]
    return float(sum(sums) / len(sums) / (1 if reduction == "sum" else a.shape[1]))


def probabilities(logits: Array) -> Array:
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_feature_matching_is_the_mean_over_the_batch_of_squared_distances(
    arrays: tuple[Array, Array], reduction: str
) -> None:
    a, b = arrays
    found = feature_matching(torch.tensor(a), torch.tensor(b), reduction=reduction)  # type: ignore[arg-type]

    assert found.item() == pytest.approx(squares(a, b, reduction=reduction), rel=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_softmax_regression_by_l2_compares_raw_logits(arrays: tuple[Array, Array], reduction: str) -> None:
    a, b = (x[:, :K] * 4 for x in arrays)
    found = softmax_regression(torch.tensor(a), torch.tensor(b), reduction=reduction)  # type: ignore[arg-type]

    assert found.item() == pytest.approx(squares(a, b, reduction=reduction), rel=1e-6)


def test_softmax_regression_by_cross_entropy_is_minus_p_log_q(arrays: tuple[Array, Array]) -> None:
    student, teacher = (x[:, :K] for x in arrays)
    expected = -(probabilities(teacher) * np.log(probabilities(student))).sum(axis=1).mean()

    found = softmax_regression(torch.tensor(student), torch.tensor(teacher), kind="ce")

    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_softmax_regression_by_kl_is_zero_only_for_equal_probabilities(arrays: tuple[Array, Array]) -> None:
    student, teacher = (x[:, :K] for x in arrays)
    p, q = probabilities(teacher), probabilities(student)
    expected = (p * (np.log(p) - np.log(q))).sum(axis=1).mean()

    found = softmax_regression(torch.tensor(student), torch.tensor(teacher), kind="kl")
    same = softmax_regression(torch.tensor(teacher + 3.0), torch.tensor(teacher), kind="kl")

    assert found.item() == pytest.approx(expected, rel=1e-6)
    assert same.item() == pytest.approx(0.0, abs=1e-6)


def test_low_precision_inputs_are_compared_in_float32() -> None:
    a = torch.full((2, 300), 1.0, dtype=torch.bfloat16)
    b = a + torch.tensor(0.0078125, dtype=torch.bfloat16)

    assert feature_matching(a, b).dtype == torch.float32
    assert feature_matching(a, b, reduction="sum").item() == pytest.approx(300 * 0.0078125**2, rel=1e-6)
