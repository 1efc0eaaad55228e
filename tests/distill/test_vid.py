from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.batch import Batch
from distill.errors import InputError
from distill.method_specs import VIDSettings
from distill.methods.vid import VID
from distill.pairs import Pair
from tests.fixtures.map_pairs import (
    assert_gradient_is_right,
    assert_learns_and_spares_the_teacher,
    assert_near_in_bf16,
    assert_resumes,
    batch_of,
    double,
    pair_of,
    sizes,
)
from tests.fixtures.numpy_layers import fitted

PAIRS = {
    "equal": pair_of(sizes((4, 6, 6), (5, 3, 3)), sizes((4, 6, 6), (5, 3, 3))),
    "other channels and sizes": pair_of(sizes((4, 6, 6), (5, 7, 7)), sizes((7, 3, 3), (9, 4, 4))),
    "the teacher's are larger": pair_of(sizes((4, 4, 4)), sizes((7, 7, 7))),
    "not square": pair_of(sizes((4, 6, 2)), sizes((7, 3, 5))),
}


def build(pair: Pair, *, weight: float = 1.0) -> VID:
    """One whose variances differ from channel to channel."""
    torch.manual_seed(0)
    method = VID(VIDSettings(weight=weight), pair=pair)
    with torch.no_grad():
        for gaussian in method.gaussians:
            gaussian.rho.add_(torch.randn(gaussian.rho.shape))
    return method


def reference(method: VID, pair: Pair, batch: Batch) -> float:
    """Half of (mu - t)²/s² + log s², averaged over everything, summed over the stages, in float64."""
    assert batch.teacher is not None
    total = 0.0
    for name, gaussian in zip(pair.student.stages, method.gaussians, strict=True):
        mean, teacher = fitted(double(batch.student.maps[name]), double(batch.teacher.maps[name]))
        weights = [double(layer.weight)[:, :, 0, 0] for layer in (gaussian.mean[0], gaussian.mean[2], gaussian.mean[4])]
        for number, weight in enumerate(weights):
            mean = np.einsum("oc,bchw->bohw", weight, mean)
            mean = np.maximum(mean, 0.0) if number < 2 else mean
        variance = (np.log(1.0 + np.exp(double(gaussian.rho))) + 1e-5)[:, None, None]
        total += float((0.5 * ((mean - teacher) ** 2 / variance + np.log(variance))).mean())
    return total


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("in_double", [True, False], ids=["float64", "float32"])
def test_the_loss_agrees_with_a_float64_formula(pair: Pair, in_double: bool) -> None:
    method = build(pair, weight=3.0)
    method = method.double() if in_double else method
    batch = batch_of(pair, double=in_double)

    found = method(batch)

    expected = reference(method, pair, batch)
    assert found["vid"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(3.0 * expected, rel=1e-6)


def test_every_channels_variance_is_5_at_the_start() -> None:
    for gaussian in VID(VIDSettings(), pair=PAIRS["equal"]).gaussians:
        torch.testing.assert_close(gaussian.variance(), torch.full_like(gaussian.rho, 5.0))


def test_the_gradient_agrees_with_finite_differences() -> None:
    pair = PAIRS["other channels and sizes"]
    assert_gradient_is_right(build(pair).double(), batch_of(pair, double=True), maps=pair.student.stages)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_it_teaches_the_stages_and_spares_the_teacher(pair: Pair) -> None:
    assert_learns_and_spares_the_teacher(build(pair), batch_of(pair), pair=pair)


def test_bf16_is_near() -> None:
    pair = PAIRS["other channels and sizes"]
    assert_near_in_bf16(build(pair), batch_of(pair))


def test_it_resumes() -> None:
    pair = PAIRS["other channels and sizes"]
    assert_resumes(lambda: VID(VIDSettings(), pair=pair), [batch_of(pair, seed=seed) for seed in (1, 2)])


def test_a_network_without_stages_is_refused() -> None:
    with pytest.raises(InputError, match="the teacher has no stages"):
        VID(VIDSettings(), pair=pair_of(sizes((4, 6, 6)), sizes(pooled=4)))
