"""SRRL at earlier stages, through the rest of a real teacher."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import POOLED, Batch
from distill.errors import InputError
from distill.method_specs import SRRLSettings
from distill.methods.srrl import SRRL
from distill.networks import resnet, wrn
from distill.networks.resnet import ResNet
from distill.pairs import Pair, sizes_of
from distill.spec import NetworkOptions
from distill.taps import Tap, anatomy_of, linear_head, prove_resumable
from distill.teachers import Teacher, freeze
from tests.fixtures.map_pairs import BATCH, CLASSES, double
from tests.fixtures.numpy_layers import bilinear
from tests.fixtures.srrl_losses import connect, regression, squared

STAGES = ["stage1", "stage2", "stage3"]


def build(pair: Pair, **settings: Any) -> SRRL:
    torch.manual_seed(3)
    return SRRL(SRRLSettings(**{"activation": "relu", **settings}), pair=pair)


def resnet8(width: float, *, stem: int = 2) -> ResNet:
    torch.manual_seed(2)
    options = NetworkOptions(width=width, stem_stride=stem)
    return resnet.build("resnet8", options=options, num_classes=CLASSES, in_channels=3)


class Scene:
    """A tiny resnet8 as the teacher, a narrower network as the student, and what both see."""

    def __init__(self, student: nn.Module) -> None:
        torch.manual_seed(0)
        self.student, self.network = student, resnet8(0.5)
        images = torch.randn(BATCH, 3, 16, 16)
        for _ in range(3):  # running statistics of its own
            self.network(images * 1.5 + 0.5)
        freeze(self.network)
        head = linear_head(self.network)
        tap = Tap(self.network, maps=anatomy_of(self.network).maps)
        prove_resumable(tap, names=STAGES, images_BCHW=images)
        teacher = Teacher(tap, head, lambda each: each, torch.float32)
        self.pair = Pair(
            student=sizes_of(student, images),
            teacher=sizes_of(self.network, images),
            classifier=head,
            resume=teacher.resume,
            nonnegative=frozenset({POOLED, *STAGES}),
            labels_N=torch.zeros(BATCH, dtype=torch.long),
            epochs=3,
        )
        seen = Tap(student, maps=anatomy_of(student).maps)(images)
        self.known = teacher.features(images, maps=[*STAGES, "last"])
        self.batch = Batch(seen, self.known, self.pair.labels_N, torch.arange(BATCH))

    def rest(self, stage: str, map_BCHW: Tensor) -> Tensor:
        """The teacher's own modules behind a stage, called by hand in float64."""
        twin = resnet8(0.5)
        twin.load_state_dict(self.network.state_dict())
        twin.double().eval()
        for name, layer in (("stage1", twin.layer2), ("stage2", twin.layer3)):
            if stage <= name:
                map_BCHW = layer(map_BCHW)
        logits: Tensor = twin.fc(twin.avgpool(map_BCHW).flatten(1))
        return logits

    def feature_loss(self, method: SRRL, stage: str) -> float:
        pooled = connect(method.connectors[stage], double(self.batch.student.maps[stage])).mean(axis=(2, 3))
        return squared(pooled, double(self.known.maps[stage]).mean(axis=(2, 3)), reduction="mean")

    def regression_loss(self, method: SRRL, stage: str, *, kind: str = "l2") -> float:
        connected = connect(method.connectors[stage], double(self.batch.student.maps[stage]))
        resized = bilinear(connected, tuple(self.known.maps[stage].shape[2:]))  # type: ignore[arg-type]
        logits = double(self.rest(stage, torch.from_numpy(resized)))
        return regression(logits, double(self.known.logits_BK), kind=kind, reduction="mean")


@pytest.fixture(scope="module")
def scenes() -> dict[str, Scene]:
    torch.manual_seed(1)
    wide = wrn.build("wrn_10_1", options=NetworkOptions(width=0.25, stem_stride=2), num_classes=CLASSES, in_channels=3)
    found = {
        "equal sizes": resnet8(0.25),
        "the student's maps are larger": resnet8(0.25, stem=1),
        "another family": wide,
    }
    return {name: Scene(student) for name, student in found.items()}


@pytest.fixture
def scene(scenes: dict[str, Scene]) -> Scene:
    return scenes["equal sizes"]


@pytest.mark.parametrize("name", ["equal sizes", "the student's maps are larger", "another family"])
@pytest.mark.parametrize("stage", STAGES)
def test_both_losses_at_a_stage_agree_with_a_float64_formula(scenes: dict[str, Scene], name: str, stage: str) -> None:
    scene = scenes[name]
    method = build(scene.pair, stages=[stage])

    found = method(scene.batch)

    assert found["fm"].item() == pytest.approx(scene.feature_loss(method, stage), rel=1e-5)
    assert found["sr"].item() == pytest.approx(scene.regression_loss(method, stage), rel=1e-5)


def test_the_students_map_has_another_size_than_the_teachers_where_it_is_said_so(scenes: dict[str, Scene]) -> None:
    """Or else the resizing would not be tried."""
    pair = scenes["the student's maps are larger"].pair
    assert [pair.student.maps[name][1:] for name in STAGES] == [(16, 16), (8, 8), (4, 4)]
    assert [pair.teacher.maps[name][1:] for name in STAGES] == [(8, 8), (4, 4), (2, 2)]


@pytest.mark.parametrize("kind", ["ce", "kl"])
def test_probabilities_can_be_compared_behind_a_stage_too(scene: Scene, kind: str) -> None:
    method = build(scene.pair, stages=["stage2"], regression_loss=kind)
    expected = scene.regression_loss(method, "stage2", kind=kind)
    assert method(scene.batch)["sr"].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_last_stage_of_a_resnet_is_its_penultimate_layer(scene: Scene) -> None:
    found = [build(scene.pair, stages=[name])(scene.batch) for name in ("stage3", "last")]
    for part in ("fm", "sr"):
        assert found[0][part].item() == pytest.approx(found[1][part].item(), rel=1e-5)


def test_several_stages_are_summed_and_each_counts_once(scenes: dict[str, Scene]) -> None:
    scene = scenes["another family"]
    method = build(scene.pair, stages=["stage2", "stage1", "stage2"], feature_weight=2.0, regression_weight=3.0)

    found = method(scene.batch)

    fm = sum(scene.feature_loss(method, name) for name in ("stage1", "stage2"))
    sr = sum(scene.regression_loss(method, name) for name in ("stage1", "stage2"))
    assert found["fm"].item() == pytest.approx(fm, rel=1e-5)
    assert found["sr"].item() == pytest.approx(sr, rel=1e-5)
    assert found["loss"].item() == pytest.approx(2.0 * fm + 3.0 * sr, rel=1e-5)


def test_the_two_losses_can_act_at_stages_of_their_own(scene: Scene) -> None:
    method = build(scene.pair, feature_stages=["stage1"], regression_stages=["stage2"])

    found = method(scene.batch)

    assert found["fm"].item() == pytest.approx(scene.feature_loss(method, "stage1"), rel=1e-5)
    assert found["sr"].item() == pytest.approx(scene.regression_loss(method, "stage2"), rel=1e-5)
    assert method.student_maps == {"stage1", "stage2"}
    assert method.teacher_needs == {POOLED, "stage1"}  # L_SR compares with the teacher's logits
    assert set(method.connectors) == {"stage1", "stage2"}


@pytest.mark.parametrize("loss", ["feature_weight", "regression_weight"])
@pytest.mark.parametrize("stage", [*STAGES, "last"])
def test_a_loss_reaches_student_and_connector_and_leaves_the_teacher_as_it_was(stage: str, loss: str) -> None:
    scene = Scene(resnet8(0.25))
    before = {name: value.clone() for name, value in scene.network.state_dict().items()}
    method = build(scene.pair, stages=[stage], **{"feature_weight": 0.0, "regression_weight": 0.0, loss: 1.0})

    method.train()(scene.batch)["loss"].backward()

    first = scene.student.get_submodule("conv1").weight
    assert isinstance(first, Tensor)
    for learns in (first, *method.connectors.parameters()):
        assert learns.grad is not None
        assert learns.grad.abs().sum() > 0
    assert all(weight.grad is None for weight in [*scene.network.parameters(), *scene.pair.classifier.parameters()])
    assert all(torch.equal(value, before[name]) for name, value in scene.network.state_dict().items())
    assert not any(module.training for module in scene.network.modules())


@pytest.mark.parametrize("stage", STAGES)
def test_the_gradient_behind_a_stage_is_that_of_the_teachers_own_modules(stage: str) -> None:
    scene = Scene(resnet8(0.25, stem=1))
    method = build(scene.pair, stages=[stage], feature_weight=0.0).eval()
    given = scene.batch.student.maps[stage].detach().double().requires_grad_()
    twin = build(scene.pair, stages=[stage], feature_weight=0.0).eval().connectors.double()
    size = scene.pair.teacher.maps[stage][1:]
    resized = F.interpolate(twin[stage](given), size=size, mode="bilinear", align_corners=False)
    loss = (scene.rest(stage, resized) - scene.known.logits_BK.double()).square().mean()
    (expected,) = torch.autograd.grad(loss, [given])

    (found,) = torch.autograd.grad(method(scene.batch)["loss"], [scene.batch.student.maps[stage]])

    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_a_stage_that_a_network_lacks_is_refused_with_those_that_both_have(scene: Scene) -> None:
    with pytest.raises(InputError, match="The student has no map stage4") as caught:
        build(scene.pair, stages=["stage4"])

    assert (caught.value.code, caught.value.param) == ("invalid_value", "/method/srrl/stages")
    assert "stage1, stage2, stage3, last" in caught.value.hint
