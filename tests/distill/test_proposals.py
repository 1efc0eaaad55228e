"""Networks within a budget: the rule, and figures against the built networks and their files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from distill import architectures, proposals, students
from distill.proposals import Candidate, Place, measure, propose, smallest
from distill.registry import build_network
from distill.spec import Budget, NetworkOptions

PLACE = Place(
    teacher="resnet32x4",
    teacher_options=NetworkOptions(),
    num_classes=10,
    in_channels=3,
    image_size=(32, 32),
    classes=[f"class {number}" for number in range(10)],
)


def anything(name: str, options: NetworkOptions) -> bool:
    return True


def proposed(place: Place = PLACE, **limits: int) -> list[Candidate]:
    found = propose(Budget(**limits), place, suits=anything)
    for candidate in found:
        for name, share in candidate.used.items():
            assert 0 < share <= 1
            assert share == getattr(candidate, name) / limits[name]
    return found


def family(candidate: Candidate) -> str:
    return architectures.blueprint(candidate.name, options=candidate.options).family


@pytest.mark.parametrize(
    ("teacher", "own"),
    [("resnet32x4", "resnet"), ("wrn_40_4", "wrn"), ("vgg13", "vgg"), ("mobilenetv2", "mobilenetv2")],
)
def test_the_teachers_own_family_comes_first(teacher: str, own: str) -> None:
    found = proposed(replace(PLACE, teacher=teacher), parameters=500_000)
    assert len(found) == 3
    assert family(found[0]) == own
    assert len({family(candidate) for candidate in found}) == 3


def test_a_network_as_its_name_says_is_taken_where_it_uses_half_of_the_budget() -> None:
    first = proposed(parameters=500_000)[0]
    assert (first.name, first.options.width) == ("resnet32", 1.0)  # 466,906; resnet44 has 661,338
    assert first.parameters == 466_906


def test_else_the_width_is_made_to_fit() -> None:
    first = proposed(parameters=60_000)[0]
    assert first.options.width < 1
    assert first.used["parameters"] > 0.8


@pytest.mark.parametrize(
    "limits",
    [
        {"macs": 20_000_000},
        {"file_bytes": 1_000_000},
        {"parameters": 300_000, "macs": 15_000_000},
        {"parameters": 300_000, "macs": 15_000_000, "file_bytes": 400_000},
    ],
)
def test_limits_hold_each_and_together(limits: dict[str, int]) -> None:
    assert len(proposed(**limits)) == 3


def test_no_student_is_larger_than_its_teacher() -> None:
    place = replace(PLACE, teacher="resnet20")
    teacher = measure(place.teacher, place.teacher_options, place)
    assert teacher.macs is not None
    for candidate in proposed(place, parameters=10**9):
        assert candidate.parameters < teacher.parameters
        assert (candidate.macs or 0) <= teacher.macs


def test_a_binary_teacher_has_real_students() -> None:
    found = proposed(replace(PLACE, teacher="binary_resnet20"), parameters=200_000)
    assert len(found) == 3
    assert "binary" not in {family(candidate) for candidate in found}


def test_a_stem_that_strides_is_taken_over_where_there_is_one() -> None:
    place = replace(PLACE, teacher_options=NetworkOptions(stem_stride=2))
    found = proposed(place, parameters=500_000)
    strides = {family(c): c.options.stem_stride for c in found}
    assert strides["resnet"] == strides["wrn"] == 2
    assert strides.get("shufflenetv2", 1) == 1


def test_large_images_get_networks_of_timm() -> None:
    place = replace(PLACE, teacher="timm/resnet50", image_size=(224, 224), num_classes=100)
    found = proposed(place, parameters=12_000_000)
    assert [c.name for c in found] == ["timm/resnet18", "timm/efficientnet_b3", "timm/mobilenetv3_large_100"]
    low = proposed(place, parameters=350_000)
    assert {family(c) for c in low} == {"mobilenetv2", "shufflenetv1", "shufflenetv2"}
    small = proposed(replace(place, image_size=(32, 32)), parameters=500_000)
    assert not any(c.name.startswith("timm/") for c in small)


def test_the_shallowest_wide_networks_are_not_proposed() -> None:
    for parameters in (30_000, 100_000, 500_000, 5_000_000):
        found = proposed(replace(PLACE, teacher="wrn_40_4"), parameters=parameters)
        assert family(found[0]) == "wrn"
        assert not found[0].name.startswith("wrn_10_")


def test_a_figure_that_is_not_known_is_within_no_budget() -> None:
    place = replace(PLACE, teacher="timm/resnet50", image_size=(224, 224))
    for candidate in proposed(place, macs=500_000_000):
        assert candidate.macs is not None


def test_networks_that_do_not_suit_are_passed_over() -> None:
    found = propose(Budget(parameters=500_000), PLACE, suits=lambda name, options: name == "vgg8")
    assert {candidate.name for candidate in found} == {"vgg8"}


def test_too_small_a_budget_has_none_and_the_nearest_is_told() -> None:
    assert proposed(parameters=50) == []
    nearest = smallest(Budget(parameters=50), PLACE, suits=anything)
    assert nearest is not None
    assert 50 < nearest.parameters < 20_000
    assert smallest(Budget(parameters=50), PLACE, suits=lambda name, options: False) is None


@pytest.mark.parametrize("limits", [{"parameters": 400_000}, {"macs": 9_000_000}])
def test_figures_are_those_of_the_built_network_and_its_file(limits: dict[str, int], tmp_path: Path) -> None:
    for candidate in proposed(**limits):
        network = build_network(candidate.name, options=candidate.options, num_classes=10, in_channels=3)
        assert sum(p.numel() for p in network.parameters()) == candidate.parameters
        path = tmp_path / "student.safetensors"
        students.save(network.state_dict(), path, metadata=metadata_of(candidate))
        assert 0 <= candidate.file_bytes - path.stat().st_size < 1000


def metadata_of(candidate: Candidate) -> dict[str, Any]:
    """The longest that a trainer writes into a student's file."""
    return {
        "architecture": candidate.name,
        "options": candidate.options.model_dump(mode="json"),
        "num_classes": "10",
        "in_channels": "3",
        "image_size": [32, 32],
        "classes": PLACE.classes,
        "task": "classification",
        "mean": [math.pi / 10] * 3,
        "std": [math.e / 10] * 3,
        "head": "own",
        "method": "reviewkd + srrl + fitnet + dist + rkd",
        "epoch": "1000",
    }


@pytest.mark.parametrize("names", proposals._LARGE_IMAGES.values())
def test_files_of_networks_of_timm_are_no_larger_than_told(names: tuple[str, ...], tmp_path: Path) -> None:
    name = f"timm/{names[0]}"
    told = measure(name, NetworkOptions(), PLACE)
    network = build_network(name, options=NetworkOptions(), num_classes=10, in_channels=3)
    save_file(network.state_dict(), tmp_path / "a.safetensors", metadata={"": json.dumps(metadata_of(told))})
    size = (tmp_path / "a.safetensors").stat().st_size
    assert size <= told.file_bytes < 1.2 * size
    assert sum(p.numel() for p in network.parameters()) == told.parameters
