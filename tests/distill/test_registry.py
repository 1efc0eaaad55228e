from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distill import architectures
from distill.errors import InputError
from distill.methods.ce import CE
from distill.methods.srrl import SRRL
from distill.networks.resnet import ResNet
from distill.networks.wrn import WideResNet
from distill.registry import build_method, build_network, load_weights
from distill.spec import CEMethod, NetworkOptions, SRRLMethod

OPTIONS = NetworkOptions(width=0.25)


def build(name: str = "resnet8", *, num_classes: int = 5) -> nn.Module:
    return build_network(name, options=OPTIONS, num_classes=num_classes, in_channels=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Of a network whose every tensor differs from a fresh network's."""
    generator = torch.Generator().manual_seed(4)
    return {
        name: torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else value + 3
        for name, value in build().state_dict().items()
    }


@pytest.mark.parametrize(("name", "kind"), [("resnet8", ResNet), ("wrn_10_1", WideResNet), ("wrn_22_3", WideResNet)])
def test_name_chooses_the_family(name: str, kind: type[nn.Module]) -> None:
    network = build(name)
    assert isinstance(network, kind)
    assert sum(p.numel() for p in network.parameters()) == architectures.parameters(
        name, options=OPTIONS, num_classes=5, in_channels=1
    )


def test_unknown_network_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(InputError) as caught:
        build("ResNet-8")
    assert caught.value.code == "architecture_unknown"
    assert "resnet8" in caught.value.did_you_mean


def test_settings_of_srrl_reach_the_method() -> None:
    spec = SRRLMethod.model_validate(
        {
            "type": "srrl",
            "srrl": {
                "feature_weight": 2.0,
                "regression_weight": 3.0,
                "label_weight": 0.5,
                "regression_loss": "kl",
                "reduction": "sum",
                "activation": "none",
                "head": "teacher",
            },
        }
    )
    classifier = nn.Linear(12, 5)

    method = build_method(spec, classifier=classifier, student_width=7)

    assert isinstance(method, SRRL)
    assert method.needs_teacher
    assert method.weights == {"ce": 0.5, "fm": 2.0, "sr": 3.0}
    assert (method.regression_loss, method.reduction, method.head) == ("kl", "sum", "teacher")
    assert not method.connector.relu
    assert method.connector.conv.weight.shape == (12, 7, 1, 1)
    assert method.classifier is classifier
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize(("activation", "relu"), [("relu", True), ("none", False)])
def test_activation_ends_the_connector(activation: str, relu: bool) -> None:
    spec = SRRLMethod.model_validate({"type": "srrl", "srrl": {"activation": activation}})
    method = build_method(spec, classifier=nn.Linear(4, 2), student_width=3)
    assert isinstance(method, SRRL)
    assert method.connector.relu is relu


def test_plain_training_has_no_parameters_and_asks_no_teacher() -> None:
    method = build_method(CEMethod(type="ce"), classifier=nn.Linear(4, 2), student_width=3)
    assert isinstance(method, CE)
    assert not method.needs_teacher
    assert list(method.parameters()) == []


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_weights_are_loaded_whatever_wrapped_the_network(path: Path, state: dict[str, Tensor], prefix: str) -> None:
    save_file({prefix + name: value for name, value in state.items()}, path, metadata={"mean": "[0.5]"})
    network = build()

    metadata = load_weights(network, path)

    assert metadata == {"mean": "[0.5]"}
    loaded = network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_file_without_metadata(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)
    assert load_weights(build(), path) == {}


def test_old_files_without_batch_counters_load(path: Path, state: dict[str, Tensor]) -> None:
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    assert len(kept) < len(state)
    save_file(kept, path)
    network = build()
    load_weights(network, path)
    assert all(torch.equal(network.state_dict()[name], value) for name, value in kept.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_become_float32(path: Path, state: dict[str, Tensor], dtype: torch.dtype) -> None:
    stored = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    save_file(stored, path)
    network = build()
    load_weights(network, path)
    for name, value in network.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, stored[name].to(value.dtype))


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen"])
def test_weights_must_fit_exactly(path: Path, state: dict[str, Tensor], change: str) -> None:
    if change == "missing":
        del state["fc.bias"]
    elif change == "unexpected":
        state["fc.scale"] = torch.ones(5)
    else:
        state["fc.bias"] = torch.ones(6)
    save_file(state, path)

    with pytest.raises(InputError) as caught:
        load_weights(build(), path)

    assert (caught.value.code, caught.value.param) == ("state_dict_mismatch", "/teacher/architecture")
    assert ("fc.scale" if change == "unexpected" else "fc.bias") in caught.value.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("name", ["conv1.weight", "layer3.0.bn2.running_var", "fc.bias"])
def test_weights_must_be_finite(path: Path, state: dict[str, Tensor], name: str, value: float) -> None:
    state[name].view(-1)[-1] = value
    save_file(state, path)

    with pytest.raises(InputError) as caught:
        load_weights(build(), path)

    assert (caught.value.code, caught.value.param) == ("upload_corrupt", "/teacher")
    assert name in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("keep", [0, 5, 300, -1])
def test_cut_file_is_corrupt(path: Path, state: dict[str, Tensor], keep: int) -> None:
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError) as caught:
        load_weights(build(), path)
    assert caught.value.code == "upload_corrupt"
    assert path.name in caught.value.message
