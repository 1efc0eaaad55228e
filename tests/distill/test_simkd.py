from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill import students
from distill.errors import InputError
from distill.losses import label_cross_entropy
from distill.method_specs import SimKDMethod, SimKDSettings
from distill.methods.simkd import Projector, SimKD
from distill.objective import Objective
from distill.pairs import Pair, sizes_of
from distill.registry import build_network, build_objective, load_student
from distill.spec import NetworkOptions
from distill.taps import Tap
from tests.fixtures.map_pairs import (
    BATCH,
    CLASSES,
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
from tests.fixtures.numpy_layers import convolved, fitted, normed, pooled_to

PAIRS = {
    "equal": pair_of(sizes((4, 3, 3)), sizes((6, 3, 3))),
    "the student's is larger": pair_of(sizes((4, 7, 7)), sizes((6, 4, 4))),
    "the teacher's is larger": pair_of(sizes((4, 4, 4)), sizes((6, 7, 7))),
    "larger and smaller": pair_of(sizes((4, 5, 2)), sizes((6, 3, 4))),
    "no stages": pair_of(sizes(last=(4, 3, 3)), sizes(last=(6, 3, 3))),
}
OPTIONS = NetworkOptions(width=0.5, stem_stride=2)


def projected(projector: Projector, map_BCHW: Array) -> Array:
    """1x1, 3x3, 1x1, each with batch norm and ReLU, in float64."""
    convolutions = [layer for layer in projector.layers if isinstance(layer, nn.Conv2d)]
    for conv, padding in zip(convolutions, (0, 1, 0), strict=True):
        map_BCHW = np.maximum(normed(convolved(map_BCHW, double(conv.weight), padding=padding)), 0.0)
    return map_BCHW


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("in_double", [True, False], ids=["float64", "float32"])
def test_the_loss_agrees_with_a_float64_formula(pair: Pair, in_double: bool) -> None:
    torch.manual_seed(0)
    method = SimKD(SimKDSettings(weight=2.5), pair=pair)
    batch = batch_of(pair, double=in_double)
    if in_double:
        method.projector.double()
    assert batch.teacher is not None
    student, teacher = double(batch.student.maps["last"]), double(batch.teacher.maps["last"])
    smaller = fitted(student, teacher)[0].shape[2:]
    gap = projected(method.projector, pooled_to(student, smaller)) - pooled_to(teacher, smaller)
    expected = float((gap**2).mean())

    found = method(batch)

    assert found["simkd"].item() == pytest.approx(expected, rel=1e-6)
    assert found["loss"].item() == pytest.approx(2.5 * expected, rel=1e-6)


@pytest.mark.parametrize(("factor", "inner"), [(1, 6), (2, 3), (4, 1), (64, 1)])
def test_the_inner_width_is_the_teachers_divided_by_the_factor(factor: int, inner: int) -> None:
    method = SimKD(SimKDSettings(factor=factor), pair=PAIRS["equal"])
    shapes = [tuple(layer.weight.shape) for layer in method.projector.layers if isinstance(layer, nn.Conv2d)]
    assert shapes == [(inner, 4, 1, 1), (inner, inner, 3, 3), (6, inner, 1, 1)]
    assert not any(layer.bias is not None for layer in method.projector.layers if isinstance(layer, nn.Conv2d))


def test_the_gradient_agrees_with_finite_differences() -> None:
    pair = PAIRS["the student's is larger"]
    torch.manual_seed(0)
    method = SimKD(SimKDSettings(), pair=pair)
    method.projector.double()
    assert_gradient_is_right(method, batch_of(pair, double=True), maps=["last"])


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_it_teaches_the_last_map_and_spares_the_teacher(pair: Pair) -> None:
    method = SimKD(SimKDSettings(), pair=pair)
    assert_learns_and_spares_the_teacher(method, batch_of(pair), pair=pair)
    assert not any(parameter.requires_grad for parameter in method.classifier.parameters())


def test_bf16_is_near() -> None:
    pair = PAIRS["the student's is larger"]
    assert_near_in_bf16(SimKD(SimKDSettings(), pair=pair), batch_of(pair))


def test_it_resumes() -> None:
    pair = PAIRS["the teacher's is larger"]
    assert_resumes(lambda: SimKD(SimKDSettings(), pair=pair), [batch_of(pair, seed=seed) for seed in (1, 2)])


@pytest.mark.parametrize("who", ["student", "teacher"])
def test_a_network_that_pools_no_map_is_refused_with_what_would_work(who: str) -> None:
    both = {"student": sizes((4, 3, 3)), "teacher": sizes((4, 3, 3)), who: sizes((4, 3, 3), pooled=4)}

    with pytest.raises(InputError, match=f"The {who} has no map last") as caught:
        SimKD(SimKDSettings(), pair=pair_of(**both))

    assert (caught.value.code, caught.value.param) == ("invalid_value", "/method/type")
    assert "srrl" in caught.value.hint


@pytest.fixture
def images() -> Tensor:
    return torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(9))


def trained(architecture: str, images: Tensor, *, teacher_side: int) -> tuple[nn.Module, Objective]:
    """A student after a few steps of SimKD alone, towards random maps of that many places a side."""
    torch.manual_seed(0)
    network = build_network(architecture, options=OPTIONS, num_classes=CLASSES, in_channels=3)
    pair = pair_of(sizes_of(network, images[:2]), sizes((20, teacher_side, teacher_side)))
    spec = SimKDMethod(type="simkd", simkd=SimKDSettings(factor=3))
    objective = build_objective(spec, pair=pair, label_loss=label_cross_entropy, label_part="ce")
    given = batch_of(pair)
    tap = Tap(network, maps=objective.student_maps)
    weights = [p for m in (network, objective) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        objective(replace(given, student=tap(images)))["loss"].backward()
        optimizer.step()
    tap.close()
    return network.eval(), objective.eval()


@pytest.mark.parametrize("teacher_side", [4, 3, 2, 7])  # the student's map has 4
@pytest.mark.parametrize("architecture", ["resnet8", "wrn_10_1"])
def test_the_loaded_student_answers_as_the_trained_one(
    tmp_path: Path, images: Tensor, architecture: str, teacher_side: int
) -> None:
    network, objective = trained(architecture, images, teacher_side=teacher_side)
    head = objective.result_head
    assert head is not None
    state = students.state_with_head(network, head=head)
    facts = {"architecture": architecture, "options": OPTIONS.model_dump(mode="json"), "in_channels": "3"}
    facts |= {"num_classes": str(CLASSES), "head": "teacher", "connector": head.facts}
    students.save(state, tmp_path / "student.safetensors", metadata=facts)

    with torch.no_grad():
        found = load_student(tmp_path / "student.safetensors")(images)
        expected = objective.logits(Tap(network, maps=["last"])(images))

    assert torch.equal(found, expected)
    assert json.loads(json.dumps(head.facts)) == head.facts
    assert head.facts["size"] == ([teacher_side] * 2 if teacher_side < 4 else None)


def test_what_the_student_answers_with_is_what_was_trained(images: Tensor) -> None:
    """Projector, mean over the places of the size that was compared, and the teacher's classifier."""
    network, objective = trained("resnet8", images, teacher_side=2)
    head = objective.result_head
    assert head is not None
    with torch.no_grad():
        seen = Tap(network, maps=["last"])(images)
        smaller = nn.functional.avg_pool2d(seen.maps["last"], 2)
        pooled = head.connector(smaller).mean(dim=(2, 3))

        torch.testing.assert_close(objective.logits(seen), head.classifier(pooled))


def test_labels_are_not_needed(images: Tensor) -> None:
    _, objective = trained("resnet8", images, teacher_side=4)
    assert objective.parts == ("simkd",)
    assert objective.trains_logits
