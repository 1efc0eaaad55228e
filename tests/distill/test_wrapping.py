from __future__ import annotations

from typing import Any

import pytest

from distill import architectures
from distill.architectures import unwrap

PLAIN = {"fc.weight": (4, 8), "fc.bias": (4,)}


@pytest.mark.parametrize(
    ("tree", "path", "ignored", "averaged"),
    [
        (PLAIN, (), (), ()),
        ({"state_dict": PLAIN}, ("state_dict",), (), ()),
        (
            {"epoch": None, "state_dict": PLAIN, "optimizer": {"state": {"exp_avg": (4, 8)}}, "arch": None},
            ("state_dict",),
            ("epoch", "optimizer", "arch"),
            (),
        ),
        (
            {"state_dict_ema": PLAIN, "state_dict": PLAIN},
            ("state_dict",),
            ("state_dict_ema",),
            ("state_dict_ema",),
        ),
        ({"model": PLAIN, "model_ema": None}, ("model",), ("model_ema",), ()),
        ({"ema": PLAIN, "epoch": None}, ("ema",), ("epoch",), ()),
        ({"model": {"state_dict": PLAIN, "step": None}}, ("model", "state_dict"), ("model.step",), ()),
        ({"my_network": PLAIN}, ("my_network",), (), ()),
        ({"state_dict": {f"net.{name}": shape for name, shape in PLAIN.items()}}, ("state_dict", "net"), (), ()),
        ({"n_averaged": (), **{f"module.{k}": v for k, v in PLAIN.items()}}, ("module",), ("n_averaged",), ()),
    ],
)
def test_weights_are_found_in_the_usual_dictionaries(
    tree: Any, path: tuple[str, ...], ignored: tuple[str, ...], averaged: tuple[str, ...]
) -> None:
    found = unwrap(tree)

    assert found.path == path
    assert found.shapes == PLAIN
    assert found.ignored == ignored
    assert found.averaged == averaged


def test_names_that_begin_with_dictionaries_are_taken_for_them() -> None:
    names = {
        **{f"ema.{name}": shape for name, shape in PLAIN.items()},
        **{f"model.{name}": shape for name, shape in PLAIN.items()},
        "optimizer.state.0.exp_avg": (4, 8),
    }

    found = unwrap(names)

    assert (found.path, found.prefix, found.shapes) == (("model",), "model.", PLAIN)
    assert found.report() == {
        "taken": "model",
        "ignored": ["ema", "optimizer"],
        "note": "Averaged (EMA) weights are there too and were not taken: ema.",
    }


def test_averaged_weights_alone_are_taken_and_told() -> None:
    told = unwrap({"model_ema": PLAIN, "epoch": None}).report()

    assert told["taken"] == "model_ema"
    assert "no others" in told["note"]


def test_a_part_of_a_network_with_a_usual_name_is_left_in_its_place() -> None:
    names = {"model.conv.weight": (8, 3, 3, 3), "fc.weight": (4, 8)}

    assert unwrap(names).shapes == names


def test_values_beside_the_weights_are_ignored_and_a_long_list_is_cut() -> None:
    told = unwrap({**PLAIN, **{f"extra{number}": None for number in range(30)}}).report()

    assert told["taken"] is None
    assert len(told["ignored"]) == 21
    assert told["ignored"][-1] == "and 10 more"


@pytest.mark.parametrize("name", architectures.names())
def test_no_network_of_the_zoo_is_taken_for_a_wrapping(name: str) -> None:
    shapes = architectures.state_shapes(name, options=architectures.PLAIN, num_classes=3, in_channels=3)

    found = unwrap(shapes)

    assert (found.path, found.shapes, found.ignored) == ((), shapes, ())


def test_nothing_is_found_in_nothing() -> None:
    assert unwrap({}).shapes == {}


def test_of_a_student_with_its_teachers_head_the_network_is_taken() -> None:
    parts = {"network.fc.weight": (4, 8), "connector.conv.weight": (16, 8, 1, 1), "classifier.weight": (4, 16)}
    found = architectures.unwrap_student(parts)
    assert (found.path, found.prefix, dict(found.shapes)) == (("network",), "network.", {"fc.weight": (4, 8)})
    assert found.ignored == ("connector", "classifier")
    for other in ({"state_dict": PLAIN}, {"network.fc.weight": (4, 8)}, PLAIN):
        assert architectures.unwrap_student(other) == unwrap(other)
    assert unwrap(parts).path == ()  # of a teacher that would be the wrong head
