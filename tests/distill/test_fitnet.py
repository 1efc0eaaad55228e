from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from distill.errors import InputError
from distill.method_specs import FitNetSettings
from distill.methods.fitnet import FitNet, Regressor
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
from tests.fixtures.numpy_layers import convolved, fitted, normed, pooled_to, spread

THREE = sizes((4, 8, 8), (5, 4, 4), (6, 2, 2))
PAIRS = {
    "equal": pair_of(THREE, THREE),
    "other channels": pair_of(THREE, sizes((3, 8, 8), (7, 4, 4), (9, 2, 2))),
    "half": pair_of(sizes((4, 8, 8)), sizes((7, 4, 4))),
    "half of an odd size": pair_of(sizes((4, 7, 7)), sizes((7, 4, 4))),
    "half, not square": pair_of(sizes((4, 8, 5)), sizes((7, 4, 3))),
    "twice": pair_of(sizes((4, 3, 3)), sizes((7, 6, 6))),
    "twice less one": pair_of(sizes((4, 4, 4)), sizes((7, 7, 7))),
    "twice on one side, one less on the other": pair_of(sizes((4, 3, 2)), sizes((7, 6, 3))),
    "much smaller": pair_of(sizes((4, 8, 8)), sizes((7, 3, 2))),
    "a little larger": pair_of(sizes((4, 5, 5)), sizes((7, 6, 6))),
    "larger and smaller": pair_of(sizes((4, 5, 2)), sizes((7, 2, 3))),
}


def convolution(conv: nn.Module, student: Array, teacher: Array) -> Array:
    """What the sizes alone ask for."""
    weight, bias = double(conv.weight), double(conv.bias)  # type: ignore[arg-type]
    s, t = student.shape[2:], teacher.shape[2:]
    if s != t and all((a + 1) // 2 == b for a, b in zip(s, t, strict=True)):
        assert weight.shape[2:] == (3, 3)
        return convolved(student, weight, bias, stride=2, padding=1)
    if s != t and all(b in (2 * a, 2 * a - 1) for a, b in zip(s, t, strict=True)):
        return spread(student, weight, bias, stride=2, padding=1)
    if all(a >= b for a, b in zip(s, t, strict=True)):
        assert weight.shape[2:] == tuple(1 + a - b for a, b in zip(s, t, strict=True))
        return convolved(student, weight, bias)
    assert weight.shape[2:] == (1, 1)
    return convolved(pooled_to(student, (min(s[0], t[0]), min(s[1], t[1]))), weight, bias)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("in_double", [True, False], ids=["float64", "float32"])
def test_the_loss_agrees_with_a_float64_formula(pair: Pair, in_double: bool) -> None:
    method = FitNet(FitNetSettings(weight=9.0), pair=pair)
    method = method.double() if in_double else method
    batch = batch_of(pair, double=in_double)
    assert batch.teacher is not None
    name = pair.student.stages[len(pair.student.stages) // 2]
    student, teacher = double(batch.student.maps[name]), double(batch.teacher.maps[name])
    regressed = np.maximum(normed(convolution(method.regressor.conv, student, teacher)), 0.0)
    a, b = fitted(regressed, teacher)
    expected = float(((a - b) ** 2).mean())

    found = method(batch)

    assert found["fitnet"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(9.0 * expected, rel=1e-6)


@pytest.mark.parametrize("name", sorted(set(PAIRS) - {"a little larger", "larger and smaller"}))
def test_what_is_regressed_has_the_teachers_shape(name: str) -> None:
    pair = PAIRS[name]
    student, teacher = pair.student.maps["stage1"], pair.teacher.maps["stage1"]
    batch = batch_of(pair)
    assert batch.teacher is not None

    found = Regressor(student, teacher)(batch.student.maps["stage1"])

    assert found.shape == batch.teacher.maps["stage1"].shape


def test_the_benchmarks_kinds_have_the_benchmarks_parameters() -> None:
    """Counted on its ConvReg of 16 to 32 channels: 8 to 8, 16 to 8, 8 to 16, 8 to 6 places a side."""
    sides = {(8, 8): 608, (16, 8): 4704, (8, 16): 8288, (8, 6): 4704}
    for (student, teacher), count in sides.items():
        layer = Regressor((16, student, student), (32, teacher, teacher))
        assert sum(p.numel() for p in layer.parameters()) == count


@pytest.mark.parametrize("name", ["other channels", "half of an odd size", "twice less one", "larger and smaller"])
def test_the_gradient_agrees_with_finite_differences(name: str) -> None:
    pair = PAIRS[name]
    method = FitNet(FitNetSettings(weight=1.0), pair=pair).double()
    assert_gradient_is_right(method, batch_of(pair, double=True), maps=[method.student_stage])


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_it_teaches_one_stage_and_spares_the_teacher(pair: Pair) -> None:
    assert_learns_and_spares_the_teacher(FitNet(FitNetSettings(), pair=pair), batch_of(pair), pair=pair)


def test_the_middle_stage_is_counted_among_those_that_match() -> None:
    four, two = sizes((2, 8, 8), (4, 8, 8), (5, 4, 4), (6, 2, 2)), sizes((5, 4, 4), (6, 2, 2))

    chosen = [
        (method.student_stage, method.teacher_stage)
        for method in (
            FitNet(FitNetSettings(), pair=pair_of(*pair)) for pair in ((THREE, THREE), (four, THREE), (four, two))
        )
    ]

    assert chosen == [("stage2", "stage2"), ("stage3", "stage2"), ("stage4", "stage2")]


def test_a_stage_can_be_named() -> None:
    for name in ("stage1", "stage3", "last"):
        method = FitNet(FitNetSettings(stage=name), pair=PAIRS["other channels"])
        assert (method.student_maps, method.teacher_needs) == ({name}, {name})


def test_a_stage_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match="The student has no map stage4") as caught:
        FitNet(FitNetSettings(stage="stage4"), pair=PAIRS["equal"])

    assert (caught.value.code, caught.value.param) == ("invalid_value", "/method/fitnet/stage")
    assert "stage1, stage2, stage3, last" in caught.value.hint


def test_a_network_without_stages_is_refused() -> None:
    with pytest.raises(InputError, match="the student has no stages"):
        FitNet(FitNetSettings(), pair=pair_of(sizes(pooled=4), THREE))


def test_bf16_is_near() -> None:
    pair = PAIRS["half of an odd size"]
    assert_near_in_bf16(FitNet(FitNetSettings(), pair=pair), batch_of(pair))


def test_it_resumes() -> None:
    pair = PAIRS["twice"]
    assert_resumes(lambda: FitNet(FitNetSettings(), pair=pair), [batch_of(pair, seed=seed) for seed in (1, 2)])
