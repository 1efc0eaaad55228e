from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file
from torch import Tensor, nn

from distill import architectures
from distill.errors import InputError
from distill.losses import label_cross_entropy
from distill.method_specs import CEMethod, ExtraMethod, MethodSpec, SRRLMethod
from distill.methods.simkd import Projector
from distill.methods.srrl import SRRL, Connector, VectorConnector
from distill.networks.resnet import ResNet
from distill.networks.wrn import WideResNet
from distill.objective import Objective
from distill.pairs import Pair, Sizes
from distill.registry import build_method, build_network, build_objective, load_weights
from distill.spec import NetworkOptions
from tests.fixtures.map_pairs import batch_of, pair_of, sizes

OPTIONS = NetworkOptions(width=0.25)
STUDENT, TEACHER = sizes((5, 6, 6), (7, 3, 3)), sizes((9, 6, 6), (12, 3, 3))


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


@pytest.fixture
def pair() -> Pair:
    return pair_of(STUDENT, TEACHER)


def objective_of(spec: MethodSpec, pair: Pair) -> Objective:
    return build_objective(spec, pair=pair, label_loss=label_cross_entropy, label_part="ce")


def spec_of(name: str, **settings: object) -> ExtraMethod:
    adapter: TypeAdapter[ExtraMethod] = TypeAdapter(ExtraMethod)
    return adapter.validate_python({"type": name, **settings})


def test_settings_of_srrl_reach_the_method(pair: Pair) -> None:
    settings = {
        "feature_weight": 2.0,
        "regression_weight": 3.0,
        "label_weight": 0.5,
        "regression_loss": "kl",
        "reduction": "sum",
        "activation": "none",
        "head": "teacher",
        "stages": ["stage1", "last"],
    }
    spec = SRRLMethod.model_validate({"type": "srrl", "srrl": settings})

    objective = objective_of(spec, pair)

    (method,) = objective.methods
    assert isinstance(method, SRRL)
    assert objective.label_weight == 0.5
    assert objective.parts == ("ce", "fm", "sr")
    assert objective.teacher_needs == {"pooled", "stage1"}
    assert objective.student_maps == {"stage1", "last"}
    assert method.settings.model_dump() == {**SRRLMethod(type="srrl").srrl.model_dump(), **settings}
    head = objective.result_head
    assert head is not None
    assert head.classifier is pair.classifier
    assert head.connector.conv.weight.shape == (12, 7, 1, 1)  # type: ignore[union-attr]
    assert not any(parameter.requires_grad for parameter in pair.classifier.parameters())


@pytest.mark.parametrize(
    ("method", "pointer"),
    [
        ({"type": "simkd"}, "/method/type"),
        ({"type": "kd", "extra": [{"type": "sp"}, {"type": "simkd"}]}, "/method/extra/1/type"),
        ({"type": "fitnet", "fitnet": {"stage": "stage9"}}, "/method/fitnet/stage"),
        ({"type": "kd", "extra": [{"type": "fitnet", "fitnet": {"stage": "stage9"}}]}, "/method/extra/0/fitnet/stage"),
    ],
)
def test_what_a_method_refuses_is_said_of_its_place(method: dict[str, Any], pointer: str) -> None:
    pair = pair_of(replace(STUDENT, maps={"stage1": STUDENT.maps["stage1"]}), TEACHER)
    spec: MethodSpec = TypeAdapter(MethodSpec).validate_python(method)

    with pytest.raises(InputError) as caught:
        objective_of(spec, pair)

    assert (caught.value.code, caught.value.param) == ("invalid_value", pointer)


@pytest.mark.parametrize(("activation", "relu"), [("relu", True), ("none", False)])
def test_activation_ends_the_connector(pair: Pair, activation: str, relu: bool) -> None:
    method = build_method(spec_of("srrl", srrl={"activation": activation}), pair=pair)
    assert isinstance(method, SRRL)
    assert method.facts()["last"]["relu"] is relu


@pytest.mark.parametrize(
    ("student", "kind"), [(STUDENT, Connector), (sizes(pooled=7), VectorConnector)], ids=["map", "vector"]
)
def test_the_connector_is_made_for_what_the_student_shows(student: Sizes, kind: type[nn.Module]) -> None:
    head = objective_of(spec_of("srrl", srrl={"head": "teacher"}), pair_of(student, TEACHER)).result_head
    assert head is not None
    assert isinstance(head.connector, kind)


def test_simkd_answers_through_its_projector(pair: Pair) -> None:
    objective = objective_of(spec_of("simkd"), pair)
    head = objective.result_head
    assert head is not None
    assert isinstance(head.connector, Projector)
    assert head.classifier is pair.classifier
    assert objective.label_weight == 0.0
    assert objective.trains_logits


def test_plain_training_has_no_parameters_and_asks_no_teacher(pair: Pair) -> None:
    objective = objective_of(CEMethod(type="ce"), pair)
    assert objective.parts == ("ce",)
    assert objective.teacher_needs == frozenset()
    assert objective.result_head is None
    assert list(objective.parameters()) == []


@pytest.mark.parametrize("name", ["srrl", "fitnet", "at", "sp", "vid", "nst", "reviewkd", "simkd"])
def test_a_methods_answer_has_the_parts_that_it_announces(pair: Pair, name: str) -> None:
    method = build_method(spec_of(name), pair=pair)

    found = method(batch_of(pair))

    assert tuple(found) == ("loss", *method.parts)
    assert all(value.shape == () and value.isfinite() for value in found.values())


def test_methods_add_up_with_one_loss_of_the_labels(pair: Pair) -> None:
    spec = spec_of("srrl", srrl={"label_weight": 0.5}, extra=[{"type": "at"}, {"type": "sp", "sp": {"weight": 2.0}}])
    torch.manual_seed(0)
    objective = objective_of(spec, pair)
    batch = batch_of(pair)

    found = objective(batch)

    assert tuple(found) == ("loss", "ce", "fm", "sr", "at", "sp") == ("loss", *objective.parts)
    total = 0.5 * found["ce"] + found["fm"] + found["sr"] + 1000.0 * found["at"] + 2.0 * found["sp"]
    torch.testing.assert_close(found["loss"], total)
    assert objective.teacher_needs == {"pooled", "stage1", "stage2", "last"}


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
