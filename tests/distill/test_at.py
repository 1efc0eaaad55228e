from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.batch import Batch
from distill.errors import InputError
from distill.method_specs import ATSettings
from distill.methods.at import AT
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
    "equal": pair_of(sizes((4, 6, 6), (5, 3, 3)), sizes((4, 6, 6), (5, 3, 3))),
    "other channels and sizes": pair_of(sizes((4, 6, 6), (5, 7, 7)), sizes((7, 3, 3), (9, 4, 4))),
    "the teacher's are larger": pair_of(sizes((4, 4, 4)), sizes((7, 7, 7))),
    "not square": pair_of(sizes((4, 6, 2)), sizes((7, 3, 5))),
    "one stage more": pair_of(sizes((4, 6, 6), (5, 3, 3)), sizes((2, 9, 9), (4, 6, 6), (5, 3, 3))),
}


def attention(map_BCHW: Array) -> Array:
    """One image at a time: the mean over channels of the squares, as a row of length 1."""
    rows = [(image**2).mean(axis=0).ravel() for image in map_BCHW]
    return np.stack([row / np.sqrt((row**2).sum()) for row in rows])


def reference(pair: Pair, batch: Batch) -> float:
    """The definition, stage by stage from the last one back, in float64."""
    assert batch.teacher is not None
    student, teacher = (
        [double(features.maps[name]) for name in sorted(features.maps, reverse=True) if name != "last"]
        for features in (batch.student, batch.teacher)
    )
    total = 0.0
    for mine, theirs in zip(student, teacher, strict=False):
        a, b = fitted(mine, theirs)
        total += float(((attention(a) - attention(b)) ** 2).mean())
    return total


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32"])
def test_the_loss_agrees_with_a_float64_formula(pair: Pair, double: bool) -> None:
    batch = batch_of(pair, double=double)

    found = AT(ATSettings(weight=30.0), pair=pair)(batch)

    expected = reference(pair, batch)
    assert found["at"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(30.0 * expected, rel=1e-6)


def test_the_gradient_agrees_with_finite_differences() -> None:
    pair = PAIRS["other channels and sizes"]
    method = AT(ATSettings(weight=1.0), pair=pair)
    assert_gradient_is_right(method, batch_of(pair, double=True), maps=["stage1", "stage2"])


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_it_teaches_the_stages_and_spares_the_teacher(pair: Pair) -> None:
    method = AT(ATSettings(), pair=pair)
    assert_learns_and_spares_the_teacher(method, batch_of(pair), pair=pair)
    assert "last" not in method.teacher_needs
    assert not list(method.parameters())


def test_scale_and_signs_of_a_map_do_not_matter() -> None:
    pair = PAIRS["equal"]
    batch = batch_of(pair)
    assert batch.teacher is not None
    same = {name: -3.0 * value for name, value in batch.teacher.maps.items()}
    batch.student.maps.update(same)  # type: ignore[attr-defined]

    assert AT(ATSettings(), pair=pair)(batch)["at"].item() == pytest.approx(0.0, abs=1e-12)


def test_a_map_of_zeros_gives_a_finite_loss_and_gradient() -> None:
    pair = PAIRS["equal"]
    batch = batch_of(pair)
    dead = torch.zeros_like(batch.student.maps["stage1"], requires_grad=True)
    batch.student.maps["stage1"] = dead  # type: ignore[index]

    loss = AT(ATSettings(), pair=pair)(batch)["loss"]
    loss.backward()

    assert loss.isfinite()
    assert dead.grad is not None
    assert dead.grad.isfinite().all()


def test_bf16_is_near() -> None:
    pair = PAIRS["other channels and sizes"]
    assert_near_in_bf16(AT(ATSettings(), pair=pair), batch_of(pair))


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_network_without_stages_is_refused_with_what_would_work(who: str) -> None:
    both = {"student": sizes((4, 6, 6)), "teacher": sizes((4, 6, 6)), who: sizes(pooled=4)}

    with pytest.raises(InputError, match=f"the {who} has no stages") as caught:
        AT(ATSettings(), pair=pair_of(**both))

    assert (caught.value.code, caught.value.param) == ("invalid_value", "/method/type")
    assert "kd" in caught.value.hint
