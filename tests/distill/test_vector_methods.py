"""What holds for every method that reads logits and penultimate features alone."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from distill.errors import InputError
from tests.fixtures.vectors import N, in_type, make_batch, make_method, make_pair

SETTINGS: dict[str, dict[str, Any]] = {
    "kd": {},
    "dkd": {},
    "dist": {},
    "rkd": {},
    "pkt": {},
    "cc": {},
    "crd": {"num_negatives": 50},
}
OF_LOGITS = ("kd", "dkd", "dist")


def make(name: str) -> nn.Module:
    torch.manual_seed(4)
    method = make_method(name, **SETTINGS[name])
    assert isinstance(method, nn.Module)
    return method


@pytest.mark.parametrize("name", SETTINGS)
def test_the_answer_has_the_parts_that_were_promised(name: str) -> None:
    method = make_method(name, **SETTINGS[name])
    found = method(in_type(make_batch(), torch.float32))

    assert set(found) == {"loss", *method.parts}
    assert all(value.shape == () and value.dtype == torch.float32 for value in found.values())
    assert method.teacher_needs == {"pooled"}
    assert method.student_maps == frozenset()
    assert method.result_head() is None
    assert method.trains_logits == (name in OF_LOGITS)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradient_reaches_the_student_and_never_the_teacher(name: str) -> None:
    batch = make_batch()
    assert batch.teacher is not None
    make(name).double()(batch)["loss"].backward()
    read = batch.student.logits_BK if name in OF_LOGITS else batch.student.pooled_BC

    assert read.grad is not None
    assert read.grad.abs().sum() > 0
    assert batch.teacher.pooled_BC.grad is None
    assert batch.teacher.logits_BK.grad is None


@pytest.mark.parametrize("name", SETTINGS)
def test_bf16_autocast_changes_nothing_but_what_the_student_hands_over(name: str) -> None:
    batch = in_type(make_batch(), torch.bfloat16)
    method = make(name)
    plainly, mixed = copy.deepcopy(method), copy.deepcopy(method)
    torch.manual_seed(0)
    expected = plainly(in_type(batch, torch.float32))

    torch.manual_seed(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mixed(batch)

    for part, value in expected.items():
        assert found[part].dtype == torch.float32
        assert found[part].item() == pytest.approx(value.item(), rel=1e-5), part


@pytest.mark.parametrize("name", SETTINGS)
def test_a_saved_state_goes_on_to_the_same_losses(name: str) -> None:
    method = make(name)
    method(in_type(make_batch(), torch.float32))
    state = copy.deepcopy(method.state_dict())
    other = make_method(name, **SETTINGS[name])  # with other random numbers
    assert isinstance(other, nn.Module)
    other.load_state_dict(state)

    for seed in (7, 8):
        batch = in_type(make_batch(seed=seed), torch.float32)
        losses = []
        for each in (method, other):
            torch.manual_seed(seed)
            losses.append(each(batch)["loss"])
        assert torch.equal(*losses)


@pytest.mark.parametrize("name", OF_LOGITS)
def test_points_instead_of_classes_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} compares probabilities of classes") as caught:
        make_method(name, pair=make_pair(labels_N=torch.rand(N, 5, 2)))

    assert caught.value.code == "invalid_value"
    assert caught.value.param == "/method/type"


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in OF_LOGITS])
def test_points_do_not_hinder_methods_of_features(name: str) -> None:
    points = torch.rand(N, 5, 2)
    method = make_method(name, pair=make_pair(labels_N=points), **SETTINGS[name])
    batch = in_type(make_batch(), torch.float32)

    assert method(replace(batch, targets_B=points[batch.indices_B]))["loss"].isfinite()
