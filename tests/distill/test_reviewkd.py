from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.batch import POOLED, Batch
from distill.errors import InputError
from distill.map_losses import hierarchical_context
from distill.method_specs import ReviewKDSettings
from distill.methods.reviewkd import ReviewKD
from distill.pairs import Pair
from tests.fixtures.map_pairs import (
    Array,
    assert_gradient_is_right,
    assert_learns_and_spares_the_teacher,
    assert_near_in_bf16,
    assert_resumes,
    batch_of,
    double,
    pair_of,
    sizes,
)
from tests.fixtures.numpy_layers import convolved, nearest, normed, pooled_to

PAIRS = {
    "equal": pair_of(sizes((4, 6, 6), (5, 3, 3)), sizes((4, 6, 6), (5, 3, 3))),
    "other channels and sizes": pair_of(sizes((4, 5, 5), (5, 7, 7)), sizes((7, 8, 8), (3, 4, 4))),
    "not square": pair_of(sizes((4, 6, 2), (5, 3, 2)), sizes((7, 5, 3), (3, 3, 1))),
    "one stage more": pair_of(sizes((9, 9, 9), (4, 6, 6)), sizes((6, 5, 5), last=(5, 3, 3))),
    "a vector behind stages": pair_of(sizes((4, 6, 6), pooled=6), sizes((5, 6, 6), pooled=3)),
}


def distance(student: Array, teacher: Array) -> float:
    """The hierarchical loss of one stage: weights 1, 1/2, 1/4, 1/8 over the levels there are, by their sum."""
    levels = [side for side in (4, 2, 1) if side < student.shape[2]]
    parts = [((student - teacher) ** 2).mean()]
    parts += [((pooled_to(student, (side, side)) - pooled_to(teacher, (side, side))) ** 2).mean() for side in levels]
    weights = [0.5**number for number in range(len(parts))]
    return float(sum(w * part for w, part in zip(weights, parts, strict=True)) / sum(weights))


def reference(method: ReviewKD, pair: Pair, batch: Batch) -> float:
    """From the pooled feature back, stage by stage, in float64."""
    assert batch.teacher is not None
    student = [double(batch.student.pooled_BC)[:, :, None, None]]
    teacher = [double(batch.teacher.pooled_BC)[:, :, None, None]]
    student += [double(batch.student.maps[name]) for name in reversed(pair.student.stages)]
    teacher += [double(batch.teacher.maps[name]) for name in reversed(pair.teacher.stages)]
    total, carried = 0.0, None
    for fusion, mine, theirs in zip(method.fusions, student, teacher, strict=False):
        x = normed(convolved(mine, double(fusion.enter[0].weight)))
        if carried is not None:
            y = nearest(carried, mine.shape[2:])
            conv = fusion.weigh[0]
            z = convolved(np.concatenate([x, y], axis=1), double(conv.weight), double(conv.bias))
            z = 1.0 / (1.0 + np.exp(-z))
            x = x * z[:, [0]] + y * z[:, [1]]
        carried = nearest(x, theirs.shape[2:])
        out = normed(convolved(carried, double(fusion.leave[0].weight), padding=1))
        total += distance(out, theirs)
    return total


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("in_double", [True, False], ids=["float64", "float32"])
def test_the_loss_agrees_with_a_float64_formula(pair: Pair, in_double: bool) -> None:
    torch.manual_seed(0)
    method = ReviewKD(ReviewKDSettings(weight=4.0, warmup_epochs=0), pair=pair)
    method = method.double() if in_double else method
    batch = batch_of(pair, double=in_double)

    found = method(batch)

    expected = reference(method, pair, batch)
    assert found["reviewkd"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(4.0 * expected, rel=1e-6)


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 8])
def test_only_levels_below_the_maps_height_count(height: int) -> None:
    generator = torch.Generator().manual_seed(height)
    student, teacher = torch.randn(2, 2, 3, height, height, generator=generator, dtype=torch.float64)

    found = hierarchical_context(student, teacher).item()

    assert found == pytest.approx(distance(double(student), double(teacher)), rel=1e-9)


@pytest.mark.parametrize(
    ("warmup", "shares"),
    [("auto", [1 / 3, 2 / 3, 1.0, 1.0]), (4, [0.25, 0.5, 0.75, 1.0]), (1, [1.0] * 4), (0, [1.0] * 4)],
)
def test_the_weight_grows_over_the_first_epochs(warmup: int | str, shares: list[float]) -> None:
    """auto: a twelfth of the epochs, rounded up; 3 of 25."""
    pair = pair_of(sizes((4, 6, 6)), sizes((4, 6, 6)), epochs=25)
    method = ReviewKD(ReviewKDSettings(weight=2.0, warmup_epochs=warmup), pair=pair)  # type: ignore[arg-type]

    found = [method(batch_of(pair, epoch=epoch)) for epoch in (1, 2, 3, 4)]

    assert [(f["loss"] / f["reviewkd"]).item() for f in found] == pytest.approx([2.0 * share for share in shares])


def test_the_common_width_is_the_students_but_bounded() -> None:
    pair = PAIRS["other channels and sizes"]
    for bound, width in ((512, 5), (3, 3)):
        method = ReviewKD(ReviewKDSettings(max_width=bound), pair=pair)
        assert {fusion.enter[0].out_channels for fusion in method.fusions} == {width}


@pytest.mark.parametrize("name", ["other channels and sizes", "not square"])
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    pair = PAIRS[name]
    torch.manual_seed(0)
    method = ReviewKD(ReviewKDSettings(weight=1.0, warmup_epochs=0), pair=pair).double()
    assert_gradient_is_right(method, batch_of(pair, double=True), maps=pair.student.stages, pooled=True)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_it_teaches_stages_and_feature_and_spares_the_teacher(pair: Pair) -> None:
    batch = batch_of(pair)
    method = ReviewKD(ReviewKDSettings(), pair=pair)

    assert_learns_and_spares_the_teacher(method, batch, pair=pair)

    assert batch.student.pooled_BC.grad is not None
    assert method.teacher_needs == {POOLED, *pair.teacher.stages}


def test_bf16_is_near() -> None:
    pair = PAIRS["other channels and sizes"]
    assert_near_in_bf16(ReviewKD(ReviewKDSettings(), pair=pair), batch_of(pair))


def test_it_resumes() -> None:
    pair = PAIRS["other channels and sizes"]
    batches = [batch_of(pair, seed=seed, epoch=seed) for seed in (1, 2)]
    assert_resumes(lambda: ReviewKD(ReviewKDSettings(), pair=pair), batches)


def test_a_network_without_stages_is_refused() -> None:
    with pytest.raises(InputError, match="the student has no stages"):
        ReviewKD(ReviewKDSettings(), pair=pair_of(sizes(pooled=4), sizes((4, 6, 6))))
