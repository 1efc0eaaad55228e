from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from distill.batch import POOLED, Batch
from distill.losses import label_cross_entropy
from distill.method_specs import SRRLSettings
from distill.methods.srrl import SRRL, Connector, VectorConnector
from distill.objective import Objective, answer
from distill.pairs import Pair
from tests.fixtures.map_pairs import (
    BATCH,
    assert_near_in_bf16,
    assert_resumes,
    batch_of,
    double,
    pair_of,
    sizes,
)
from tests.fixtures.srrl_losses import connect, regression, squared

CS, CT = 5, 8
MAPS = pair_of(sizes((CS, 3, 3)), sizes((CT, 3, 3)))
OTHER_SIZES = pair_of(sizes((CS, 3, 3)), sizes((CT, 2, 5)))
VECTOR = pair_of(sizes(pooled=CS), sizes((CT, 3, 3)))
TO_VECTOR = pair_of(sizes((CS, 3, 3)), sizes(pooled=CT))
PAIRS = {"maps": MAPS, "other sizes": OTHER_SIZES, "a vector": VECTOR, "a teacher's vector": TO_VECTOR}


def build(pair: Pair = MAPS, **settings: Any) -> SRRL:
    torch.manual_seed(3)
    return SRRL(SRRLSettings(**{"activation": "relu", **settings}), pair=pair)


def reference(method: SRRL, pair: Pair, batch: Batch, *, kind: str = "l2", reduction: str = "mean") -> dict[str, float]:
    """Both losses at the penultimate layer, as the paper and the authors' code define them."""
    assert batch.teacher is not None
    given = batch.student.maps.get("last", batch.student.pooled_BC)
    pooled = connect(method.connectors["last"], double(given)).mean(axis=(2, 3))
    teacher, w, b = double(batch.teacher.pooled_BC), double(pair.classifier.weight), double(pair.classifier.bias)
    logits = pooled @ w.T + b, teacher @ w.T + b
    return {
        "fm": squared(pooled, teacher, reduction=reduction),
        "sr": regression(*logits, kind=kind, reduction=reduction),
    }


@pytest.mark.parametrize("kind", ["l2", "ce", "kl"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_losses_agree_with_a_float64_formula(pair: Pair, activation: str, reduction: str, kind: str) -> None:
    batch = batch_of(pair)
    settings = {"activation": activation, "reduction": reduction, "regression_loss": kind}
    method = build(pair, feature_weight=0.7, regression_weight=2.5, **settings)
    expected = reference(method, pair, batch, kind=kind, reduction=reduction)

    found = method(batch)

    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-6, abs=1e-6), name
    assert found["loss"].item() == pytest.approx(0.7 * expected["fm"] + 2.5 * expected["sr"], rel=1e-6)


def test_the_labels_of_the_students_own_head_come_beside_it() -> None:
    batch = batch_of(MAPS)
    method = build(feature_weight=0.7, regression_weight=2.5)
    objective = Objective(label_cross_entropy, label_part="ce", label_weight=0.4, methods=[method])
    logits = double(batch.student.logits_BK)
    log_q = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = {"ce": -log_q[np.arange(BATCH), batch.targets_B.numpy()].mean(), **reference(method, MAPS, batch)}

    found = objective(batch)

    assert objective.parts == ("ce", "fm", "sr")
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-6, abs=1e-6), name
    total = 0.4 * expected["ce"] + 0.7 * expected["fm"] + 2.5 * expected["sr"]
    assert found["loss"].item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("pair", [MAPS, VECTOR], ids=["map", "vector"])
def test_the_gradient_agrees_with_finite_differences_of_the_formula(pair: Pair) -> None:
    batch = batch_of(pair)
    method = build(pair, feature_weight=0.0)
    given = batch.student.maps.get("last", batch.student.pooled_BC)
    direction = torch.randn(given.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(method(batch)["loss"], [given])

    def moved(by: float) -> float:
        value = given.detach().double() + by * direction
        maps = {"last": value} if "last" in pair.student.maps else {}
        return reference(method, pair, replace(batch, student=replace(batch.student, maps=maps, pooled_BC=value)))["sr"]

    slope = (moved(1e-6) - moved(-1e-6)) / 2e-6
    assert (gradient.double() * direction).sum().item() == pytest.approx(slope, rel=1e-4)


def test_the_bias_cancels_so_that_l_sr_is_l_fm_in_the_classifiers_metric() -> None:
    batch = batch_of(MAPS)
    assert batch.teacher is not None
    method = build().eval()
    pooled = method.connect("last", batch.student).mean(dim=(2, 3)).double()
    gap = (pooled - batch.teacher.pooled_BC.double()) @ MAPS.classifier.weight.double().T

    assert method(batch)["sr"].item() == pytest.approx(gap.square().mean().item(), rel=1e-5)


def test_l_sr_alone_reaches_student_and_connector_but_never_the_classifier() -> None:
    batch = batch_of(MAPS)
    method = build(label_weight=0.0, feature_weight=0.0)

    found = method(batch)
    found["loss"].backward()

    assert found.keys() == {"loss", "sr"}
    for learns in (batch.student.maps["last"], method.connectors["last"].conv.weight):  # type: ignore[union-attr]
        assert learns.grad is not None
        assert learns.grad.abs().sum() > 0
    assert MAPS.classifier.weight.grad is None
    assert not any(parameter.requires_grad for parameter in method.classifier.parameters())


def test_without_either_loss_nothing_is_added() -> None:
    method = build(feature_weight=0.0, regression_weight=0.0)
    found = method(batch_of(MAPS))
    assert method.parts == ()
    assert found.keys() == {"loss"}
    assert found["loss"].item() == 0.0


# ------------------------------------------------------------ connector and head


@pytest.mark.parametrize("relu", [True, False])
def test_the_connector_acts_on_the_map_before_pooling(relu: bool) -> None:
    torch.manual_seed(0)
    connector = Connector(CS, CT, relu=relu).eval()
    maps = torch.randn(6, CS, 3, 3)

    behind = connector(maps).mean(dim=(2, 3))
    before = connector(maps.mean(dim=(2, 3), keepdim=True)).flatten(1)

    assert torch.allclose(behind, before, atol=0.05) != relu  # ReLU and pooling do not commute


def test_the_connector_starts_as_the_authors_code_does() -> None:
    torch.manual_seed(0)
    connector = Connector(256, 128, relu=True)

    assert connector.conv.bias is None
    assert connector.conv.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)
    assert torch.equal(connector.bn.weight, torch.ones(128))
    assert sum(p.numel() for p in Connector(64, 64, relu=True).parameters()) == 4_224  # measured on the authors' code
    assert sum(p.numel() for p in VectorConnector(64, 64, relu=True).parameters()) == 4_224


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("head", ["own", "teacher"])
def test_the_result_answers_with_the_head_that_was_asked_for(pair: Pair, head: str) -> None:
    batch = batch_of(pair)
    method = build(pair, head=head).eval()
    found = method.result_head()
    if head == "own":
        assert found is None
        return
    connected = method.connect("last", batch.student)
    pooled = connected.mean(dim=(2, 3)) if connected.dim() == 4 else connected

    assert found is not None
    expected = pooled @ pair.classifier.weight.T + pair.classifier.bias
    torch.testing.assert_close(answer(found, batch.student), expected)


def test_auto_is_a_relu_where_the_teachers_features_are_never_negative() -> None:
    two = sizes((CS, 3, 3), (CS, 3, 3))
    pair = replace(pair_of(two, two), nonnegative=frozenset({POOLED, "stage1"}))
    method = build(pair, activation="auto", stages=["stage1", "stage2", "last"])
    assert {name: facts["relu"] for name, facts in method.facts().items()} == {
        "last": True,
        "stage1": True,
        "stage2": False,
    }


def test_bf16_is_near() -> None:
    assert_near_in_bf16(build(), batch_of(MAPS))


@pytest.mark.parametrize("pair", [MAPS, VECTOR], ids=["map", "vector"])
def test_it_resumes(pair: Pair) -> None:
    assert_resumes(lambda: SRRL(SRRLSettings(), pair=pair), [batch_of(pair, seed=seed) for seed in (1, 2)])
