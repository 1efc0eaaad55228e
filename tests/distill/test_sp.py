from __future__ import annotations

import numpy as np
import pytest

from distill.batch import POOLED
from distill.method_specs import SPSettings
from distill.methods.sp import SP
from distill.pairs import Pair
from tests.fixtures.map_pairs import (
    BATCH,
    Array,
    assert_gradient_is_right,
    assert_learns_and_spares_the_teacher,
    assert_near_in_bf16,
    batch_of,
    double,
    pair_of,
    sizes,
)

MAP, OTHER, VECTOR = sizes((4, 3, 3)), sizes((4, 3, 3), last=(6, 2, 5)), sizes(pooled=7)
PAIRS = {
    "maps": pair_of(MAP, MAP),
    "other shapes": pair_of(MAP, OTHER),
    "a vector of the student": pair_of(VECTOR, OTHER),
    "a vector of the teacher": pair_of(OTHER, VECTOR),
    "two vectors": pair_of(VECTOR, VECTOR),
}


def similarities(features: Array) -> Array:
    """The Gram matrix of the batch, each row of length 1."""
    rows = [feature.ravel() for feature in features]
    gram = np.array([[sum(x * y for x, y in zip(a, b, strict=True)) for b in rows] for a in rows])
    return np.stack([row / np.sqrt((row**2).sum()) for row in gram])


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("in_double", [True, False], ids=["float64", "float32"])
def test_the_loss_agrees_with_a_float64_formula(pair: Pair, in_double: bool) -> None:
    batch = batch_of(pair, double=in_double)
    assert batch.teacher is not None
    student, teacher = (
        double(features.maps.get("last", features.pooled_BC)) for features in (batch.student, batch.teacher)
    )
    expected = ((similarities(teacher) - similarities(student)) ** 2).sum() / BATCH**2

    found = SP(SPSettings(weight=11.0), pair=pair)(batch)

    assert found["sp"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(11.0 * expected, rel=1e-6)


@pytest.mark.parametrize(("name", "maps"), [("other shapes", ["last"]), ("two vectors", [])])
def test_the_gradient_agrees_with_finite_differences(name: str, maps: list[str]) -> None:
    method = SP(SPSettings(weight=1.0), pair=PAIRS[name])
    batch = batch_of(PAIRS[name], double=True)
    assert_gradient_is_right(method, batch, maps=maps, pooled=not maps)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_it_teaches_the_last_map_or_the_vector_and_spares_the_teacher(pair: Pair) -> None:
    batch = batch_of(pair)
    method = SP(SPSettings(), pair=pair)

    assert_learns_and_spares_the_teacher(method, batch, pair=pair)

    assert (batch.student.pooled_BC.grad is not None) == ("last" not in pair.student.maps)
    assert method.teacher_needs == {"last" if "last" in pair.teacher.maps else POOLED}


def test_bf16_is_near() -> None:
    assert_near_in_bf16(SP(SPSettings(), pair=PAIRS["other shapes"]), batch_of(PAIRS["other shapes"]))
