from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from distill import architectures, plan, reporting
from distill.architectures import PLAIN
from distill.events import Artifact, Report
from distill.networks import binary
from distill.networks.binarisation import BinaryConv2d, pack_bits, sign, unpack_bits
from distill.registry import build_network, load_student
from distill.spec import DistillSpec, NetworkOptions
from distill.taps import Tap, linear_head, prove
from distill.teacher_files import TeacherFile
from distill.trainer import Inputs, train

NAMES = ["binary_resnet8", "binary_resnet20", "binary_resnet8x4", "binary_resnet18", "binary_resnet18_cifar"]
HALF = NetworkOptions(width=0.5, stem_stride=2)


def test_a_binary_convolution_is_the_sum_of_agreeing_signs_times_its_scale() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(3, 2, stride=2).eval()
    x = torch.randn(1, 3, 5, 4)
    weight, scale = layer.weight.detach().numpy(), layer.scale.detach().numpy()

    found = layer(x).detach().numpy()

    padded = np.pad(np.where(x.numpy() >= 0, 1.0, -1.0), ((0, 0), (0, 0), (1, 1), (1, 1)))
    for o in range(2):
        for i, row in enumerate(range(0, 5, 2)):
            for j, column in enumerate(range(0, 4, 2)):
                window = padded[0, :, row : row + 3, column : column + 3]
                expected = scale[o] * (window * np.where(weight[o] >= 0, 1.0, -1.0)).sum()
                assert found[0, o, i, j] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_gradient_of_a_sign_passes_between_minus_one_and_one() -> None:
    x = torch.tensor([-2.0, -1.0, -0.3, 0.0, 0.7, 1.5], requires_grad=True)
    signs = sign(x)
    signs.backward(torch.arange(1.0, 7.0))

    assert signs.tolist() == [-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 5.0, 0.0]


def test_weights_are_clipped_while_training_only() -> None:
    layer = BinaryConv2d(1, 1)
    layer.weight.data.fill_(3.0)
    layer.eval()(torch.ones(1, 1, 3, 3))
    assert layer.weight.max() == 3.0
    layer.train()(torch.ones(1, 1, 3, 3))
    assert layer.weight.max() == 1.0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("options", [PLAIN, HALF])
def test_the_description_is_the_networks(name: str, options: NetworkOptions) -> None:
    torch.manual_seed(0)
    network = build_network(name, options=options, num_classes=7, in_channels=3).eval()
    shapes = architectures.state_shapes(name, options=options, num_classes=7, in_channels=3)
    macs = reporting.count_macs(network, image_shape=(3, 37, 32))
    blueprint = architectures.blueprint(name, options=options)

    assert {key: tuple(value.shape) for key, value in network.state_dict().items()} == shapes
    parameters = architectures.parameters(name, options=options, num_classes=7, in_channels=3)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert macs.real == blueprint.macs(num_classes=7, in_channels=3, image_size=(37, 32))
    assert macs.binary == blueprint.binary_macs(image_size=(37, 32))
    assert macs.operations == macs.real + -(-macs.binary // 64)


@pytest.mark.parametrize("name", NAMES)
def test_only_3x3_convolutions_behind_the_first_are_binary(name: str) -> None:
    network = build_network(name, options=PLAIN, num_classes=5, in_channels=3)
    real = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    signs = [m for m in network.modules() if isinstance(m, BinaryConv2d)]

    assert real[0] is network.get_submodule("conv1")
    assert {m.kernel_size for m in real[1:]} <= {(1, 1)}
    assert len(signs) == {"binary_resnet8": 6, "binary_resnet20": 18, "binary_resnet8x4": 6}.get(name, 16)
    assert all(unit.shortcut is None or len(unit.shortcut) == 3 for unit in _units(network))


def _units(network: nn.Module) -> list[binary.BinaryUnit]:
    return [m for m in network.modules() if isinstance(m, binary.BinaryUnit)]


@pytest.mark.parametrize("name", ["binary_resnet8", "binary_resnet18"])
def test_the_tap_sees_what_is_pooled_and_every_weight_learns(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, options=HALF, num_classes=4, in_channels=1)
    images = torch.randn(4, 1, 29, 33)
    network(images).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())

    tap = Tap(network.eval(), maps=["last"])
    prove(tap, linear_head(network), images_BCHW=images)


def test_bits_come_back_as_signs_and_answers_stay_the_same() -> None:
    torch.manual_seed(0)
    network = build_network("binary_resnet8", options=HALF, num_classes=4, in_channels=1).eval()
    images = torch.randn(3, 1, 12, 12)
    packed = pack_bits(network, network.state_dict())
    again = build_network("binary_resnet8", options=HALF, num_classes=4, in_channels=1).eval()

    again.load_state_dict(unpack_bits(again, packed), strict=True)

    assert torch.equal(network(images), again(images))
    weight = network.get_submodule("layer1.0.unit1.conv").weight
    assert isinstance(weight, torch.Tensor)
    bits = packed["layer1.0.unit1.conv.weight_bits"]
    assert bits.dtype == torch.uint8
    assert bits.numel() == -(-weight.numel() // 8)
    by_hand = [int("".join("1" if w >= 0 else "0" for w in weight.detach().flatten()[i : i + 8]), 2) for i in (0, 8)]
    assert bits[:2].tolist() == by_hand


def test_bits_of_another_number_are_refused() -> None:
    network = build_network("binary_resnet8", options=HALF, num_classes=4, in_channels=1)
    packed = pack_bits(network, network.state_dict())
    packed["layer1.0.unit1.conv.weight_bits"] = torch.zeros(3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="3"):
        unpack_bits(network, packed)


@pytest.mark.parametrize("head", ["own", "teacher"])
def test_a_binary_student_is_distilled_and_its_file_is_bits(
    tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path, head: str
) -> None:
    body = {
        "teacher": {"id": "t"},
        "dataset": {"id": "d"},
        "student": {"architecture": "binary_resnet8", "options": {"width": 0.5, "stem_stride": 2}},
        "method": {"type": "srrl", "srrl": {"head": head}},
        "training": {"epochs": 6, "batch_size": 32, "learning_rate": 0.05, "baseline": False, "precision": "fp32"},
    }
    spec = plan.resolve(DistillSpec.model_validate(body), num_images=128)
    seen = list(train(spec, Inputs(teacher=tiny_teacher, dataset_path=tiny_dataset, workdir=tmp_path, device="cpu")))

    report = next(e for e in seen if isinstance(e, Report)).report["student"]
    path = Path([e for e in seen if isinstance(e, Artifact)][-1].path)
    signs = sum(m.weight.numel() for m in load_student(path).modules() if isinstance(m, BinaryConv2d))
    assert report["binary_parameters"] == signs > 0.7 * report["parameters"]
    assert report["binary_macs"] > report["macs"]
    assert report["operations"] < report["macs"] + report["binary_macs"] / 50
    assert report["bytes"] == path.stat().st_size < 4 * (report["parameters"] - signs) + signs / 8 + 12_000
    assert report["top1"] > 0.35


def test_weights_behind_signs_do_not_decay(tiny_teacher: TeacherFile, tiny_dataset: Path) -> None:
    from distill.losses import label_cross_entropy
    from distill.objective import Objective
    from distill.optimizer import parameter_groups

    network = build_network("binary_resnet8", options=HALF, num_classes=4, in_channels=1)
    decayed, spared = parameter_groups(network, Objective(label_cross_entropy, label_part="ce"))

    assert spared["weight_decay"] == 0.0
    assert {id(p) for p in spared["params"]} == {id(m.weight) for m in network.modules() if isinstance(m, BinaryConv2d)}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(network.parameters()))
