from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from distill import architectures
from distill.architectures import PLAIN
from distill.networks import resnet, wrn
from distill.spec import NetworkOptions

Network = resnet.ResNet | wrn.WideResNet
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
NETWORKS = architectures.names()
SMALL = ["resnet8", "resnet14", "wrn_10_1", "wrn_16_2"]
OPTIONS = {
    "plain": NetworkOptions(),
    "half": NetworkOptions(width=0.5),
    "double": NetworkOptions(width=2),
    "strided": NetworkOptions(stem_stride=2),
    "least": NetworkOptions(width=0.01),
}


def build(
    name: str, *, options: NetworkOptions = OPTIONS["plain"], num_classes: int = 10, in_channels: int = 3
) -> Network:
    if name.startswith("resnet"):
        return resnet.build(name, options=options, num_classes=num_classes, in_channels=in_channels)
    return wrn.build(name, options=options, num_classes=num_classes, in_channels=in_channels)


def build_without_memory(name: str, *, options: NetworkOptions, in_channels: int = 3) -> Network:
    with torch.device("meta"):
        return build(name, options=options, in_channels=in_channels)


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


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_description_has_the_state_dict_in_names_order_and_shapes(name: str, options: NetworkOptions) -> None:
    network = build_without_memory(name, options=options, in_channels=1)
    described = architectures.state_shapes(name, options=options, num_classes=10, in_channels=1)

    assert list(described.items()) == [(k, tuple(v.shape)) for k, v in network.state_dict().items()]
    assert architectures.parameters(name, options=options, num_classes=10, in_channels=1) == sum(
        p.numel() for p in network.parameters()
    )


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_described_cost_is_the_one_counted_on_the_network(name: str, options: NetworkOptions) -> None:
    network = build_without_memory(name, options=options)
    described = architectures.macs(name, options=options, num_classes=10, in_channels=3, image_size=(32, 27))

    assert described == macs_by_hooks(network, torch.empty(1, 3, 32, 27, device="meta"))


def test_names_are_those_of_the_benchmarks_files() -> None:
    small, wide = build("resnet8").state_dict(), build("wrn_10_2").state_dict()

    assert list(small)[:7] == ["conv1.weight", *(f"bn1.{key}" for key in BATCH_NORM), "layer1.0.conv1.weight"]
    assert {"layer2.0.downsample.0.weight", "layer2.0.downsample.1.running_var", "fc.bias"} <= set(small)
    assert list(wide)[:2] == ["conv1.weight", "block1.layer.0.bn1.weight"]
    assert {"block1.layer.0.convShortcut.weight", "bn1.running_mean", "fc.weight"} <= set(wide)


@pytest.mark.parametrize(("name", "num_convolutions"), [("resnet20", 19), ("wrn_16_2", 13), ("wrn_40_1", 37)])
def test_depth_counts_the_3x3_convolutions(name: str, num_convolutions: int) -> None:
    network = build_without_memory(name, options=OPTIONS["plain"])
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]

    assert len(convolutions) == num_convolutions


@pytest.mark.parametrize("name", SMALL)
def test_what_is_pooled_is_what_the_classifier_reads(name: str) -> None:
    network = build(name, num_classes=7).eval()
    pooled, read = seen_inputs(network, ["avgpool", "fc"], torch.randn(2, 3, 32, 32))

    assert isinstance(network.avgpool, nn.AdaptiveAvgPool2d)
    assert pooled.shape[1:] == (architectures.feature_width(name, options=PLAIN), 8, 8)
    torch.testing.assert_close(pooled.mean(dim=(2, 3)), read)
    assert pooled.min() >= 0


@pytest.mark.parametrize("name", SMALL)
def test_only_a_resnet_pools_what_its_last_stage_puts_out(name: str) -> None:
    network = build(name).eval()
    last: list[Tensor] = []
    network.get_submodule(network.anatomy.stages[-1]).register_forward_hook(lambda *call: last.append(call[2]))
    (pooled,) = seen_inputs(network, ["avgpool"], torch.randn(2, 3, 32, 32))

    assert last[0].shape == pooled.shape
    assert torch.equal(last[0], pooled) == name.startswith("resnet")
    assert (last[0].min() < 0) == name.startswith("wrn")


def seen_inputs(network: nn.Module, modules: list[str], images: Tensor) -> list[Tensor]:
    seen: list[Tensor] = []
    for path in modules:
        network.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    network(images)
    return seen


@pytest.mark.parametrize("name", SMALL)
def test_stages_halve_the_map_and_have_the_described_widths(name: str) -> None:
    network = build(name).eval()
    shapes: list[tuple[int, ...]] = []
    for path in network.anatomy.stages:
        network.get_submodule(path).register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape)))
    network(torch.randn(1, 3, 32, 32))

    widths = architectures.blueprint(name, options=PLAIN).widths
    assert shapes == [(1, width, size, size) for width, size in zip(widths, (32, 16, 8), strict=True)]


@pytest.mark.parametrize("size", [(28, 28), (33, 17), (1, 1)])
@pytest.mark.parametrize("name", SMALL)
def test_images_of_any_size_give_logits(name: str, size: tuple[int, int]) -> None:
    network = build(name, num_classes=5, in_channels=1, options=OPTIONS["strided"]).eval()

    assert network(torch.randn(2, 1, *size)).shape == (2, 5)


@pytest.mark.parametrize("name", SMALL)
def test_the_forward_leaves_the_images_and_the_stages_alone(name: str) -> None:
    network = build(name).eval()
    images = torch.randn(2, 3, 16, 16)
    before = images.clone()
    seen: list[tuple[Tensor, Tensor]] = []
    for path in network.anatomy.stages:
        network.get_submodule(path).register_forward_hook(lambda *call: seen.append((call[2], call[2].clone())))
    network(images)

    assert torch.equal(images, before)
    assert len(seen) == 3
    assert all(torch.equal(later, at_once) for later, at_once in seen)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_gets_gradient(name: str) -> None:
    network = build(name)
    network(torch.randn(4, 3, 16, 16)).square().sum().backward()

    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_4"])
def test_convolutions_start_with_the_variance_of_their_fan_out(name: str) -> None:
    torch.manual_seed(0)
    network = build(name)

    for key, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = (2 / (module.out_channels * module.kernel_size[0] * module.kernel_size[1])) ** 0.5
            # Five standard errors of a standard deviation.
            tolerance = 5 * expected / (2 * module.weight.numel()) ** 0.5
            assert module.weight.std().item() == pytest.approx(expected, abs=tolerance), key
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all(), key
            assert (module.bias == 0).all(), key


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


@pytest.mark.parametrize(("build_family", "name"), [(resnet.build, "wrn_16_1"), (wrn.build, "resnet8")])
def test_a_family_builds_only_its_own(build_family: Callable[..., Network], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        build_family(name, options=PLAIN, num_classes=10, in_channels=3)
