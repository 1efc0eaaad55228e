from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from distill import events, plan
from distill.data.augment import Augmentation
from distill.headlines import HEADLINES
from distill.method_specs import CEMethod, SRRLMethod, SRRLSettings
from distill.methods.srrl import SRRL
from distill.preparation import prepare
from distill.prepared import Prepared
from distill.registry import build_network
from distill.runs import Run, _EpochPlan, draw_views
from distill.schedule import learning_rate
from distill.spec import DistillSpec, NetworkOptions
from tests.fixtures.tiny import STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile


def prepared(teacher: TeacherFile, dataset: Path, *, method: dict[str, Any] | None = None, **training: Any) -> Prepared:
    body = {"teacher": {"id": "t"}, "dataset": {"id": "d"}, "student": STUDENT, "training": {"epochs": 3, **training}}
    body |= {"method": method} if method else {}
    spec = plan.resolve(DistillSpec.model_validate(body), num_images=128)
    events = prepare(spec, teacher=teacher, dataset_path=dataset, device="cpu")
    while True:
        try:
            next(events)
        except StopIteration as stop:
            found: Prepared = stop.value
            return found


def new_run(ready: Prepared, *, srrl: bool = True) -> Run:
    torch.manual_seed(5)
    network = build_network("resnet8", options=NetworkOptions(**STUDENT["options"]), num_classes=4, in_channels=1)
    spec = SRRLMethod(type="srrl", srrl=SRRLSettings(activation="relu")) if srrl else CEMethod(type="ce")
    objective = ready.objective(spec, network)
    return Run("student", network=network, objective=objective, material=ready.material, first_step=0, total_steps=24)


def test_training_leaves_the_teacher_bitwise_unchanged(tiny_teacher: TeacherFile, tiny_dataset: Path) -> None:
    ready = prepared(tiny_teacher, tiny_dataset, views="fresh", augmentation="crop_flip")
    before = {k: v.clone() for k, v in ready.teacher.tap.network.state_dict().items()}
    run = new_run(ready)

    list(run.train_epoch())
    events.result(run.evaluate())

    after = ready.teacher.tap.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    method = run.objective.methods[0]
    assert isinstance(method, SRRL)
    assert torch.equal(method.classifier.weight, ready.teacher.classifier.weight)
    assert not any(p.requires_grad for p in ready.teacher.tap.network.parameters())


def test_every_image_comes_once_an_epoch_and_every_view_once_a_cycle(
    tiny_teacher: TeacherFile, tiny_dataset: Path
) -> None:
    material = prepared(tiny_teacher, tiny_dataset, augmentation="flip", batch_size=32).material
    assert material.views_NV is not None
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(2):
        plan_ = _EpochPlan(material, epoch=epoch)
        indices = torch.cat([plan_.batch(p, needs=frozenset())[0] for p in range(4)])
        assert sorted(indices.tolist()) == list(range(128))
        assert plan_._slots is not None
        seen.update(zip(indices.tolist(), plan_._slots[indices].tolist(), strict=True))

    assert set(seen.values()) == {1}
    assert len(seen) == 2 * 128


def test_an_epoch_is_a_function_of_seed_and_epoch_alone(tiny_teacher: TeacherFile, tiny_dataset: Path) -> None:
    material = prepared(tiny_teacher, tiny_dataset, augmentation="crop_flip", views="fresh").material
    first = [_EpochPlan(material, epoch=e).batch(0, needs=frozenset()) for e in (0, 1)]
    torch.manual_seed(99)
    again = _EpochPlan(material, epoch=0).batch(0, needs=frozenset())

    assert torch.equal(first[0][0], again[0])
    assert torch.equal(first[0][1], again[1])
    assert not torch.equal(first[0][0], first[1][0])


@pytest.mark.parametrize("views", [2, "fresh"])
def test_the_kept_features_are_those_of_the_views_that_are_shown(
    tiny_teacher: TeacherFile, tiny_dataset: Path, views: object
) -> None:
    ready = prepared(tiny_teacher, tiny_dataset, augmentation="crop_flip", views=views)
    assert (ready.material.bank is not None) == (views == 2)
    _, images, _, features = _EpochPlan(ready.material, epoch=1).batch(1, needs=frozenset({"pooled"}))

    assert features is not None
    asked = ready.teacher.features(images)
    torch.testing.assert_close(features.pooled_BC, asked.pooled_BC, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(features.logits_BK, asked.logits_BK, rtol=2e-2, atol=2e-2)


def test_maps_that_a_method_reads_are_kept_too(tiny_teacher: TeacherFile, tiny_dataset: Path) -> None:
    method = {"type": "srrl", "srrl": {"stages": ["stage2", "last"]}}
    ready = prepared(tiny_teacher, tiny_dataset, method=method, augmentation="flip")
    needs = frozenset({"pooled", "stage2"})
    _, images, _, features = _EpochPlan(ready.material, epoch=1).batch(1, needs=needs)

    assert ready.material.bank is not None
    assert features is not None
    asked = ready.teacher.features(images, maps=["stage2"])
    torch.testing.assert_close(features.maps["stage2"], asked.maps["stage2"], rtol=2e-2, atol=2e-2)


def test_material_without_unlabelled_images_keeps_each_images_own_views(
    tiny_teacher: TeacherFile, tiny_dataset: Path
) -> None:
    material = prepared(tiny_teacher, tiny_dataset, augmentation="crop_flip", views=3).material
    assert material.views_NV is not None
    targets = material.targets_N.clone()
    targets[1::2] = -1

    half = replace(material, targets_N=targets).labelled()

    assert half is not None
    assert half.views_NV is not None
    assert torch.equal(half.images_NCHW, material.images_NCHW[0::2])
    assert torch.equal(half.targets_N, material.targets_N[0::2])
    assert torch.equal(half.views_NV, material.views_NV[0::2])
    assert material.labelled() is material
    assert replace(material, targets_N=torch.full_like(targets, -1)).labelled() is None


def test_the_first_evaluation_is_the_best_so_far_however_bad(tiny_teacher: TeacherFile, tiny_dataset: Path) -> None:
    run = new_run(prepared(tiny_teacher, tiny_dataset))
    assert all(headline.goodness(1e9) >= run.best for headline in HEADLINES.values())


def test_drawn_views_are_distinct_choices_or_all_there_are() -> None:
    flip = draw_views(Augmentation("flip", (8, 8)), num_images=3, num_views=5, seed=0)
    crops = draw_views(Augmentation("crop_flip", (16, 16)), num_images=200, num_views=4, seed=0)

    assert flip.tolist() == [[0, 1]] * 3
    assert crops.shape == (200, 4)
    assert crops.unique().numel() == Augmentation("crop_flip", (16, 16)).num_views


def test_one_cycle_is_pytorchs_without_its_momentum() -> None:
    total, peak = 50, 0.3
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=peak)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=total, cycle_momentum=False)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()

    ours = [learning_rate(s, total=total, peak=peak, schedule="one_cycle") for s in range(total)]

    assert ours == pytest.approx(rates)


@pytest.mark.parametrize(
    ("milestones", "gamma"), [([150, 180, 210], 0.1), ([30, 60, 90], 0.1), ([1], 0.5), ([2, 3], 0.2), ([], 0.1)]
)
def test_stepped_rates_are_pytorchs(milestones: list[int], gamma: float) -> None:
    epochs, steps, peak = 240, 3, 0.05
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=peak)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones, gamma=gamma)
    rates = []
    for _ in range(epochs):
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
        reference.step()

    places = [steps * epoch for epoch in milestones]
    ours = [
        learning_rate(s, total=epochs * steps, peak=peak, schedule="step", milestones=places, gamma=gamma)
        for s in range(epochs * steps)
    ]

    assert ours == pytest.approx(rates, rel=1e-12)


def test_a_run_takes_its_steps_as_it_is_told(tiny_teacher: TeacherFile, tiny_dataset: Path) -> None:
    """Rates by epoch and the form of the momentum, read off the weights: plain PyTorch with the same gradients."""
    told = {"schedule": "step", "milestones": [1, 2], "gamma": 0.5, "momentum": 0.6, "nesterov": False}
    ready = prepared(tiny_teacher, tiny_dataset, batch_size=64, learning_rate=0.08, weight_decay=0.01, **told)
    run = new_run(ready)
    weight = run.network.get_submodule("fc").weight
    ours, grads, rates = [weight.detach().clone()], [], []
    for _ in range(3):
        steps = run.train_epoch()
        for event in steps:
            if "lr" in getattr(event, "values", {}):
                rates.append(event.values["lr"])  # type: ignore[union-attr]
                grads.append(weight.grad.clone())  # type: ignore[union-attr]
                ours.append(weight.detach().clone())

    copy = nn.Parameter(ours[0].double())
    reference = torch.optim.SGD([copy], lr=0.08, momentum=0.6, weight_decay=0.01)
    assert rates == pytest.approx([0.08, 0.08, 0.04, 0.04, 0.02, 0.02])
    for rate, grad, found in zip(rates, grads, ours[1:], strict=True):
        reference.param_groups[0]["lr"] = rate
        copy.grad = grad.double()
        reference.step()
        torch.testing.assert_close(found.double(), copy.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("momentum", "nesterov", "used"), [(0.9, "auto", True), (0.9, False, False), (0, "auto", False)]
)
def test_nesterov_is_used_where_it_is_asked_for_and_can_be(
    tiny_teacher: TeacherFile, tiny_dataset: Path, momentum: float, nesterov: object, used: bool
) -> None:
    run = new_run(prepared(tiny_teacher, tiny_dataset, momentum=momentum, nesterov=nesterov))
    assert (run.optimizer.defaults["momentum"], run.optimizer.defaults["nesterov"]) == (momentum, used)


def test_cosine_and_constant_rates() -> None:
    assert learning_rate(0, total=10, peak=0.4, schedule="cosine") == pytest.approx(0.4)
    assert learning_rate(5, total=10, peak=0.4, schedule="cosine") == pytest.approx(0.2)
    assert learning_rate(9, total=10, peak=0.4, schedule="constant") == 0.4


def test_a_state_taken_in_mid_epoch_goes_on_bit_for_bit(tiny_teacher: TeacherFile, tiny_dataset: Path) -> None:
    ready = prepared(tiny_teacher, tiny_dataset, augmentation="crop_flip", views="fresh", batch_size=16)
    whole = new_run(ready)
    list(whole.train_epoch())
    broken = new_run(ready)
    steps = broken.train_epoch()
    while broken.position < 3:
        next(steps)
    state = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in broken.state().items()}
    steps.close()

    resumed = new_run(ready)
    resumed.restore(state)
    list(resumed.train_epoch())

    expected, found = whole.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert resumed.step == whole.step == 8
