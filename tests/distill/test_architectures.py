from __future__ import annotations

import json

import pytest

from distill import architectures
from distill.architectures import PLAIN, PlainOptions
from distill.errors import InputError
from distill.spec import NetworkOptions

# Parameters at 100 classes and width of the penultimate layer, as published for the CRD benchmark's code.
PUBLISHED = {
    "resnet8": (83_892, 64),
    "resnet14": (181_108, 64),
    "resnet20": (278_324, 64),
    "resnet32": (472_756, 64),
    "resnet44": (667_188, 64),
    "resnet56": (861_620, 64),
    "resnet110": (1_736_564, 64),
    "resnet8x4": (1_233_540, 256),
    "resnet32x4": (7_433_860, 256),
    "wrn_16_1": (180_916, 64),
    "wrn_16_2": (703_284, 128),
    "wrn_40_1": (569_780, 64),
    "wrn_40_2": (2_255_156, 128),
}
PUBLISHED_10 = {"resnet8": 78_042, "resnet14": 175_258, "resnet20": 272_474, "resnet26": 369_690, "wrn_16_2": 691_674}
PUBLISHED_MILLION_MACS = {
    "resnet8": 12.5,
    "resnet14": 26.7,
    "resnet20": 40.8,
    "resnet110": 253.2,
    "resnet8x4": 177.1,
    "resnet32x4": 1083.0,
    "wrn_16_1": 26.7,
    "wrn_16_2": 101.1,
    "wrn_40_1": 83.3,
    "wrn_40_2": 327.6,
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


@pytest.mark.parametrize("name", PUBLISHED)
def test_size_is_the_published_one(name: str) -> None:
    count, width = PUBLISHED[name]

    assert architectures.parameters(name, options=PLAIN, num_classes=100, in_channels=3) == count
    assert architectures.feature_width(name, options=PLAIN) == width


@pytest.mark.parametrize("name", PUBLISHED_10)
def test_size_at_ten_classes_is_the_published_one(name: str) -> None:
    count = architectures.parameters(name, options=PLAIN, num_classes=10, in_channels=3)

    assert count == PUBLISHED_10[name]


@pytest.mark.parametrize("name", PUBLISHED_MILLION_MACS)
def test_cost_is_the_published_one(name: str) -> None:
    count = architectures.macs(name, options=PLAIN, num_classes=100, in_channels=3, image_size=(32, 32))

    assert round(count / 1e6, 1) == PUBLISHED_MILLION_MACS[name]


def test_stride_of_the_stem_quarters_the_work_of_the_convolutions() -> None:
    def convolutions(stem_stride: int) -> int:
        parts = architectures.layers(
            "resnet20",
            options=NetworkOptions(stem_stride=2 if stem_stride == 2 else 1),
            num_classes=10,
            in_channels=3,
            image_size=(32, 32),
        )
        return sum(layer.macs for layer in parts if layer.kind == "conv")

    assert convolutions(1) == 4 * convolutions(2)


def test_the_description_tells_the_size_of_every_map() -> None:
    parts = architectures.layers("resnet8", options=PLAIN, num_classes=10, in_channels=1, image_size=(28, 30))
    sizes = {layer.name: layer.out_size for layer in parts}

    assert sizes["conv1"] == (28, 30)
    assert sizes["layer2.0.downsample.0"] == (14, 15)
    assert sizes["layer3.0.conv2"] == (7, 8)
    assert sizes["fc"] == (1, 1)


@pytest.mark.parametrize(("width", "widths"), [(0.5, (8, 8, 16, 32)), (1.3, (21, 21, 42, 83)), (0.001, (1, 1, 1, 1))])
def test_width_gives_whole_channels(width: float, widths: tuple[int, ...]) -> None:
    plan = architectures.blueprint("resnet8", options=NetworkOptions(width=width))

    assert (plan.stem, *plan.widths) == widths


@pytest.mark.parametrize("name", [*architectures.names(), "wrn_22_3", "wrn_994_16"])
def test_zoo_accepts(name: str) -> None:
    architectures.check(name)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet9", "resnet8"),
        ("resnet_20", "resnet20"),
        ("ResNet-8x4", "resnet8x4"),
        ("WRN-16-2", "wrn_16_2"),
        ("wrn_17_2", "wrn_16_2"),
        ("wrn_40_17", "wrn_40_1"),
    ],
)
def test_unknown_name_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(InputError) as caught:
        architectures.check(name)

    assert caught.value.code == "architecture_unknown"
    assert caught.value.did_you_mean[0] == nearest
    assert caught.value.param == "/student/architecture"
    assert caught.value.hint == "GET /networks lists them"


@pytest.mark.parametrize(
    "name", ["", "wrn_4_1", "wrn_16_0", "wrn_016_2", "wrn_1000_1", "wrn_١٦_2", "wrn_16_2\n", "x" * 10_000]
)
def test_names_outside_the_zoo_are_refused_shortly(name: str) -> None:
    with pytest.raises(InputError) as caught:
        architectures.check(name, param="/teacher/architecture")

    assert caught.value.param == "/teacher/architecture"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("name", ["resnet9", "wrn_17_2"])
def test_every_question_about_an_unknown_name_gets_the_same_error(name: str) -> None:
    with pytest.raises(InputError, match="no network called") as caught:
        architectures.parameters(name, options=PLAIN, num_classes=10, in_channels=3)

    assert caught.value.did_you_mean


def test_catalog_lists_the_zoo_with_its_sizes() -> None:
    entries = {entry["name"]: entry for entry in architectures.catalog()}

    assert list(entries) == architectures.names()
    assert set(PUBLISHED) < set(entries)
    assert {name: entries[name]["parameters"] for name in PUBLISHED} == {
        name: count for name, (count, _) in PUBLISHED.items()
    }
    assert entries["wrn_40_2"] == {
        "name": "wrn_40_2",
        "family": "wrn",
        "stages": [32, 64, 128],
        "feature_width": 128,
        "parameters": 2_255_156,
        "macs": entries["wrn_40_2"]["macs"],
        "roles": ["teacher", "student"],
    }
    json.dumps(list(entries.values()))


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("X4", ["resnet8x4", "resnet32x4"]),
        ("wrn_16_1", ["wrn_16_1", "wrn_16_10"]),
        ("wrn_22_3", ["wrn_22_3"]),
        ("vgg", []),
    ],
)
def test_catalog_is_searched_by_name(q: str, found: list[str]) -> None:
    assert [entry["name"] for entry in architectures.catalog(q)] == found


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
@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2"])
def test_weights_tell_classes_and_channels(name: str, prefix: str) -> None:
    options = NetworkOptions(width=0.5)
    shapes = architectures.state_shapes(name, options=options, num_classes=37, in_channels=1)

    facts = architectures.match_state(
        name, {prefix + key: shape for key, shape in shapes.items()}, options=options, param="/x"
    )

    assert (facts.num_classes, facts.in_channels) == (37, 1)
    assert facts.feature_width == {"resnet8x4": 128, "wrn_16_2": 64}[name]


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
    ],
)
def test_mismatch_says_whose_weights_they_are(asked: str, actual: str) -> None:
    error = mismatch(asked, shapes_of(actual))

    assert error.did_you_mean == [actual]
    assert actual in error.hint


def test_forgotten_width_is_told() -> None:
    error = mismatch("resnet20", shapes_of("resnet20", width=0.375))

    assert error.did_you_mean == []
    assert '"width": 0.375' in error.hint


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
