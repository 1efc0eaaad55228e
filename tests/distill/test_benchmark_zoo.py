"""Our networks against the CRD benchmark's own code, github.com/HobbitLong/RepDistiller at commit b84f547.

The figures below were obtained by running its ``models/`` at 100 classes. Its names differ from ours for ResNet18,
ResNet34, ResNet50, MobileNetV2 (``mobilenetv2_half``), ShuffleV1 and ShuffleV2; resnet10 is its ``resnetv2.ResNet``
with basic blocks [1, 1, 1, 1], mobilenetv2 its ``mobilenetv2_T_w(6, 1.0)``.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from distill import architectures
from distill.architectures import PLAIN
from distill.registry import build_network
from distill.spec import NetworkOptions

# Name -> (how many tensors its state dict has, SHA-256 of the sorted lines "name:size,size,...").
STATE_DICTS = {
    "resnet8": (56, "63c6dd3cab44928c95d3c950f3cd474577dd5c00be844766f552558db4e375d9"),
    "resnet14": (92, "65fcc9b5c0711d35aae5b3a46acf5089f42eb023d46029eb361af5da2ca9b9fb"),
    "resnet20": (128, "6eac2a732b1c4c40500ecacb6f2d7e768e76d37d87da6ad56796fc4885204da2"),
    "resnet32": (200, "56c7c2a379b47dca8fc936ba1cfc7bd58027e13c691f7ed26a2dabeea3c4eeec"),
    "resnet44": (272, "02750f7c1082fb17093ff705f11d9d3f962d17099a830fc3811fde136a01536c"),
    "resnet56": (344, "a56c1538f4e0a9aea03e7782c71e2e170557632aa12e67e8f3c244292dfc0b9b"),
    "resnet110": (668, "c17c0002f980b39997daab84545eaee979160a540c2a4dd3f73e1b29975d8f36"),
    "resnet8x4": (62, "f78671249791e4c1b620a32dfb73162c951e2e3d37c97e76bf113f80a5b8aaf5"),
    "resnet32x4": (206, "78ae047d8e1df52b43006ba9f716c16feee75afdb76697a67c089e2128f500e0"),
    "resnet50": (320, "377968813c0202d52acad12ad42812c1eecf4fd4664e1d4559c57913bfdf69ff"),
    "wrn_16_1": (82, "819bc8854407ad0df6045487b6ba3207520e632c5f519f4fdb9cff0b53f119e5"),
    "wrn_16_2": (83, "2de31bd1c22384437d041c8d2c16188e33c08a8dcf81c4c7e1a12a03b3ec28c7"),
    "wrn_40_1": (226, "9c00ed786ab337416c129752d65288105b0736d9a887672cf6a7d9bd84d79f9b"),
    "wrn_40_2": (227, "1f7bf1e9e76f12fd13d327f91c83cbf91992a2b57b643fe6ba236decbbb3105e"),
    "vgg8": (37, "1b68d09a0a812e2679109ff697b09b7873d300081339a5ccfcf10dd8cd2a05e6"),
    "vgg11": (58, "3a82ffb9e2e6e911a44635ad16591eccbd8befe8ea2c936d9501b86a832ccbca"),
    "vgg13": (72, "de86d77130aaf816eeaf8499ecafa4325d5e5341bd04a7ec05a1507dd7bd0ec6"),
    "vgg16": (93, "9946debb89394d415ff8a824cf3577349de9867e48b81f4caf08eba2b440a814"),
    "vgg19": (114, "2afaa392bdd8878ac79066259e83c048ef1bab7dceb4706bf3856a30fc68e68d"),
    "mobilenetv2_half": (320, "1d33c767e69328022b4f38772f9878ee6e8a0097bff27cf89da68318c0bd9da1"),
    "shufflenetv1": (296, "71642334400d1ab6767953280a819f12e1d03125df92ddc9f11f31a36e25cafc"),
    "shufflenetv2": (338, "1b75a3aad615f94d607350cbbecc4ac936b0f4c29e6c98998836ef20f04feb21"),
    "resnet10": (74, "10704747d0e46fc804bbcfacdb4767c052f5a1a2d48e2c0cbb6fc70d0ac01ab3"),
    "resnet18": (122, "7efe23c69fb8d234cb45c8f8551604e940c1c097e1259e6e206f7b56440cd96d"),
    "resnet34": (218, "4478297073fe07df8949d041b60dae0e58b41c10d849ad0da474efd4f81dba52"),
    "mobilenetv2": (320, "4e5d8950e015e819cb9f6898ba1c149d07139f43b118ba0367e2be01b0aac4df"),
}
# (Name, height and width) -> logits 0 of the first image and 42 and 99 of the second, in eval mode and float64, with
# the weights and images that `fill` and `noise` make.
LOGITS = {
    ("resnet8", 32): (-0.1737834904, 2.908092376, 0.8553636931),
    ("wrn_16_1", 32): (2.372671501, -2.013687088, -1.372368161),
    ("resnet10", 32): (-1.254974658, 3.81929825, 2.130313137),
    ("resnet50", 32): (-95.04852535, 104.7896542, 133.413041),
    ("vgg8", 32): (0.07321787066, 0.3689623877, 0.370438322),
    ("vgg13", 32): (-0.08430548084, 1.342788112, 0.1632659192),
    ("mobilenetv2_half", 32): (-221.111261, 73.40306557, -241.5413211),
    ("mobilenetv2", 32): (4.191996326, -122.6849328, 10.1092735),
    ("shufflenetv1", 32): (-51.90090081, -20.96879795, 0.1374086411),
    ("shufflenetv2", 32): (3.454808898, 4.97958172, -13.52250745),
    ("vgg8", 28): (0.3275733182, 0.03670764341, -0.1232165372),
    ("vgg8", 64): (-0.04428710317, 0.4103655909, 0.2358868972),
    ("resnet10", 28): (-1.727453989, 4.357495765, 1.158142916),
}
# Tensors at telling places.
TENSORS: dict[str, dict[str, tuple[int, ...]]] = {
    "resnet18": {
        "layer1.1.conv2.weight": (64, 64, 3, 3),
        "layer2.0.shortcut.0.weight": (128, 64, 1, 1),
        "linear.weight": (100, 512),
    },
    "resnet50": {
        "layer1.0.shortcut.0.weight": (256, 64, 1, 1),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "layer4.2.bn3.running_var": (2048,),
        "linear.bias": (100,),
    },
    "vgg13": {
        "block0.0.weight": (64, 3, 3, 3),
        "block0.0.bias": (64,),
        "block4.3.weight": (512, 512, 3, 3),
        "block4.4.running_mean": (512,),
        "classifier.weight": (100, 512),
    },
    "mobilenetv2_half": {
        "conv1.0.weight": (16, 3, 3, 3),
        "blocks.0.0.conv.0.weight": (16, 16, 1, 1),
        "blocks.5.2.conv.3.weight": (480, 1, 3, 3),
        "conv2.0.weight": (1280, 160, 1, 1),
        "classifier.0.weight": (100, 1280),
    },
    "shufflenetv1": {
        "conv1.weight": (24, 3, 1, 1),
        "layer1.0.conv1.weight": (54, 24, 1, 1),
        "layer1.0.conv3.weight": (216, 18, 1, 1),
        "layer2.0.conv1.weight": (60, 80, 1, 1),
        "layer3.3.conv3.weight": (960, 80, 1, 1),
        "linear.weight": (100, 960),
    },
    "shufflenetv2": {
        "layer1.0.conv1.weight": (24, 1, 3, 3),
        "layer1.0.conv5.weight": (58, 58, 1, 1),
        "layer2.7.conv2.weight": (116, 1, 3, 3),
        "conv2.weight": (1024, 464, 1, 1),
        "linear.weight": (100, 1024),
    },
}


def digest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    lines = sorted(f"{name}:{','.join(map(str, shape))}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def noise(*shape: int, start: int) -> Tensor:
    """Numbers in [-0.5, 0.5) that look random and are the same everywhere."""
    k = torch.arange(start, start + math.prod(shape), dtype=torch.float64)
    return ((k * 12.9898).sin() * 43758.5453 % 1 - 0.5).reshape(shape)


def fill(network: nn.Module) -> None:
    """Weights of variance 1.5 / fan-in, scales and variances around 1, biases and means around 0."""
    start = 1
    for key, tensor in network.state_dict().items():
        if not tensor.is_floating_point():
            continue
        wave = noise(*tensor.shape, start=start)
        start += tensor.numel()
        if tensor.dim() > 1:
            wave = wave * (12 * 1.5 / tensor[0].numel()) ** 0.5
        elif not key.endswith(("bias", "running_mean")):
            wave = 1 + wave
        tensor.copy_(wave)


@pytest.mark.parametrize("name", STATE_DICTS)
def test_state_dicts_are_the_benchmarks_with_and_without_torch(name: str) -> None:
    with torch.device("meta"):
        network = build_network(name, options=NetworkOptions(), num_classes=100, in_channels=3)
    built = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    described = architectures.state_shapes(name, options=PLAIN, num_classes=100, in_channels=3)

    assert (len(built), digest(built)) == STATE_DICTS[name]
    assert (len(described), digest(described)) == STATE_DICTS[name]


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_at_telling_places_have_the_benchmarks_shapes(name: str) -> None:
    described = architectures.state_shapes(name, options=PLAIN, num_classes=100, in_channels=3)

    assert {key: described.get(key) for key in TENSORS[name]} == TENSORS[name]


@pytest.mark.parametrize(("name", "size"), LOGITS)
def test_logits_are_the_benchmarks(name: str, size: int) -> None:
    network = build_network(name, options=NetworkOptions(), num_classes=100, in_channels=3).double().eval()
    fill(network)
    with torch.no_grad():
        logits = network(4 * noise(2, 3, size, size, start=5))

    found = (logits[0, 0].item(), logits[1, 42].item(), logits[1, 99].item())
    assert found == pytest.approx(LOGITS[name, size], rel=1e-6)
