from __future__ import annotations

import math

import pytest
import torch

from tests.fixtures.vectors import B, K, agrees_with_finite_differences, double, make_batch, make_method

TEMPERATURE = 3.0


def softened(logits: list[float]) -> list[float]:
    powers = [math.exp(logit / TEMPERATURE) for logit in logits]
    return [power / sum(powers) for power in powers]


def test_the_loss_is_the_divergence_of_softened_probabilities_times_the_square_of_the_temperature() -> None:
    batch = make_batch()
    assert batch.teacher is not None
    divergence = 0.0
    for student, teacher in zip(double(batch.student.logits_BK), double(batch.teacher.logits_BK), strict=True):
        divergence += sum(p * math.log(p / q) for p, q in zip(softened(teacher), softened(student), strict=True))
    expected = TEMPERATURE**2 * divergence / B

    found = make_method("kd", temperature=TEMPERATURE, weight=0.7)(batch)

    assert found["kd"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(0.7 * expected, rel=1e-6)


def test_the_gradient_agrees_with_finite_differences() -> None:
    assert agrees_with_finite_differences(make_method("kd"), make_batch())


def test_it_is_zero_for_equal_probabilities_alone() -> None:
    batch = make_batch()
    assert batch.teacher is not None
    with torch.no_grad():
        batch.student.logits_BK.copy_(batch.teacher.logits_BK + 5.0)

    assert make_method("kd")(batch)["kd"].item() == pytest.approx(0.0, abs=1e-12)


def test_a_teacher_that_is_certain_leaves_the_loss_finite() -> None:
    batch = make_batch()
    assert batch.teacher is not None
    with torch.no_grad():
        batch.teacher.logits_BK.copy_(1e4 * torch.eye(B, K))
    found = make_method("kd", temperature=1.0)(batch)["loss"]
    found.backward()

    assert found.isfinite()
    assert batch.student.logits_BK.grad is not None
    assert batch.student.logits_BK.grad.isfinite().all()
