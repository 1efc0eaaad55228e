from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.fixtures.vectors import agrees_with_finite_differences, double, make_batch, make_method

TEMPERATURE = 2.5


def test_the_losses_are_one_minus_the_correlations_of_rows_and_of_columns() -> None:
    batch = make_batch()
    assert batch.teacher is not None
    student, teacher = (
        np.exp(z / TEMPERATURE) / np.exp(z / TEMPERATURE).sum(axis=1, keepdims=True)
        for z in (double(batch.student.logits_BK), double(batch.teacher.logits_BK))
    )
    rows = [np.corrcoef(a, b)[0, 1] for a, b in zip(student, teacher, strict=True)]
    columns = [np.corrcoef(a, b)[0, 1] for a, b in zip(student.T, teacher.T, strict=True)]
    inter, intra = (TEMPERATURE**2 * (1 - np.mean(r)) for r in (rows, columns))

    found = make_method("dist", temperature=TEMPERATURE, weight=1.5, inter_weight=0.5, intra_weight=3.0)(batch)

    assert found["dist_inter"].item() == pytest.approx(inter, rel=1e-6)
    assert found["dist_intra"].item() == pytest.approx(intra, rel=1e-6)
    assert found["loss"].item() == pytest.approx(1.5 * (0.5 * inter + 3.0 * intra), rel=1e-6)


def test_the_gradient_agrees_with_finite_differences() -> None:
    assert agrees_with_finite_differences(make_method("dist"), make_batch())


def test_a_class_of_the_same_probability_everywhere_leaves_the_gradient_finite() -> None:
    batch = make_batch()
    with torch.no_grad():
        batch.student.logits_BK.zero_()
    found = make_method("dist")(batch)
    found["loss"].backward()

    assert found["dist_inter"].item() == pytest.approx(16.0)
    assert batch.student.logits_BK.grad is not None
    assert batch.student.logits_BK.grad.isfinite().all()
