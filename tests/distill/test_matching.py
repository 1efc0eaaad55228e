from __future__ import annotations

import json

import pytest

from distill import architectures
from distill.architectures import PLAIN, PlainOptions
from distill.errors import InputError
from distill.spec import NetworkOptions

# Name -> width of the penultimate layer at half width.
ONE_OF_EACH_FAMILY = {
    "resnet8x4": 128,
    "wrn_16_2": 64,
    "resnet10": 256,
    "resnet50": 1024,
    "vgg8": 256,
    "mobilenetv2_half": 1280,
    "shufflenetv1": 480,
    "shufflenetv2": 512,
}


def shapes_of(name: str, *, num_classes: int = 10, width: float = 1.0) -> dict[str, tuple[int, ...]]:
    options = PlainOptions(width=width)
    return architectures.state_shapes(name, options=options, num_classes=num_classes, in_channels=3)


def mismatch(name: str, shapes: dict[str, tuple[int, ...]], *, width: float = 1.0) -> InputError:
    with pytest.raises(InputError) as caught:
        architectures.match_state(name, shapes, options=NetworkOptions(width=width), param="/teacher/architecture")
    assert caught.value.code == "state_dict_mismatch"
    assert caught.value.param == "/teacher/architecture"
    json.dumps(caught.value.as_json())
    return caught.value


def test_names_lose_the_prefixes_of_wrappers_only_at_the_front() -> None:
    assert architectures.clean_names(
        ["fc.bias", "module.fc.bias", "_orig_mod.module.fc.bias", "head.module.fc.bias"]
    ) == {
        "fc.bias": "fc.bias",
        "module.fc.bias": "fc.bias",
        "_orig_mod.module.fc.bias": "fc.bias",
        "head.module.fc.bias": "head.module.fc.bias",
    }


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_weights_tell_classes_and_channels(name: str, prefix: str) -> None:
    options = NetworkOptions(width=0.5)
    shapes = architectures.state_shapes(name, options=options, num_classes=37, in_channels=1)

    facts = architectures.match_state(
        name, {prefix + key: shape for key, shape in shapes.items()}, options=options, param="/x"
    )

    assert (facts.num_classes, facts.in_channels) == (37, 1)
    assert facts.feature_width == ONE_OF_EACH_FAMILY[name]


def test_old_files_without_batch_counts_fit() -> None:
    shapes = {k: s for k, s in shapes_of("resnet8").items() if not k.endswith("num_batches_tracked")}

    facts = architectures.match_state("resnet8", shapes, options=PLAIN, param="/x")

    assert facts.num_classes == 10


def test_mismatch_names_what_is_missing_unexpected_and_misshapen() -> None:
    shapes = shapes_of("resnet8")
    del shapes["layer1.0.conv2.weight"]
    shapes["module.head.weight"] = (3, 3)
    shapes["layer2.0.conv1.weight"] = (32, 16, 5, 5)

    error = mismatch("resnet8", shapes)

    assert error.details == {
        "missing": ["layer1.0.conv2.weight"],
        "unexpected": ["head.weight"],
        "misshapen": [{"name": "layer2.0.conv1.weight", "expected": [32, 16, 3, 3], "found": [32, 16, 5, 5]}],
    }
    assert "missing 1, unexpected 1, of another shape 1" in error.message
    assert error.did_you_mean == []
    assert "CRD benchmark" in error.hint


def test_mismatch_reports_ten_of_each_and_counts_all() -> None:
    error = mismatch("wrn_16_2", shapes_of("resnet110"))

    assert {key: len(found) for key, found in error.details.items()} == {
        "missing": 10,
        "unexpected": 10,
        "misshapen": 5,  # the four of bn1 and fc.weight
    }
    num_unexpected = len(set(shapes_of("resnet110")) - set(shapes_of("wrn_16_2")))
    assert f"unexpected {num_unexpected}," in error.message


@pytest.mark.parametrize(
    ("asked", "actual"),
    [
        ("resnet8", "resnet20"),
        ("resnet20", "wrn_16_2"),
        ("wrn_16_2", "wrn_40_2"),
        ("resnet8x4", "resnet8"),
        ("wrn_16_2", "wrn_22_3"),
        ("resnet20", "resnet18"),
        ("resnet18", "resnet34"),
        ("resnet34", "resnet50"),
        ("vgg8", "vgg13"),
        ("resnet8", "vgg8"),
        ("mobilenetv2", "mobilenetv2_half"),
        ("shufflenetv1", "shufflenetv2"),
        ("shufflenetv2", "shufflenetv1"),
        ("shufflenetv2", "mobilenetv2"),
    ],
)
def test_mismatch_says_whose_weights_they_are(asked: str, actual: str) -> None:
    error = mismatch(asked, shapes_of(actual))

    assert error.did_you_mean == [actual]
    assert actual in error.hint


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet50", "vgg8", "mobilenetv2", "mobilenetv2_half", "shufflenetv1", "shufflenetv2"]
)
def test_forgotten_width_is_told(name: str) -> None:
    error = mismatch(name, shapes_of(name, width=0.375))

    assert error.did_you_mean == []
    assert '"width": 0.375' in error.hint


def test_weights_of_a_network_with_an_option_that_it_does_not_take_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        architectures.match_state(
            "shufflenetv2", shapes_of("shufflenetv2"), options=PlainOptions(stem_stride=2), param="/architecture"
        )

    assert (caught.value.code, caught.value.param) == ("invalid_value", "/options/stem_stride")


def test_superfluous_width_is_told() -> None:
    error = mismatch("resnet20", shapes_of("resnet20"), width=2)

    assert error.did_you_mean == ["resnet20"]
    assert "width 2" in error.message


@pytest.mark.parametrize("found", [None, (), (10,), (0, 64), (10, 64, 1), (10, 63)])
def test_classifier_missing_or_ill_shaped_is_a_mismatch(found: tuple[int, ...] | None) -> None:
    shapes = shapes_of("resnet8")
    del shapes["fc.weight"]
    if found is not None:
        shapes["fc.weight"] = found

    error = mismatch("resnet8", shapes)

    if found is None:
        assert error.details["missing"] == ["fc.weight"]
    else:
        assert [item["name"] for item in error.details["misshapen"]] == ["fc.weight"]


@pytest.mark.parametrize("found", [(), (16, 0, 3, 3), (16, 3, 3), (16, 3, 7, 7)])
def test_first_convolution_ill_shaped_is_a_mismatch(found: tuple[int, ...]) -> None:
    error = mismatch("wrn_16_1", shapes_of("wrn_16_1") | {"conv1.weight": found})

    assert [item["name"] for item in error.details["misshapen"]] == ["conv1.weight"]


def test_bias_of_other_classes_than_the_weight_is_a_mismatch() -> None:
    error = mismatch("resnet8", shapes_of("resnet8") | {"fc.bias": (11,)})

    assert error.details["misshapen"] == [{"name": "fc.bias", "expected": [10], "found": [11]}]


def test_two_tensors_of_one_clean_name_are_a_mismatch() -> None:
    error = mismatch("resnet8", shapes_of("resnet8") | {"module.fc.bias": (10,)})

    assert error.details["unexpected"] == ["module.fc.bias"]


def test_no_weights_at_all_are_a_mismatch() -> None:
    error = mismatch("resnet8", {})

    assert len(error.details["missing"]) == 10
    assert error.did_you_mean == []


def test_weights_for_an_unknown_network_are_refused_by_name() -> None:
    with pytest.raises(InputError) as caught:
        architectures.match_state("resnet9", {}, options=PLAIN, param="/teacher/architecture")

    assert caught.value.code == "architecture_unknown"
    assert caught.value.param == "/teacher/architecture"


def packed(name: str, *, width: float = 1.0) -> dict[str, tuple[int, ...]]:
    """As the file of a student has it: of binary weights the signs, eight to a byte."""
    shapes = shapes_of(name, width=width)
    binary = [n for n, shape in shapes.items() if n.endswith("conv.weight") and ".unit" in n and len(shape) == 4]
    assert len(binary) == 6
    for weight in binary:
        count = 1
        for size in shapes.pop(weight):
            count *= size
        shapes[f"{weight}_bits"] = ((count + 7) // 8,)
    return shapes


def test_weights_as_bits_are_those_of_their_network_and_of_no_other() -> None:
    options = NetworkOptions()
    found = architectures.match_state("binary_resnet8", packed("binary_resnet8"), options=options, param="/x")
    assert (found.num_classes, found.in_channels) == (10, 3)
    assert mismatch("binary_resnet20", packed("binary_resnet8")).did_you_mean == ["binary_resnet8"]
    assert '"width": 0.5' in mismatch("binary_resnet8", packed("binary_resnet8", width=0.5)).hint


def test_bits_are_no_weights_of_a_real_network_and_count_exactly() -> None:
    shapes = shapes_of("resnet8")
    del shapes["layer1.0.conv1.weight"]
    shapes["layer1.0.conv1.weight_bits"] = (16 * 16 * 9 // 8,)
    assert mismatch("resnet8", shapes).details["unexpected"] == ["layer1.0.conv1.weight_bits"]
    bits = "layer1.0.unit1.conv.weight_bits"
    short = packed("binary_resnet8") | {bits: (16 * 16 * 9 // 8 - 1,)}
    assert mismatch("binary_resnet8", short).details["unexpected"] == [bits]
    both = packed("binary_resnet8") | {"layer1.0.unit1.conv.weight": (16, 16, 3, 3)}
    assert mismatch("binary_resnet8", both).details["unexpected"] == [bits]
