from __future__ import annotations

import numpy as np
import pytest

from distill.batch import Batch
from distill.errors import InputError
from distill.method_specs import NSTSettings
from distill.methods.nst import NST
from distill.pairs import Pair
from tests.fixtures.map_pairs import (
    Array,
    assert_gradient_is_right,
    assert_learns_and_spares_the_teacher,
    assert_near_in_bf16,
    batch_of,
    double,
    pair_of,
    sizes,
)
from tests.fixtures.numpy_layers import fitted

PAIRS = {
    "more places than channels": pair_of(sizes((4, 5, 5), (5, 3, 3)), sizes((3, 5, 5), (6, 3, 3))),
    "fewer places than channels": pair_of(sizes((7, 2, 2)), sizes((6, 2, 2))),
    "of one network alone": pair_of(sizes((7, 2, 2)), sizes((3, 2, 2))),
    "other sizes": pair_of(sizes((4, 6, 6), (5, 7, 7)), sizes((7, 3, 3), (9, 4, 4))),
    "not square": pair_of(sizes((4, 6, 2)), sizes((7, 3, 5))),
}


def kernel(a_CP: Array, b_DP: Array) -> float:
    """Mean over all pairs of channels of the squared product of their patterns."""
    return float(np.mean([[np.dot(a, b) ** 2 for b in b_DP] for a in a_CP]))


def patterns(image_CHW: Array) -> Array:
    return np.stack([channel.ravel() / np.sqrt((channel**2).sum()) for channel in image_CHW])


def reference(pair: Pair, batch: Batch) -> float:
    """The definition, one image and one pair of channels at a time, in float64."""
    assert batch.teacher is not None
    total = 0.0
    for name in pair.student.stages:
        mine, theirs = fitted(double(batch.student.maps[name]), double(batch.teacher.maps[name]))
        found = []
        for student, teacher in zip(mine, theirs, strict=True):
            a, b = patterns(student), patterns(teacher)
            found.append(kernel(b, b) + kernel(a, a) - 2.0 * kernel(a, b))
        total += float(np.mean(found))
    return total


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_the_loss_agrees_with_a_float64_formula(pair: Pair, double: bool) -> None:
    batch = batch_of(pair, double=double)

    found = NST(NSTSettings(weight=7.0), pair=pair)(batch)

    expected = reference(pair, batch)
    assert found["nst"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(7.0 * expected, rel=1e-6)


@pytest.mark.parametrize("name", ["other sizes", "fewer places than channels"])
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    pair = PAIRS[name]
    method = NST(NSTSettings(weight=1.0), pair=pair)
    assert_gradient_is_right(method, batch_of(pair, double=True), maps=pair.student.stages)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_it_teaches_the_stages_and_spares_the_teacher(pair: Pair) -> None:
    assert_learns_and_spares_the_teacher(NST(NSTSettings(), pair=pair), batch_of(pair), pair=pair)


@pytest.mark.parametrize("name", ["more places than channels", "fewer places than channels"])
def test_the_order_of_the_channels_does_not_matter(name: str) -> None:
    shapes = PAIRS[name].teacher
    pair = pair_of(shapes, shapes)
    batch = batch_of(pair)
    assert batch.teacher is not None
    turned = {name: value.flip(1) for name, value in batch.teacher.maps.items()}
    batch.student.maps.update(turned)  # type: ignore[attr-defined]

    assert NST(NSTSettings(), pair=pair)(batch)["nst"].item() == pytest.approx(0.0, abs=1e-6)


def test_bf16_is_near() -> None:
    pair = PAIRS["other sizes"]
    assert_near_in_bf16(NST(NSTSettings(), pair=pair), batch_of(pair))


def test_a_network_without_stages_is_refused() -> None:
    with pytest.raises(InputError, match="the student has no stages"):
        NST(NSTSettings(), pair=pair_of(sizes(pooled=4), sizes((4, 6, 6))))
