from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from distill import architectures
from distill.anatomy import LAST, stage_names
from distill.architectures import PLAIN
from distill.errors import InputError
from distill.networks import mobilenetv2, resnet, resnet4stage, shufflenetv1, shufflenetv2, vgg, wrn
from distill.networks.pointwise import StridedPointwise
from distill.networks.shuffling import shuffle_channels
from distill.registry import build_network
from distill.spec import NetworkOptions
from distill.taps import Tap, anatomy_of, linear_head, prove, prove_resumable

BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
NETWORKS = architectures.names()
# Name -> the classifier's module, and height and width of the stages' maps and of the pooled one, of images 3x32x32.
SMALL: dict[str, tuple[str, tuple[int, ...], int]] = {
    "resnet8": ("fc", (32, 16, 8), 8),
    "resnet14": ("fc", (32, 16, 8), 8),
    "wrn_10_1": ("fc", (32, 16, 8), 8),
    "wrn_16_2": ("fc", (32, 16, 8), 8),
    "resnet10": ("linear", (32, 16, 8, 4), 4),
    "resnet50": ("linear", (32, 16, 8, 4), 4),
    "vgg8": ("classifier", (16, 8, 4, 4), 4),
    "mobilenetv2_half": ("classifier.0", (16, 8, 4, 2), 2),
    "shufflenetv1": ("linear", (16, 8, 4), 4),
    "shufflenetv2": ("linear", (16, 8, 4), 4),
}
# What is pooled is what the last stage puts out.
POOLS_LAST_STAGE = ["resnet8", "resnet14", "resnet10", "resnet50", "vgg8", "shufflenetv1"]
OPTIONS = {
    "plain": NetworkOptions(),
    "half": NetworkOptions(width=0.5),
    "double": NetworkOptions(width=2),
    "strided": NetworkOptions(stem_stride=2),
    "least": NetworkOptions(width=0.01),
}
UNSTRIDED = ("mobilenetv2", "shufflenet")
CASES = [
    pytest.param(name, options, id=f"{name}-{key}")
    for name in NETWORKS
    for key, options in OPTIONS.items()
    if key == "plain" or (name in SMALL and not (key == "strided" and name.startswith(UNSTRIDED)))
]


def build(
    name: str, *, options: NetworkOptions = OPTIONS["plain"], num_classes: int = 10, in_channels: int = 3
) -> nn.Module:
    return build_network(name, options=options, num_classes=num_classes, in_channels=in_channels)


def build_without_memory(name: str, *, options: NetworkOptions, in_channels: int = 3) -> nn.Module:
    with torch.device("meta"):
        return build(name, options=options, in_channels=in_channels)


def tap(network: nn.Module) -> Tap:
    return Tap(network, maps=anatomy_of(network).maps)


def macs_by_hooks(network: nn.Module, image: Tensor) -> int:
    """Multiply-adds counted where they happen: each output number of a layer costs one row of its weight."""
    total = 0

    def count(layer: nn.Conv2d | nn.Linear, _: tuple[Tensor], out: Tensor) -> None:
        nonlocal total
        total += out.numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    network.eval()(image)
    return total


@pytest.mark.parametrize(("name", "options"), CASES)
def test_description_has_the_state_dict_in_names_order_and_shapes(name: str, options: NetworkOptions) -> None:
    network = build_without_memory(name, options=options, in_channels=1)
    described = architectures.state_shapes(name, options=options, num_classes=10, in_channels=1)

    assert list(described.items()) == [(k, tuple(v.shape)) for k, v in network.state_dict().items()]
    assert architectures.parameters(name, options=options, num_classes=10, in_channels=1) == sum(
        p.numel() for p in network.parameters()
    )


@pytest.mark.parametrize(("name", "options"), CASES)
def test_described_cost_is_the_one_counted_on_the_network(name: str, options: NetworkOptions) -> None:
    network = build_without_memory(name, options=options)
    described = architectures.macs(name, options=options, num_classes=10, in_channels=3, image_size=(32, 27))

    assert described == macs_by_hooks(network, torch.empty(1, 3, 32, 27, device="meta"))


@pytest.mark.parametrize("size", [(64, 71), (3, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_described_cost_holds_at_other_sizes(name: str, size: tuple[int, int]) -> None:
    network = build_without_memory(name, options=OPTIONS["plain"])
    described = architectures.macs(name, options=PLAIN, num_classes=10, in_channels=3, image_size=size)

    assert described == macs_by_hooks(network, torch.empty(1, 3, *size, device="meta"))


def test_names_are_those_of_the_benchmarks_files() -> None:
    small, wide = build("resnet8").state_dict(), build("wrn_10_2").state_dict()

    assert list(small)[:7] == ["conv1.weight", *(f"bn1.{key}" for key in BATCH_NORM), "layer1.0.conv1.weight"]
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var", "fc.bias"} <= set(small)
    assert list(wide)[:2] == ["conv1.weight", "block1.layer.0.bn1.weight"]
    assert {"block1.layer.0.convShortcut.weight", "bn1.running_mean", "fc.weight"} <= set(wide)


@pytest.mark.parametrize(
    ("name", "num_convolutions"),
    [
        ("resnet20", 19),
        ("wrn_16_2", 13),
        ("wrn_40_1", 37),
        ("resnet10", 9),
        ("resnet18", 17),
        ("resnet34", 33),
        ("vgg8", 5),  # and three linear layers, of which small images leave one
        ("vgg11", 8),
        ("vgg13", 10),
        ("vgg16", 13),
        ("vgg19", 16),
    ],
)
def test_depth_counts_the_3x3_convolutions(name: str, num_convolutions: int) -> None:
    network = build_without_memory(name, options=OPTIONS["plain"])
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]

    assert len(convolutions) == num_convolutions


@pytest.mark.parametrize("name", SMALL)
def test_what_is_pooled_is_what_the_classifier_reads(name: str) -> None:
    network = build(name, num_classes=7).eval()
    images = torch.randn(2, 3, 32, 32)
    classifier, _, size = SMALL[name]
    seen = tap(network)(images)

    assert anatomy_of(network).classifiers == (classifier,)
    assert architectures.blueprint(name, options=PLAIN).classifier == classifier
    assert seen.maps[LAST].shape[1:] == (architectures.feature_width(name, options=PLAIN), size, size)
    torch.testing.assert_close(seen.maps[LAST].mean(dim=(2, 3)), seen.pooled_BC)
    assert seen.maps[LAST].min() >= 0
    layer = network.get_submodule(classifier)
    assert isinstance(layer, nn.Linear)
    torch.testing.assert_close(seen.pooled_BC @ layer.weight.T + layer.bias, seen.logits_BK)


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_a_job_can_prove_its_head_and_its_stages(name: str) -> None:
    network = build(name, num_classes=7, in_channels=1).eval()
    images = torch.randn(4, 1, 28, 28)
    whole = tap(network)

    prove(whole, linear_head(network), images_BCHW=images)
    prove_resumable(whole, names=stage_names(len(anatomy_of(network).stages)), images_BCHW=images)


@pytest.mark.parametrize("name", SMALL)
def test_only_some_families_pool_what_their_last_stage_puts_out(name: str) -> None:
    seen = tap(build(name).eval())(torch.randn(2, 3, 32, 32))
    last = seen.maps[f"stage{len(SMALL[name][1])}"]

    assert (last.shape == seen.maps[LAST].shape and torch.equal(last, seen.maps[LAST])) == (name in POOLS_LAST_STAGE)
    assert (last.min() < 0) == name.startswith(("wrn", "mobilenet"))


@pytest.mark.parametrize("name", SMALL)
def test_stages_halve_the_map_and_have_the_described_widths(name: str) -> None:
    seen = tap(build(name).eval())(torch.randn(1, 3, 32, 32))
    shapes = [tuple(seen.maps[stage].shape) for stage in stage_names(len(SMALL[name][1]))]

    widths = architectures.blueprint(name, options=PLAIN).widths
    assert shapes == [(1, width, size, size) for width, size in zip(widths, SMALL[name][1], strict=True)]


@pytest.mark.parametrize("size", [(28, 28), (33, 17), (64, 64), (1, 1)])
@pytest.mark.parametrize("name", SMALL)
def test_images_of_any_size_give_logits(name: str, size: tuple[int, int]) -> None:
    options = OPTIONS["plain" if name.startswith(UNSTRIDED) else "strided"]
    network = build(name, num_classes=5, in_channels=1, options=options).eval()

    assert network(torch.randn(2, 1, *size)).shape == (2, 5)


@pytest.mark.parametrize("name", SMALL)
def test_the_forward_leaves_the_images_and_the_stages_alone(name: str) -> None:
    network = build(name).eval()
    images = torch.randn(2, 3, 16, 16)
    before = images.clone()
    seen: list[tuple[Tensor, Tensor]] = []
    for path in anatomy_of(network).stages:
        network.get_submodule(path).register_forward_hook(lambda *call: seen.append((call[2], call[2].clone())))
    network(images)

    assert torch.equal(images, before)
    assert len(seen) == len(SMALL[name][1])
    assert all(torch.equal(later, at_once) for later, at_once in seen)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_gradient(name: str) -> None:
    network = build(name)
    network(torch.randn(4, 3, 32, 32)).square().sum().backward()

    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        # A shift that a batch norm takes out again has none but by rounding.
        assert parameter.grad.abs().sum() > 0 or parameter.dim() == 1, key


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_4", "resnet10", "vgg8", "mobilenetv2"])
def test_convolutions_start_with_the_variance_of_their_fan_out(name: str) -> None:
    torch.manual_seed(0)
    network = build(name)

    for key, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1])) ** 0.5
            # Five standard errors of a standard deviation.
            tolerance = 5 * expected / (2 * module.weight.numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, abs=tolerance), key
            assert module.bias is None or (module.bias == 0).all(), key
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), key
            assert (module.bias == 0).all(), key


@pytest.mark.parametrize(("name", "classifier"), [("vgg8", "classifier"), ("mobilenetv2_half", "classifier.0")])
def test_classifiers_of_vgg_and_mobilenet_start_small(name: str, classifier: str) -> None:
    torch.manual_seed(0)
    layer = build(name, num_classes=100).get_submodule(classifier)

    assert isinstance(layer, nn.Linear)
    assert layer.weight.std().item() == pytest.approx(0.01, rel=5 / (2 * layer.weight.numel()) ** 0.5)
    assert (layer.bias == 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_a_strict_load_accepts_what_the_description_accepts(name: str) -> None:
    saved, loaded = build(name).eval(), build(name).eval()
    state = {k: v for k, v in saved.state_dict().items() if not k.endswith("num_batches_tracked")}
    architectures.match_state(
        name, {k: tuple(v.shape) for k, v in state.items()}, options=PLAIN, param="/teacher/architecture"
    )

    loaded.load_state_dict(state, strict=True)

    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(loaded(images), saved(images))


@pytest.mark.parametrize(
    ("build_family", "name"),
    [
        (resnet.build, "wrn_16_1"),
        (resnet.build, "resnet18"),
        (wrn.build, "resnet8"),
        (resnet4stage.build, "resnet8"),
        (vgg.build, "resnet8"),
        (mobilenetv2.build, "vgg8"),
        (shufflenetv1.build, "shufflenetv2"),
        (shufflenetv2.build, "shufflenetv1"),
    ],
)
def test_a_family_builds_only_its_own(build_family: Callable[..., nn.Module], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        build_family(name, options=PLAIN, num_classes=10, in_channels=3)


def test_an_option_that_a_network_does_not_take_is_refused() -> None:
    with pytest.raises(InputError, match="stem_stride") as caught:
        build("shufflenetv2", options=OPTIONS["strided"])

    assert caught.value.code == "invalid_value"


def test_a_shuffle_deals_the_groups_out_in_turn() -> None:
    channels = torch.arange(6.0).reshape(1, 6, 1, 1)

    assert shuffle_channels(channels, groups=2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert shuffle_channels(channels, groups=3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert torch.equal(shuffle_channels(channels, groups=1), channels)


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet18", "wrn_10_1", "mobilenetv2", "timm/resnet10t", "timm/test_resnet", "binary_resnet18"]
)
def test_strided_1x1_convolutions_take_their_stride_first_and_compute_the_same(name: str) -> None:
    """Against PyTorch's own convolution in plain memory, where it is sound; values and gradients."""
    torch.manual_seed(0)
    network = build_network(name, options=NetworkOptions(), num_classes=5, in_channels=3)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1):
            assert isinstance(module, StridedPointwise)
            images = torch.randn(2, module.in_channels, 9, 8, dtype=torch.float64, requires_grad=True)
            weight = module.weight.detach().double().requires_grad_(True)
            expected = nn.functional.conv2d(images, weight, stride=module.stride, groups=module.groups)
            ours = module.double()(images)
            torch.testing.assert_close(ours, expected if module.bias is None else expected + module.bias[:, None, None])
            found = torch.autograd.grad(ours.square().sum(), [images, module.weight])
            if module.bias is None:
                torch.testing.assert_close(found, torch.autograd.grad(expected.square().sum(), [images, weight]))


def test_narrow_networks_on_larger_images_are_trained_without_a_crash() -> None:
    """In a process of its own, where PyTorch's own convolution corrupted the memory."""
    code = """
import torch
from distill.registry import build_network
from distill.spec import NetworkOptions
torch.set_num_threads(1)
for width in (0.25, 0.5):
    network = build_network("resnet8", options=NetworkOptions(width=width), num_classes=3, in_channels=3)
    network.to(memory_format=torch.channels_last)
    for _ in range(10):
        images = torch.randn(16, 3, 64, 64).contiguous(memory_format=torch.channels_last)
        network(images).square().mean().backward()
    assert all(value.isfinite().all() for value in network.state_dict().values())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
