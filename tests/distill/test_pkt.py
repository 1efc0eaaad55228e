from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.fixtures.vectors import B, agrees_with_finite_differences, double, make_batch, make_method


def affinities(points: NDArray[np.float64]) -> list[list[float]]:
    """The definition, one number at a time."""
    lengths = [math.sqrt(sum(x * x for x in point)) + 1e-7 for point in points]
    rows = []
    for a, length in zip(points, lengths, strict=True):
        row = [(a @ b / (length * other) + 1) / 2 for b, other in zip(points, lengths, strict=True)]
        rows.append([value / sum(row) for value in row])
    return rows


def test_the_loss_agrees_with_a_float64_formula() -> None:
    batch = make_batch()
    assert batch.teacher is not None
    q, p = affinities(double(batch.student.pooled_BC)), affinities(double(batch.teacher.pooled_BC))
    terms = [p[i][j] * math.log((p[i][j] + 1e-7) / (q[i][j] + 1e-7)) for i in range(B) for j in range(B)]
    expected = sum(terms) / B**2

    found = make_method("pkt", weight=2000.0)(batch)

    assert found["pkt"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(2000.0 * expected, rel=1e-6)


def test_the_gradient_agrees_with_finite_differences() -> None:
    assert agrees_with_finite_differences(make_method("pkt"), make_batch())


def test_a_feature_of_zeros_leaves_the_gradient_finite() -> None:
    batch = make_batch()
    with torch.no_grad():
        batch.student.pooled_BC[0] = 0.0
    make_method("pkt")(batch)["loss"].backward()

    assert batch.student.pooled_BC.grad is not None
    assert batch.student.pooled_BC.grad.isfinite().all()
