from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill.losses import triplet_angles
from tests.fixtures.vectors import agrees_with_finite_differences, double, in_type, make_batch, make_method

Array = NDArray[np.float64]


def huber(gap: Array) -> Array:
    return np.where(np.abs(gap) < 1, 0.5 * gap**2, np.abs(gap) - 0.5)


def distances(points: Array) -> Array:
    found = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in points] for a in points])
    return np.asarray(found / found[found > 0].mean())


def angles(points: Array) -> Array:
    found = np.zeros((len(points),) * 3)
    for i, j, k in product(range(len(points)), repeat=3):
        a, b = points[j] - points[i], points[k] - points[i]
        if i not in (j, k):
            found[i, j, k] = a @ b / np.sqrt((a @ a) * (b @ b))
    return found


def test_the_losses_agree_with_a_float64_formula() -> None:
    batch = make_batch()
    assert batch.teacher is not None
    student, teacher = double(batch.student.pooled_BC), double(batch.teacher.pooled_BC)
    distance = huber(distances(student) - distances(teacher)).mean()
    angle = huber(angles(student) - angles(teacher)).mean()

    found = make_method("rkd", weight=1.5)(batch)

    assert found["rkd_distance"].item() == pytest.approx(distance, rel=1e-6)
    assert found["rkd_angle"].item() == pytest.approx(angle, rel=1e-6)
    assert found["loss"].item() == pytest.approx(1.5 * (25 * distance + 50 * angle), rel=1e-6)


def test_the_gradient_agrees_with_finite_differences() -> None:
    assert agrees_with_finite_differences(make_method("rkd"), make_batch())


def test_a_part_without_weight_is_left_out() -> None:
    method = make_method("rkd", angle_weight=0.0)

    assert method.parts == ("rkd_distance",)
    assert set(method(make_batch())) == {"loss", "rkd_distance"}


def test_equal_features_leave_the_gradient_finite() -> None:
    """A student whose ReLUs are dead for several images, where the teacher tells them apart."""
    batch = make_batch()
    with torch.no_grad():
        batch.student.pooled_BC[:3] = 0.0
    make_method("rkd")(batch)["loss"].backward()

    assert batch.student.pooled_BC.grad is not None
    assert batch.student.pooled_BC.grad.abs().max() < 1e3


def test_a_student_that_sees_no_difference_at_all_has_a_finite_loss() -> None:
    batch = make_batch()
    with torch.no_grad():
        batch.student.pooled_BC.zero_()
    found = make_method("rkd")(batch)["loss"]
    found.backward()

    assert found.isfinite()
    assert batch.student.pooled_BC.grad is not None
    assert batch.student.pooled_BC.grad.isfinite().all()


def test_near_points_far_from_zero_keep_their_distance_in_float32() -> None:
    """|a|² + |b|² - 2ab would lose it."""
    batch = make_batch()
    with torch.no_grad():
        batch.student.pooled_BC.mul_(1e-3).add_(30.0)
    batch = in_type(batch, torch.float32)
    assert batch.teacher is not None
    gaps = distances(double(batch.student.pooled_BC)) - distances(double(batch.teacher.pooled_BC))

    found = make_method("rkd")(batch)

    assert found["rkd_distance"].item() == pytest.approx(huber(gaps).mean(), rel=1e-5)


def test_large_batches_are_taken_in_pieces_to_the_same_loss_and_gradient() -> None:
    generator = torch.Generator().manual_seed(5)
    student, teacher, step = (torch.randn(260, 3, generator=generator, dtype=torch.float64) for _ in range(3))

    def directions(points: Array) -> Array:
        gaps = points[None] - points[:, None]
        lengths = np.sqrt((gaps**2).sum(axis=2, keepdims=True))
        return np.asarray(gaps / np.where(lengths > 0, lengths, 1.0))

    def expected(points: Array) -> float:
        unit, target = directions(points), directions(teacher.numpy())
        total = sum(huber(a @ a.T - b @ b.T).sum() for a, b in zip(unit, target, strict=True))
        return float(total / len(points) ** 3)

    student.requires_grad_()
    found = triplet_angles(student, teacher)
    found.backward()

    assert found.item() == pytest.approx(expected(double(student)), rel=1e-6)
    assert student.grad is not None
    ahead, behind = (expected(double(student + sign * 1e-5 * step)) for sign in (1, -1))
    assert (student.grad * step).sum().item() == pytest.approx((ahead - behind) / 2e-5, rel=1e-5)


def test_one_image_has_no_relations() -> None:
    assert make_method("rkd")(make_batch(size=1))["loss"].item() == 0.0
