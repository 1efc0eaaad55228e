from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter

from distill.compatibility import Side, check_method
from distill.method_specs import METHODS, MethodSpec

RESNET = Side(name="resnet8", num_stages=3, pools=True)
WIDE = Side(name="resnet18", num_stages=4, pools=True)
PLAIN_VIT = Side(name="timm/some_vit", num_stages=0, pools=False)
UNKNOWN = Side(name="timm/huge", num_stages=None, pools=None)
SPECS: TypeAdapter[MethodSpec] = TypeAdapter(MethodSpec)
TYPES = [method.model_fields["type"].annotation.__args__[0] for method in METHODS]  # type: ignore[union-attr]


def found(method: dict[str, Any], student: Side = RESNET, teacher: Side = WIDE, **data: Any) -> list[str | None]:
    return [e.param for e in check_method(SPECS.validate_python(method), student=student, teacher=teacher, **data)]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("teacher", [RESNET, WIDE, UNKNOWN])
def test_every_method_fits_networks_with_stages_and_those_not_yet_known(kind: str, teacher: Side) -> None:
    assert found({"type": kind}, teacher=teacher) == []


@pytest.mark.parametrize("kind", TYPES)
def test_networks_without_stages_are_refused_by_the_methods_that_match_them(kind: str) -> None:
    needs_stages = kind in {"fitnet", "at", "vid", "nst", "reviewkd"}
    expected = ["/method/type"] if needs_stages or kind == "simkd" else []
    assert found({"type": kind}, student=PLAIN_VIT) == expected


def test_a_stage_that_a_network_lacks_is_named_with_those_that_both_have() -> None:
    method = {"type": "srrl", "srrl": {"stages": ["stage1", "stage4"], "regression_stages": ["stage5"]}}
    errors = check_method(SPECS.validate_python(method), student=RESNET, teacher=WIDE)

    assert [(e.param, e.message.split(":")[0]) for e in errors] == [
        ("/method/srrl/stages/1", "resnet8 has no stage4"),
        ("/method/srrl/regression_stages/0", "resnet8 has no stage5"),
        ("/method/srrl/regression_stages/0", "resnet18 has no stage5"),
    ]
    assert errors[0].did_you_mean == ["stage1", "stage2", "stage3", "last"]


def test_the_stage_of_fitnet_is_checked_and_so_are_extra_terms() -> None:
    assert found({"type": "fitnet", "fitnet": {"stage": "stage4"}}) == ["/method/fitnet/stage"]
    extra = [{"type": "kd"}, {"type": "at"}]
    assert found({"type": "srrl", "extra": extra}, student=PLAIN_VIT) == ["/method/extra/1/type"]


@pytest.mark.parametrize("kind", TYPES)
def test_points_have_no_probabilities(kind: str) -> None:
    expected = ["/method/type"] if kind in {"kd", "dkd", "dist"} else []
    assert found({"type": kind}, task="landmarks") == expected
    extra = {"type": "srrl", "srrl": {"regression_loss": "kl"}, "extra": [{"type": "dist"}]}
    assert sorted(map(str, found(extra, task="landmarks"))) == ["/method/extra/0/type", "/method/srrl/regression_loss"]


@pytest.mark.parametrize("kind", TYPES)
def test_only_labels_alone_need_labels(kind: str) -> None:
    assert found({"type": kind}, is_labelled=False) == (["/method/type"] if kind == "ce" else [])
