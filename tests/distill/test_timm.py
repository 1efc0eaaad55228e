from __future__ import annotations

import copy
import functools
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import timm_names
from distill.errors import InputError
from distill.layouts import feature, pooling_map, stage_map, to_map, weight_and_bias
from distill.networks import timm_zoo
from distill.networks.dissection import Findings

NUM_CLASSES = 7
# As timm's sources have them: what averages the last map (None: class token, attention, or layers behind the
# average), whether it is an output, and what classifies.
HEADS: dict[str, tuple[str | None, bool, tuple[str, ...]]] = {
    "test_resnet": ("global_pool", False, ("fc",)),
    "test_efficientnet": ("global_pool", False, ("classifier",)),
    "test_nfnet": ("head.global_pool", False, ("head.fc",)),
    "test_byobnet": ("head.global_pool", False, ("head.fc",)),
    "test_coatnet": ("head.global_pool", False, ("head.fc",)),
    "test_convnext": (None, False, ("head.fc",)),  # a norm behind the average
    "test_mambaout": (None, False, ("head.fc",)),  # a hidden layer behind it
    "test_vit": (None, False, ("head",)),  # the class token
    "test_vit_relpos": (None, False, ("head",)),  # a norm behind the average
    "mobilenetv3_small_050": (None, False, ("classifier",)),  # conv_head behind the average
    "dla46x_c": ("global_pool", False, ("fc",)),  # fc is a convolution
    "pvt_v2_b0": ("stages", True, ("head",)),  # averaged by a function
    "swiftformer_xs": ("norm", True, ("head", "head_dist")),
    "levit_128s": (None, False, ("head.linear", "head_dist.linear")),  # a batch norm inside each head
    "deit_tiny_distilled_patch16_224": (None, False, ("head", "head_dist")),  # two tokens
    "vit_tiny_patch16_dinov3_qkvb": ("norm", True, ("head",)),  # five tokens are left out of the average
    "crossvit_9_240": (None, False, ("head.0", "head.1")),  # two widths
    "convit_tiny": (None, False, ("head",)),  # the class token comes late
    "pit_ti_224": (None, False, ("head",)),  # stages put out tuples
    "efficientvim_m1": (None, False, ()),  # learned weights of four heads
}
BIG = {
    "swin_tiny_patch4_window7_224": ("head.global_pool", False, ("head.fc",)),  # (B, H, W, C)
    "hiera_tiny_224": (None, False, ("head.fc",)),  # tokens of early blocks in an order of their own
}
NAMES = [*HEADS, *BIG]
QUICK = ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_mambaout", "dla46x_c", "levit_128s"]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a connection fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("something wants to use the network")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)


@functools.cache
def built(name: str) -> nn.Module:
    """A network whose norms and biases are not at their start, where they do nothing; not to be changed."""
    torch.manual_seed(0)
    network = timm_zoo.build(f"timm/{name}", num_classes=NUM_CLASSES, in_channels=3).eval()
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point() and value.dim() == 1:
                value.mul_(1 + 0.2 * torch.rand_like(value)).add_(0.05 * torch.rand_like(value))
    return network


@functools.cache
def findings(name: str) -> Findings:
    return timm_zoo.findings_of(built(name))


def anatomy(name: str) -> Anatomy:
    return findings(name).anatomy


def images_for(name: str, *, num_images: int = 2, in_channels: int = 3) -> Tensor:
    facts = facts_of(name)
    size = facts.image_size if facts.fixed_size else (64, 64)
    return torch.randn(num_images, in_channels, *size, generator=torch.Generator().manual_seed(1))


def facts_of(name: str) -> timm_names.TimmFacts:
    facts = timm_names.facts(f"timm/{name}")
    assert facts is not None
    return facts


@functools.cache
def seen(name: str) -> tuple[dict[str, Any], Tensor]:
    """What went in and came out of the modules of the anatomy in one forward pass, and the logits."""
    network, parts = built(name), anatomy(name)
    values: dict[str, Any] = {}
    handles = []
    for path in {*parts.stages, *parts.classifiers, *([parts.pooling] if parts.pooling else [])}:

        def keep(_: nn.Module, inputs: tuple[Any, ...], output: Any, path: str = path) -> None:
            values[f"{path} in"], values[f"{path} out"] = inputs[0], output

        handles.append(network.get_submodule(path).register_forward_hook(keep))
    with torch.no_grad():
        logits = network(images_for(name))
    for handle in handles:
        handle.remove()
    return values, logits


def close(left: np.ndarray, right: np.ndarray, tolerance: float = 1e-4) -> bool:
    return bool(np.abs(left - right).max() <= tolerance * np.abs(right).max())


@pytest.mark.parametrize("name", NAMES)
def test_pooling_and_classifiers_are_where_timms_sources_have_them(name: str) -> None:
    found = anatomy(name)

    assert (found.pooling, found.pooled_output, found.classifiers) == (HEADS | BIG)[name]


@pytest.mark.parametrize("name", [name for name in NAMES if (HEADS | BIG)[name][2]])
def test_the_logits_are_the_mean_of_what_the_classifiers_make_of_their_inputs(name: str) -> None:
    values, logits = seen(name)
    answers = []
    for path in anatomy(name).classifiers:
        weight, bias = weight_and_bias(built(name).get_submodule(path))
        feature_BC = feature(values[f"{path} in"]).double().numpy()
        assert bias is not None
        answers.append(feature_BC @ weight.detach().double().numpy().T + bias.detach().double().numpy())

    assert logits.shape == (2, NUM_CLASSES)
    assert close(np.mean(answers, axis=0), logits.double().numpy())


@pytest.mark.parametrize("name", [name for name in NAMES if (HEADS | BIG)[name][0]])
def test_the_mean_of_the_last_map_is_what_every_classifier_reads(name: str) -> None:
    values, _ = seen(name)
    found = anatomy(name)
    map_BCHW = pooling_map(values[f"{found.pooling} {'out' if found.pooled_output else 'in'}"], found)

    assert map_BCHW.shape[2] * map_BCHW.shape[3] > 1
    for path in found.classifiers:
        mean_BC = map_BCHW.double().numpy().mean(axis=(2, 3))
        assert close(mean_BC, feature(values[f"{path} in"]).double().numpy())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "crossvit_9_240"])
def test_stage_maps_are_the_intermediate_maps_that_timm_gives_out(name: str) -> None:
    network, found = built(name), anatomy(name)
    values, _ = seen(name)
    maps = [stage_map(values[f"{path} out"], found) for path in found.stages]
    assert tuple(one.shape[1] for one in maps) == facts_of(name).stage_widths
    with torch.no_grad():
        theirs = iter(network.forward_intermediates(images_for(name), intermediates_only=True))

    # Ours are some of theirs, in the same order.
    assert maps
    for one in maps:
        assert any(one.shape == other.shape and torch.allclose(one, other, atol=1e-5) for other in theirs)


def test_tokens_in_another_order_are_no_map() -> None:
    assert anatomy("hiera_tiny_224").stages == ("blocks.11",)
    assert facts_of("hiera_tiny_224").stage_widths == (768,)


def test_branches_that_leave_one_module_are_no_stages() -> None:
    assert anatomy("crossvit_9_240").stages == ()


@pytest.mark.parametrize("name", QUICK)
def test_looking_for_the_anatomy_leaves_the_network_as_it_was(name: str) -> None:
    network = copy.deepcopy(built(name)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.random.get_rng_state()

    assert timm_zoo.anatomy_of(network) == anatomy(name)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


@pytest.mark.parametrize("name", HEADS)
def test_training_answers_plain_logits_that_every_classifier_and_the_first_layer_learn_from(name: str) -> None:
    network = copy.deepcopy(built(name)).train()
    logits = network(images_for(name))
    logits.square().sum().backward()

    assert isinstance(logits, Tensor)
    assert logits.shape == (2, NUM_CLASSES)
    for path in (*anatomy(name).classifiers, first_layer(network)):
        assert gradient_of(network, path).abs().sum() > 0


@pytest.mark.parametrize("name", QUICK)
def test_every_stage_map_teaches_the_first_layer(name: str) -> None:
    # LeViT keeps parts of its graph between passes, unless it trains.
    network, found = copy.deepcopy(built(name)).train(), anatomy(name)
    for path in found.stages:
        maps: list[Tensor] = []
        handle = network.get_submodule(path).register_forward_hook(
            lambda *call, maps=maps: maps.append(stage_map(call[2], found))
        )
        network(images_for(name))
        handle.remove()
        network.zero_grad()
        maps[0].square().mean().backward()
        assert gradient_of(network, first_layer(network)).abs().sum() > 0


def first_layer(network: nn.Module) -> str:
    return next(path for path, module in network.named_modules() if isinstance(module, nn.Conv2d))


def gradient_of(network: nn.Module, path: str) -> Tensor:
    gradient = network.get_submodule(path).weight.grad
    assert isinstance(gradient, Tensor)
    assert gradient.isfinite().all()
    return gradient


@pytest.mark.parametrize("name", QUICK)
def test_grey_images_and_other_numbers_of_classes(name: str) -> None:
    network = timm_zoo.build(f"timm/{name}", num_classes=3, in_channels=1).eval()
    found = timm_zoo.findings_of(network)

    assert network(images_for(name, in_channels=1)).shape == (2, 3)
    assert found.anatomy == anatomy(name)
    assert found.stage_widths == facts_of(name).stage_widths
    assert sum(p.numel() for p in network.parameters()) == facts_of(name).parameters(num_classes=3, in_channels=1)


@pytest.mark.parametrize("name", NAMES)
def test_the_table_says_what_the_network_is(name: str) -> None:
    facts = facts_of(name)
    parameters = sum(p.numel() for p in built(name).parameters())
    widths = [built(name).get_submodule(path).weight.shape[1] for path in facts.classifiers]  # type: ignore[union-attr]
    published = timm_zoo.published(built(name))

    assert facts.parameters(num_classes=NUM_CLASSES, in_channels=3) == parameters
    assert facts.classifiers == anatomy(name).classifiers
    assert facts.pooled == (anatomy(name).pooling is not None)
    assert list(facts.feature_widths) == widths
    assert findings(name).stage_widths == facts.stage_widths
    assert findings(name).feature_widths == facts.feature_widths
    assert (3, *facts.image_size) == published["input_size"]
    assert facts.preprocessing.mean == published["mean"]
    assert facts.preprocessing.std == published["std"]


# Parameters in 1000 classes and multiply-adds, as the papers and timm's own results have them.
PUBLISHED = {
    "resnet50": (25_557_032, 4.1e9),
    "mobilenetv3_large_100": (5_483_032, 0.22e9),
    "efficientnet_b0": (5_288_548, 0.39e9),
    "densenet121": (7_978_856, 2.87e9),
    "convnext_tiny": (28_589_128, 4.5e9),
    "swin_tiny_patch4_window7_224": (28_288_354, 4.5e9),
    "deit_tiny_patch16_224": (5_717_416, 1.26e9),
    "vit_base_patch16_224": (86_567_656, 17.6e9),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_table_has_the_published_sizes(name: str) -> None:
    parameters, macs = PUBLISHED[name]

    assert facts_of(name).parameters(num_classes=1000, in_channels=3) == parameters
    assert facts_of(name).macs == pytest.approx(macs, rel=0.03)


@pytest.mark.parametrize("name", ["test_resnet", "mobilenetv3_small_050", "dla46x_c"])
def test_multiply_adds_are_those_of_convolutions_and_linear_layers(name: str) -> None:
    facts, total = facts_of(name), 0

    def count(layer: nn.Conv2d | nn.Linear, _: tuple[Tensor], out: Tensor) -> None:
        nonlocal total
        total += out.numel() * layer.weight[0].numel()

    with torch.device("meta"):
        network = timm_zoo.build(f"timm/{name}", num_classes=1000, in_channels=3).eval()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.register_forward_hook(count)
        network(torch.empty(1, 3, *facts.image_size))

    assert facts.macs == total
    assert facts.estimated_macs(num_classes=1000, image_size=facts.image_size) == total
    assert facts.estimated_macs(num_classes=10, image_size=facts.image_size) == total - 990 * sum(facts.feature_widths)


def test_the_table_has_all_that_classifies_and_says_why_the_rest_is_missing() -> None:
    timm = timm_zoo.import_timm()
    table = json.loads(timm_names.TABLE.read_text(encoding="utf-8"))

    assert timm_names.TABLE.stat().st_size < 500_000
    assert tuple(table["columns"]) == timm_names.COLUMNS
    if timm.__version__ == timm_names.version():
        named = {name.removeprefix(timm_names.PREFIX) for name in timm_names.names()}
        assert named | set(table["skipped"]) == set(timm.list_models())
    assert len(timm_names.names()) > 1300
    assert all(name.endswith("_enc") for name in table["skipped"])
    for name in timm_names.names():
        facts = timm_names.facts(name)
        assert facts is not None
        assert facts.parameters_of_default > 0
        assert len(facts.classifiers) == len(facts.feature_widths)
        assert len(facts.stage_widths) <= 4


def test_without_a_device_for_numbers_only_the_numbers_are_missing() -> None:
    with torch.device("meta"):
        network = timm_zoo.build("timm/test_resnet", num_classes=NUM_CLASSES, in_channels=3)
    found = timm_zoo.findings_of(network)

    assert not found.proved
    assert found.anatomy.stages == anatomy("test_resnet").stages
    assert found.anatomy.classifiers == ("fc",)
    assert found.anatomy.pooling is None


def test_a_head_as_wide_as_its_hidden_layer_is_the_last_one() -> None:
    network = timm_zoo.build("timm/caformer_s18", num_classes=2048, in_channels=3)

    assert network.get_submodule("head.fc.fc1").weight.shape[0] == 2048  # type: ignore[union-attr]
    assert timm_zoo.anatomy_of(network).classifiers == ("head.fc.fc2",)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("timm/resnet50.a1_in1k", "timm/resnet50"),
        ("timm/ResNet-50", "timm/resnet50"),
        ("timm/hf-hub:timm/resnet18", None),
        ("timm/local-dir:/etc", None),
        ("resnet50", "timm/resnet50"),
        ("timm/", None),
    ],
)
def test_only_names_of_the_table_reach_timm(name: str, nearest: str | None) -> None:
    with pytest.raises(InputError) as refusal:
        timm_zoo.build(name, num_classes=2, in_channels=3)

    assert refusal.value.code == "architecture_unknown"
    assert nearest is None or refusal.value.did_you_mean[0] == nearest
    assert timm_names.facts(name) is None


def test_a_network_for_colour_alone_refuses_grey_images() -> None:
    facts = facts_of("csatv2")

    assert not facts.takes_channels(1)
    with pytest.raises(ValueError, match="3 channels only"):
        facts.parameters(num_classes=10, in_channels=1)
    with pytest.raises(InputError, match="3 channels only") as refusal:
        timm_zoo.build("timm/csatv2", num_classes=10, in_channels=1)
    assert refusal.value.code == "invalid_value"


def test_maps_of_every_layout_are_read_place_by_place() -> None:
    map_BCHW = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    tokens_BNC = map_BCHW.flatten(2).transpose(1, 2)
    with_prefix = torch.cat([torch.zeros(2, 2, 3), tokens_BNC], dim=1)

    assert torch.equal(to_map(map_BCHW, "nchw"), map_BCHW)
    assert torch.equal(to_map(map_BCHW.permute(0, 2, 3, 1), "nhwc"), map_BCHW)
    assert torch.equal(to_map(tokens_BNC, "tokens", image_size=(64, 96)), map_BCHW)
    assert torch.equal(to_map((with_prefix, None), "tokens", num_prefix_tokens=2, image_size=(64, 96)), map_BCHW)
    assert torch.equal(to_map(tokens_BNC, "tokens", num_prefix_tokens=2, image_size=(64, 96)), map_BCHW)
    for nothing in (tokens_BNC, torch.zeros(2, 3), None, ()):
        with pytest.raises(ValueError, match=r"grid|no map"):
            to_map(nothing, "tokens")


def test_timm_is_imported_when_a_network_is_asked_for_and_torchvision_mended_only_when_broken() -> None:
    run_fresh(
        """
        import sys
        from distill.architectures import timm_names
        assert timm_names.facts("timm/test_resnet") is not None and "torch" not in sys.modules
        from distill.networks import timm_zoo, torchvision_shim
        assert not {"timm", "torchvision"} & set(sys.modules)
        try:
            import torchvision
            imports_by_itself = True
        except RuntimeError:
            imports_by_itself = False
        import torch
        network = timm_zoo.build("timm/test_resnet", num_classes=3, in_channels=1).eval()
        assert network(torch.zeros(1, 1, 32, 32)).shape == (1, 3)
        assert bool(torchvision_shim._libraries) != imports_by_itself
        from torchvision.transforms import v2
        assert v2.Resize(8)(torch.zeros(3, 16, 16)).shape == (3, 8, 8)
        """
    )


def test_a_torchvision_that_imports_is_left_alone_and_another_fault_is_told(tmp_path: Path) -> None:
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import os\nif os.environ.get('BROKEN'): raise RuntimeError('another fault')\n"
    )
    run_fresh(
        f"""
        import os, sys
        sys.path.insert(0, {str(tmp_path)!r})
        from distill.errors import InputError
        from distill.networks import timm_zoo, torchvision_shim
        os.environ["BROKEN"] = "1"
        try:
            torchvision_shim.import_torchvision()
        except RuntimeError as error:
            assert str(error) == "another fault"
        else:
            raise AssertionError("no error")
        del os.environ["BROKEN"]
        assert torchvision_shim.import_torchvision().__file__.startswith({str(tmp_path)!r})
        assert torchvision_shim._libraries == []
        sys.modules["timm"] = None  # as if it were not installed
        try:
            timm_zoo.build("timm/resnet50", num_classes=2, in_channels=3)
        except InputError as error:
            assert error.code == "architecture_unknown" and error.hint == "pip install limbeck[zoo]"
        else:
            raise AssertionError("no error")
        """
    )


def run_fresh(script: str) -> None:
    """Run it in a Python of its own, in which nothing is imported yet."""
    lines = [line.removeprefix("        ") for line in script.splitlines()]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
