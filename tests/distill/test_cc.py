from __future__ import annotations

import pytest
import torch

from distill.methods.cc import CC
from tests.fixtures.vectors import CS, CT, B, agrees_with_finite_differences, double, make_batch, make_method

WIDTH = 4


@pytest.fixture
def method() -> CC:
    torch.manual_seed(3)
    made = make_method("cc", width=WIDTH, weight=0.3)
    assert isinstance(made, CC)
    return made.double()


def test_the_loss_agrees_with_a_float64_formula(method: CC) -> None:
    batch = make_batch()
    assert batch.teacher is not None
    sides = ((method.student_embedding, batch.student), (method.teacher_embedding, batch.teacher))
    student, teacher = (double(e.weight) @ double(seen.pooled_BC).T + double(e.bias)[:, None] for e, seen in sides)
    gaps = abs(student - teacher).T
    expected = sum(gaps[i][d] * gaps[i + 1][d] for i in range(B - 1) for d in range(WIDTH)) / (B - 1)

    found = method(batch)

    assert found["cc"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(0.3 * expected, rel=1e-6)


def test_the_gradient_agrees_with_finite_differences(method: CC) -> None:
    assert agrees_with_finite_differences(method, make_batch())


def test_both_embeddings_are_trained(method: CC) -> None:
    method(make_batch())["loss"].backward()

    assert [tuple(p.shape) for p in method.parameters()] == [(WIDTH, CS), (WIDTH,), (WIDTH, CT), (WIDTH,)]
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_one_image_has_no_neighbour(method: CC) -> None:
    assert method(make_batch(size=1))["loss"].item() == 0.0
