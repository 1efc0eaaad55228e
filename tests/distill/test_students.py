from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill import students
from distill.anatomy import Anatomy
from distill.errors import InputError
from distill.losses import label_cross_entropy
from distill.method_specs import SRRLMethod
from distill.objective import Objective
from distill.pairs import sizes_of
from distill.registry import build_network, build_objective, load_student
from distill.spec import NetworkOptions
from distill.taps import Tap
from tests.fixtures.map_pairs import CLASSES, batch_of, pair_of, sizes

CHANNELS, TEACHER_WIDTH = 3, 20
OPTIONS = NetworkOptions(width=0.5, stem_stride=2)
FACTS: dict[str, Any] = {
    "options": OPTIONS.model_dump(mode="json"),
    "num_classes": str(CLASSES),
    "in_channels": str(CHANNELS),
    "image_size": [8, 8],
    "classes": ["á", "b", '"c"'],
    "mean": [0.1, 0.2, 0.3],
    "std": [1.0, 0.5, 0.25],
    "method": "srrl",
}
Trained = tuple[nn.Module, Objective]


class VectorNetwork(nn.Module):
    """Its feature is no mean of a map."""

    anatomy = Anatomy(stages=(), pooling=None, classifiers=("fc",))

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fc = nn.Conv2d(CHANNELS, 7, 3), nn.Linear(7, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(images).amax(dim=(2, 3)))
        return logits


@pytest.fixture
def images() -> Tensor:
    return torch.randn(5, CHANNELS, 8, 8, generator=torch.Generator().manual_seed(9))


def distilled(network: nn.Module, images: Tensor, *, head: str, activation: str = "relu") -> Trained:
    """A student and its objective after a pass that left its mark on the running statistics."""
    pair = pair_of(sizes_of(network, images), sizes((TEACHER_WIDTH, 3, 3)))
    spec = SRRLMethod.model_validate({"type": "srrl", "srrl": {"head": head, "activation": activation}})
    objective = build_objective(spec, pair=pair, label_loss=label_cross_entropy, label_part="ce")
    tap = Tap(network, maps=objective.student_maps)
    objective(replace(batch_of(pair), student=tap(images * 2 + 1)))
    tap.close()
    return network.eval(), objective.eval()


@pytest.fixture
def trained(images: Tensor) -> Callable[..., Trained]:
    def make(architecture: str, *, head: str, activation: str = "relu") -> Trained:
        torch.manual_seed(0)
        network = build_network(architecture, options=OPTIONS, num_classes=CLASSES, in_channels=CHANNELS)
        return distilled(network, images, head=head, activation=activation)

    return make


def save(path: Path, architecture: str, trained: Trained, *, head: Literal["own", "teacher"]) -> None:
    network, objective = trained
    state, facts = network.state_dict(), {**FACTS, "architecture": architecture, "head": head}
    if head == "teacher":
        assert objective.result_head is not None
        state = students.state_with_head(network, head=objective.result_head)
        facts["connector"] = objective.result_head.facts
    students.save(state, path, metadata=facts)


@torch.no_grad()
def answers(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images)
    return logits


@pytest.mark.parametrize("architecture", ["resnet8", "wrn_10_1"])
def test_student_with_its_own_head_answers_as_when_saved(
    tmp_path: Path, trained: Callable[..., Trained], images: Tensor, architecture: str
) -> None:
    network, objective = trained(architecture, head="own")
    save(tmp_path / "student.safetensors", architecture, (network, objective), head="own")

    loaded = load_student(tmp_path / "student.safetensors")

    assert torch.equal(answers(loaded, images), answers(network, images))
    assert not loaded.training


@pytest.mark.parametrize("activation", ["relu", "none"])
@pytest.mark.parametrize("architecture", ["resnet8", "wrn_10_1"])
def test_student_with_the_teachers_head_answers_as_its_objective_did(
    tmp_path: Path, trained: Callable[..., Trained], images: Tensor, architecture: str, activation: str
) -> None:
    network, objective = trained(architecture, head="teacher", activation=activation)
    save(tmp_path / "student.safetensors", architecture, (network, objective), head="teacher")

    loaded = load_student(tmp_path / "student.safetensors")

    with torch.no_grad():
        expected = objective.logits(Tap(network, maps=["last"])(images))
    assert torch.equal(answers(loaded, images), expected)
    assert not torch.allclose(expected, answers(network, images))  # the own head would say something else


def test_connector_without_relu_is_another_network(
    tmp_path: Path, trained: Callable[..., Trained], images: Tensor
) -> None:
    found = []
    for activation in ("relu", "none"):
        both = trained("resnet8", head="teacher", activation=activation)
        save(tmp_path / "student.safetensors", "resnet8", both, head="teacher")
        found.append(answers(load_student(tmp_path / "student.safetensors"), images))
    assert not torch.allclose(found[0], found[1])


def test_a_student_whose_feature_is_a_vector_answers_behind_the_teachers_head(images: Tensor) -> None:
    torch.manual_seed(0)
    network, objective = distilled(VectorNetwork(), images, head="teacher")
    head = objective.result_head
    assert head is not None
    assert head.facts == {"kind": "vector", "widths": [7, TEACHER_WIDTH], "relu": True}

    found = answers(students.ReusedHead(network, head=head), images)

    with torch.no_grad():
        feature = network.get_submodule("body")(images).amax(dim=(2, 3))
        torch.testing.assert_close(found, head.classifier(head.connector(feature)))
        assert torch.equal(found, objective.logits(Tap(network)(images)))


def test_state_with_head_is_that_of_the_assembled_student_and_leaves_no_hooks(trained: Callable[..., Trained]) -> None:
    network, objective = trained("resnet8", head="teacher")
    head = objective.result_head
    assert head is not None
    hooks = [len(module._forward_pre_hooks) for module in network.modules()]

    state = students.state_with_head(network, head=head)

    assert [len(module._forward_pre_hooks) for module in network.modules()] == hooks
    whole = students.ReusedHead(network, head=head)
    assert list(state) == list(whole.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())


def test_metadata_come_back_and_values_that_are_no_strings_are_json(
    tmp_path: Path, trained: Callable[..., Trained]
) -> None:
    path = tmp_path / "student.safetensors"
    save(path, "resnet8", trained("resnet8", head="own"), head="own")

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()

    assert metadata.pop("format") == "pt"
    assert metadata.pop("architecture") == "resnet8"
    assert metadata.pop("head") == "own"
    assert metadata.keys() == FACTS.keys()
    for key, value in FACTS.items():
        assert metadata[key] == value if isinstance(value, str) else json.loads(metadata[key]) == value


def test_tensors_of_any_layout_are_saved_whole(tmp_path: Path) -> None:
    weight = torch.arange(2.0 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    shared = torch.arange(10.0)
    state = {
        "channels_last": weight.to(memory_format=torch.channels_last),
        "transposed": shared.reshape(2, 5).T,
        "slice": shared[3:7:2],
        "again": shared,
        "count": torch.tensor(12),
        "learned": nn.Parameter(shared.clone()),
        "empty": torch.zeros(0, 4),
    }

    students.save(state, tmp_path / "x.safetensors", metadata={})

    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == value.dtype
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_saving_again_replaces_the_file_and_equal_students_are_equal_files(
    tmp_path: Path, trained: Callable[..., Trained]
) -> None:
    path = tmp_path / "student.safetensors"
    both = trained("resnet8", head="teacher")
    contents = []
    for head in ("own", "teacher", "own"):
        save(path, "resnet8", both, head=head)
        contents.append(path.read_bytes())
    assert contents[0] == contents[2] != contents[1]


def test_another_safetensors_file_is_no_student(tmp_path: Path, trained: Callable[..., Trained]) -> None:
    save_file(trained("resnet8", head="own")[0].state_dict(), tmp_path / "teacher.safetensors")
    with pytest.raises(
        InputError, match=r"teacher\.safetensors is not one of Limbeck's students.*num_classes"
    ) as caught:
        load_student(tmp_path / "teacher.safetensors")
    assert caught.value.code == "unsupported_format"
    assert "student.safetensors" in caught.value.hint


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and so on", b"\xff" * 100], ids=["empty", "zip", "noise"])
def test_another_kind_of_file_is_no_student(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match="is not one of Limbeck's students") as caught:
        load_student(tmp_path / "x")
    assert caught.value.code == "unsupported_format"


def test_student_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        load_student(Path("nowhere.safetensors"))


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("architecture", "resnet14", "state_dict_mismatch"),
        ("architecture", "resnot8", "architecture_unknown"),
        ("num_classes", "7", "state_dict_mismatch"),
        ("num_classes", "many", "unsupported_format"),
        ("options", '{"width": -1}', "unsupported_format"),
        ("options", '{"width": 0.25}', "state_dict_mismatch"),
        ("connector", "[]", "unsupported_format"),
        ("connector", '{"kind": "map", "widths": [32, 21], "relu": true}', "state_dict_mismatch"),
        ("connector", '{"kind": "vector", "widths": [32, 20], "relu": true}', "state_dict_mismatch"),
        ("connector", '{"kind": "map", "widths": [32, 20]}', "unsupported_format"),
        ("connector", '{"kind": "map", "widths": [32, -20], "relu": true}', "unsupported_format"),
        ("connector", '{"kind": "tree", "widths": [32, 20], "relu": true}', "unsupported_format"),
        ("connector", '{"kind": "projector", "widths": [32, 20], "factor": 2, "size": null}', "state_dict_mismatch"),
        ("connector", '{"kind": "projector", "widths": [32, 20], "factor": 0, "size": null}', "unsupported_format"),
        ("head", "own", "state_dict_mismatch"),
    ],
)
def test_header_that_contradicts_its_tensors(
    tmp_path: Path, trained: Callable[..., Trained], key: str, value: str, code: str
) -> None:
    path = tmp_path / "student.safetensors"
    save(path, "resnet8", trained("resnet8", head="teacher"), head="teacher")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata={**metadata, key: value})

    with pytest.raises(InputError) as caught:
        load_student(path)

    assert caught.value.code == code
