from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.batch import Batch
from tests.fixtures.vectors import B, K, N, agrees_with_finite_differences, double, make_batch, make_method, make_pair

TEMPERATURE = 3.0


def reference(batch: Batch) -> tuple[float, float]:
    """TCKD and NCKD from probabilities, image by image, over those that have a label."""
    assert batch.teacher is not None
    target_terms, other_terms = [], []
    for student, teacher, label in zip(
        double(batch.student.logits_BK), double(batch.teacher.logits_BK), batch.targets_B.tolist(), strict=True
    ):
        if label < 0:
            continue
        q, p = (np.exp(z / TEMPERATURE) / np.exp(z / TEMPERATURE).sum() for z in (student, teacher))
        others = [k for k in range(K) if k != label]
        target_terms.append(
            p[label] * np.log(p[label] / q[label]) + (1 - p[label]) * np.log((1 - p[label]) / (1 - q[label]))
        )
        p_others, q_others = p[others] / p[others].sum(), q[others] / q[others].sum()
        other_terms.append((p_others * np.log(p_others / q_others)).sum())
    return TEMPERATURE**2 * float(np.mean(target_terms)), TEMPERATURE**2 * float(np.mean(other_terms))


def test_the_losses_agree_with_a_float64_formula() -> None:
    batch = make_batch()
    tckd, nckd = reference(batch)
    settings = {"temperature": TEMPERATURE, "target_weight": 1.5, "nontarget_weight": 6.0, "warmup_epochs": 0}

    found = make_method("dkd", **settings)(batch)

    assert found["tckd"].item() == pytest.approx(tckd, rel=1e-6)
    assert found["nckd"].item() == pytest.approx(nckd, rel=1e-6)
    assert found["loss"].item() == pytest.approx(1.5 * tckd + 6.0 * nckd, rel=1e-6)


def test_the_gradient_agrees_with_finite_differences() -> None:
    assert agrees_with_finite_differences(make_method("dkd", warmup_epochs=0), make_batch())


def test_images_without_a_label_add_nothing() -> None:
    batch = make_batch()
    some = replace(batch, targets_B=torch.where(torch.arange(B) % 3 == 0, batch.targets_B, -1))
    tckd, nckd = reference(some)

    found = make_method("dkd", temperature=TEMPERATURE)(some)
    found["loss"].backward()

    assert (found["tckd"].item(), found["nckd"].item()) == pytest.approx((tckd, nckd), rel=1e-6)
    assert some.student.logits_BK.grad is not None
    assert some.student.logits_BK.grad[1::3].eq(0).all()
    assert some.student.logits_BK.grad[::3].ne(0).any()


def test_a_batch_without_any_label_costs_nothing() -> None:
    batch = make_batch()
    found = make_method("dkd")(replace(batch, targets_B=torch.full((B,), -1)))
    found["loss"].backward()

    assert [value.item() for value in found.values()] == [0.0, 0.0, 0.0]
    assert batch.student.logits_BK.grad is not None
    assert batch.student.logits_BK.grad.eq(0).all()


def test_without_labels_it_does_not_claim_to_teach_the_classifier() -> None:
    assert make_method("dkd").trains_logits
    assert not make_method("dkd", pair=make_pair(labels_N=torch.full((N,), -1))).trains_logits


@pytest.mark.parametrize(
    ("warmup", "epochs", "epoch", "growth"),
    [
        ("auto", 240, 1, 1 / 20),
        ("auto", 240, 20, 1.0),
        ("auto", 240, 200, 1.0),
        ("auto", 100, 3, 3 / 9),
        ("auto", 1, 1, 1.0),
        (4, 9, 3, 0.75),
        (0, 240, 1, 1.0),
    ],
)
def test_the_weight_grows_over_the_warm_up_and_the_parts_do_not(
    warmup: int | str, epochs: int, epoch: int, growth: float
) -> None:
    pair = make_pair(epochs=epochs)
    found = make_method("dkd", pair=pair, warmup_epochs=warmup, nontarget_weight=2.0)(make_batch(epoch=epoch))
    first = make_method("dkd", warmup_epochs=0, nontarget_weight=2.0)(make_batch())

    assert found["loss"].item() == pytest.approx(growth * first["loss"].item(), rel=1e-12)
    assert found["tckd"].item() == first["tckd"].item()


def test_logits_of_any_size_leave_the_loss_finite() -> None:
    batch = make_batch()
    assert batch.teacher is not None
    with torch.no_grad():
        batch.student.logits_BK.mul_(1e4)
        batch.teacher.logits_BK.mul_(1e4)
    found = make_method("dkd", temperature=1.0)(batch)["loss"]
    found.backward()

    assert found.isfinite()
    assert batch.student.logits_BK.grad is not None
    assert batch.student.logits_BK.grad.isfinite().all()
