from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.batch import Batch
from distill.errors import InputError
from distill.methods.srrl import SRRL, Connector
from distill.networks import resnet, wrn
from distill.spec import NetworkOptions
from distill.taps import Features, Tap, prove
from distill.teachers import freeze

B, CS, CT, K, SIDE = 6, 5, 8, 4, 3
TINY = NetworkOptions(width=0.25, stem_stride=2)


@pytest.fixture
def classifier() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(CT, K)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(2)
    student = Features(
        torch.randn(B, CS, SIDE, SIDE, generator=generator, requires_grad=True),
        torch.randn(B, CS, generator=generator),
        torch.randn(B, K, generator=generator, requires_grad=True),
    )
    return Batch(student, torch.rand(B, CT, generator=generator), torch.tensor([0, 1, 2, 3, 0, 1]))


def reference(method: SRRL, batch: Batch, classifier: nn.Linear, *, relu: bool) -> dict[str, float]:
    """SRRL as the paper and the authors' code define it, in float64 numpy, training-mode batch norm included."""

    def double(tensor: Tensor) -> np.ndarray:
        return tensor.detach().double().numpy()

    maps, weight = double(batch.student.map_BCHW), double(method.connector.conv.weight)[:, :, 0, 0]
    connected = np.einsum("oc,bchw->bohw", weight, maps)
    mean = connected.mean(axis=(0, 2, 3), keepdims=True)
    variance = connected.var(axis=(0, 2, 3), keepdims=True)
    connected = (connected - mean) / np.sqrt(variance + 1e-5)
    connected = np.maximum(connected, 0.0) if relu else connected
    pooled = connected.mean(axis=(2, 3))
    assert batch.teacher_BC is not None
    teacher, w, b = double(batch.teacher_BC), double(classifier.weight), double(classifier.bias)
    logits = double(batch.student.logits_BK)
    log_q = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return {
        "ce": -log_q[np.arange(B), batch.labels_B.numpy()].mean(),
        "fm": ((pooled - teacher) ** 2).mean(),
        "sr": (((pooled @ w.T + b) - (teacher @ w.T + b)) ** 2).mean(),
    }


@pytest.mark.parametrize("relu", [True, False])
def test_the_losses_agree_with_a_float64_formula(batch: Batch, classifier: nn.Linear, relu: bool) -> None:
    method = SRRL(classifier, student_width=CS, relu=relu, feature_weight=0.7, regression_weight=2.5, label_weight=0.4)
    expected = reference(method, batch, classifier, relu=relu)

    found = method(batch)

    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-6, abs=1e-6), name
    total = 0.4 * expected["ce"] + 0.7 * expected["fm"] + 2.5 * expected["sr"]
    assert found["loss"].item() == pytest.approx(total, rel=1e-6)


def test_the_bias_cancels_so_that_l_sr_is_l_fm_in_the_classifiers_metric(batch: Batch, classifier: nn.Linear) -> None:
    method = SRRL(classifier, student_width=CS, relu=True).eval()
    pooled = method.connector(batch.student.map_BCHW).mean(dim=(2, 3)).double()
    assert batch.teacher_BC is not None
    gap = (pooled - batch.teacher_BC.double()) @ classifier.weight.double().T

    assert method(batch)["sr"].item() == pytest.approx(gap.square().mean().item(), rel=1e-5)


def test_l_sr_alone_reaches_student_and_connector_but_never_the_classifier(batch: Batch, classifier: nn.Linear) -> None:
    method = SRRL(classifier, student_width=CS, relu=True, label_weight=0.0, feature_weight=0.0)

    method(batch)["loss"].backward()

    assert batch.student.map_BCHW.grad is not None
    assert batch.student.map_BCHW.grad.abs().sum() > 0
    assert method.connector.conv.weight.grad is not None
    assert method.connector.conv.weight.grad.abs().sum() > 0
    assert classifier.weight.grad is None


def test_the_connector_acts_on_the_map_before_pooling() -> None:
    torch.manual_seed(0)
    connector = Connector(CS, CT, relu=True).eval()
    maps = torch.randn(B, CS, SIDE, SIDE)

    behind = connector(maps).mean(dim=(2, 3))
    before = connector(maps.mean(dim=(2, 3), keepdim=True)).flatten(1)

    assert not torch.allclose(behind, before, atol=0.05)  # ReLU and pooling do not commute


def test_the_connector_starts_as_the_authors_code_does() -> None:
    torch.manual_seed(0)
    connector = Connector(256, 128, relu=True)

    assert connector.conv.bias is None
    assert connector.conv.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.02)
    assert torch.equal(connector.bn.weight, torch.ones(128))
    assert sum(p.numel() for p in Connector(64, 64, relu=True).parameters()) == 4_224  # measured on the authors' code


@pytest.mark.parametrize("head", ["own", "teacher"])
def test_the_result_answers_with_the_head_that_was_asked_for(batch: Batch, classifier: nn.Linear, head: str) -> None:
    method = SRRL(classifier, student_width=CS, relu=True, head=head).eval()  # type: ignore[arg-type]
    pooled = method.connector(batch.student.map_BCHW).mean(dim=(2, 3))
    expected = batch.student.logits_BK if head == "own" else pooled @ classifier.weight.T + classifier.bias

    torch.testing.assert_close(method.logits(batch.student), expected)


@pytest.mark.parametrize(("build", "name"), [(resnet.build, "resnet8"), (wrn.build, "wrn_16_1")])
def test_the_tap_sees_what_is_pooled_and_classified(build: object, name: str) -> None:
    torch.manual_seed(0)
    network = freeze(build(name, options=TINY, num_classes=K, in_channels=3))  # type: ignore[operator]
    images = torch.randn(4, 3, 16, 16)
    tap = Tap(network)

    prove(tap, network.fc, images_BCHW=images)
    seen = tap(images)

    torch.testing.assert_close(seen.logits_BK, network(images))
    torch.testing.assert_close(seen.map_BCHW.mean(dim=(2, 3)), seen.pooled_BC)


def test_the_naive_hook_is_found_out_on_a_wide_resnet() -> None:
    """The output of the last stage is the map before the last batch norm and ReLU."""

    class Naive(Tap):
        def __call__(self, images_BCHW: Tensor) -> Features:
            seen = super().__call__(images_BCHW)
            return Features(last["map"], seen.pooled_BC, seen.logits_BK)

    torch.manual_seed(0)
    network = freeze(wrn.build("wrn_16_1", options=TINY, num_classes=K, in_channels=3))
    last: dict[str, Tensor] = {}
    network.block3.register_forward_hook(lambda _m, _i, out: last.update(map=out.clone()))

    with pytest.raises(InputError, match="mean of the last map") as caught:
        prove(Naive(network), network.fc, images_BCHW=torch.randn(4, 3, 16, 16))
    assert caught.value.code == "teacher_head_unsupported"


def test_a_classifier_that_is_not_the_last_word_is_found_out() -> None:
    torch.manual_seed(0)
    network = freeze(resnet.build("resnet8", options=TINY, num_classes=K, in_channels=3))
    softened = nn.Sequential()
    softened.add_module("network", network)
    softened.add_module("softmax", nn.Softmax(dim=1))
    tap = Tap(softened, pooling="network.avgpool", classifier="network.fc")

    with pytest.raises(InputError, match="are the logits"):
        prove(tap, network.fc, images_BCHW=torch.randn(4, 3, 16, 16))


def test_a_tap_keeps_no_graph_between_steps() -> None:
    network = resnet.build("resnet8", options=TINY, num_classes=K, in_channels=3)
    tap = Tap(network)
    tap(torch.randn(2, 3, 16, 16))

    assert tap._seen == {}
