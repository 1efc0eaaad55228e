from __future__ import annotations

import json

import pytest

from distill import architectures
from distill.architectures import PLAIN, Layer, LayeredBlueprint, Options, PlainOptions
from distill.architectures.resnet import ResNetBlueprint
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
    "resnet10": (4_949_412, 512),
    "resnet18": (11_220_132, 512),
    "resnet34": (21_328_292, 512),
    "resnet50": (23_705_252, 2048),
    "vgg8": (3_965_028, 512),
    "vgg11": (9_277_284, 512),
    "vgg13": (9_462_180, 512),
    "vgg16": (14_774_436, 512),
    "vgg19": (20_086_692, 512),
    "mobilenetv2_half": (812_836, 1280),
    "mobilenetv2": (2_353_060, 1280),
    "shufflenetv1": (949_258, 960),
    "shufflenetv2": (1_355_528, 1024),
}
PUBLISHED_10 = {
    "resnet8": 78_042,
    "resnet14": 175_258,
    "resnet20": 272_474,
    "resnet26": 369_690,
    "wrn_16_2": 691_674,
    "resnet50": 23_520_842,
    "vgg8": 3_918_858,
    "vgg13": 9_416_010,
    "mobilenetv2_half": 697_546,
    "shufflenetv1": 862_768,
    "shufflenetv2": 1_263_278,
}
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
    "resnet50": 1298.0,
    "vgg8": 96.2,
    "vgg11": 209.4,
    "vgg13": 284.9,
    "vgg16": 398.2,
    "vgg19": 511.4,
    "mobilenetv2_half": 6.5,
    "shufflenetv1": 38.7,
    "shufflenetv2": 44.5,
}


def shapes_of(name: str, *, num_classes: int = 10, width: float = 1.0) -> dict[str, tuple[int, ...]]:
    options = PlainOptions(width=width)
    return architectures.state_shapes(name, options=options, num_classes=num_classes, in_channels=3)


def layers(name: str, *, options: Options = PLAIN, image_size: tuple[int, int]) -> list[Layer]:
    plan = architectures.blueprint(name, options=options)
    assert isinstance(plan, LayeredBlueprint)
    return list(plan.layers(num_classes=10, in_channels=3, image_size=image_size))


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


@pytest.mark.parametrize("name", ["resnet20", "wrn_16_2", "resnet18", "resnet50", "vgg13"])
def test_stride_of_the_stem_quarters_the_work_of_the_convolutions(name: str) -> None:
    def convolutions(stem_stride: int) -> int:
        parts = layers(name, options=NetworkOptions(stem_stride=2 if stem_stride == 2 else 1), image_size=(32, 32))
        return sum(layer.macs for layer in parts if layer.kind == "conv")

    assert convolutions(1) == 4 * convolutions(2)


def test_the_description_tells_the_size_of_every_map() -> None:
    sizes = {layer.name: layer.out_size for layer in layers("resnet8", image_size=(28, 30))}

    assert sizes["conv1"] == (28, 30)
    assert sizes["layer2.0.downsample.0"] == (14, 15)
    assert sizes["layer3.0.conv2"] == (7, 8)
    assert sizes["fc"] == (1, 1)


@pytest.mark.parametrize(
    ("size", "last"), [((32, 32), (4, 4)), ((28, 30), (3, 3)), ((64, 64), (4, 4)), ((1, 9), (1, 9))]
)
def test_a_vgg_halves_large_maps_once_more_and_leaves_a_single_row_alone(
    size: tuple[int, int], last: tuple[int, int]
) -> None:
    sizes = {layer.name: layer.out_size for layer in layers("vgg8", image_size=size)}

    assert sizes["block0.0"] == size
    assert sizes["block4.0"] == last


@pytest.mark.parametrize(("width", "widths"), [(0.5, (8, 8, 16, 32)), (1.3, (21, 21, 42, 83)), (0.001, (1, 1, 1, 1))])
def test_width_gives_whole_channels(width: float, widths: tuple[int, ...]) -> None:
    plan = architectures.blueprint("resnet8", options=NetworkOptions(width=width))

    assert isinstance(plan, ResNetBlueprint)
    assert (plan.stem, *plan.widths) == widths


@pytest.mark.parametrize(
    ("name", "width", "widths", "feature_width"),
    [
        ("resnet18", 0.25, (16, 32, 64, 128), 128),
        ("resnet50", 0.25, (64, 128, 256, 512), 512),
        ("vgg8", 0.5, (64, 128, 256, 256), 256),
        ("mobilenetv2", 0.5, (12, 16, 48, 160), 1280),  # mobilenetv2_half
        ("mobilenetv2", 1.5, (36, 48, 144, 480), 1920),
        ("mobilenetv2_half", 4, (48, 64, 192, 640), 2560),
        ("shufflenetv1", 0.5, (120, 240, 480), 480),
        ("shufflenetv1", 0.33, (84, 156, 312), 312),  # 79.2, 158.4, 316.8 to whole twelfths
        ("shufflenetv1", 0.001, (24, 36, 48), 48),
        ("shufflenetv2", 0.5, (58, 116, 232), 512),
        ("shufflenetv2", 0.3, (34, 70, 140), 307),  # 34.8, 69.6, 139.2 to even numbers
    ],
)
def test_width_keeps_what_a_family_needs(name: str, width: float, widths: tuple[int, ...], feature_width: int) -> None:
    plan = architectures.blueprint(name, options=NetworkOptions(width=width))

    assert plan.widths == widths
    assert plan.feature_width == feature_width


def test_a_mobilenet_of_half_width_is_the_benchmarks() -> None:
    assert shapes_of("mobilenetv2", width=0.5) == shapes_of("mobilenetv2_half")


@pytest.mark.parametrize("name", ["mobilenetv2", "mobilenetv2_half", "shufflenetv1", "shufflenetv2"])
@pytest.mark.parametrize(
    ("param", "pointer"),
    [
        ("/student/architecture", "/student/options/stem_stride"),
        ("/teacher/architecture", "/teacher/options/stem_stride"),
        ("/architecture", "/options/stem_stride"),
    ],
)
def test_an_option_that_a_network_does_not_take_is_refused(name: str, param: str, pointer: str) -> None:
    with pytest.raises(InputError, match="stem_stride") as caught:
        architectures.check(name, options=NetworkOptions(stem_stride=2), param=param)

    assert (caught.value.code, caught.value.param) == ("invalid_value", pointer)
    assert caught.value.hint
    architectures.check(name, options=NetworkOptions(width=0.5), param=param)


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
        ("ResNet18", "resnet18"),
        ("ResNet50", "resnet50"),
        ("vgg13_bn", "vgg13"),
        ("MobileNetV2", "mobilenetv2"),
        ("mobile_half", "mobilenetv2_half"),
        ("ShuffleV1", "shufflenetv1"),
        ("ShuffleV2", "shufflenetv2"),
    ],
)
def test_unknown_name_suggests_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(InputError) as caught:
        architectures.check(name)

    assert caught.value.code == "architecture_unknown"
    assert caught.value.did_you_mean[0] == nearest
    assert caught.value.param == "/student/architecture"
    assert caught.value.hint == "GET /networks lists them"


def test_the_benchmarks_mobilenet_is_told_beside_the_papers() -> None:
    with pytest.raises(InputError) as caught:
        architectures.check("MobileNetV2")

    assert caught.value.did_you_mean[:2] == ["mobilenetv2", "mobilenetv2_half"]


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
        "binary_macs": 0,
        "pools": True,
        "input": {"channels": 3, "height": 32, "width": 32, "fixed": False},
        "preprocessing": {"mean": None, "std": None, "interpolation": "bilinear"},
        "roles": ["teacher", "student"],
    }
    json.dumps(list(entries.values()))


def test_catalog_tells_the_last_stage_from_what_is_pooled() -> None:
    entries = {entry["name"]: entry for entry in architectures.catalog()}

    assert entries["mobilenetv2_half"]["stages"] == [12, 16, 48, 160]
    assert entries["mobilenetv2_half"]["feature_width"] == 1280
    assert entries["shufflenetv2"]["stages"] == [116, 232, 464]
    assert entries["shufflenetv2"]["feature_width"] == 1024
    assert {entry["family"] for entry in entries.values()} == {
        "resnet",
        "wrn",
        "resnet4stage",
        "vgg",
        "mobilenetv2",
        "shufflenetv1",
        "shufflenetv2",
        "binary",
    }


@pytest.mark.parametrize(
    ("q", "found"),
    [
        ("X4", ["resnet8x4", "resnet32x4", "binary_resnet8x4", "binary_resnet32x4"]),
        ("wrn_16_1", ["wrn_16_1", "wrn_16_10"]),
        ("wrn_22_3", ["wrn_22_3"]),
        ("VGG1", ["vgg11", "vgg13", "vgg16", "vgg19"]),
        ("shuffle", ["shufflenetv1", "shufflenetv2"]),
        ("alexnet", []),
    ],
)
def test_catalog_is_searched_by_name(q: str, found: list[str]) -> None:
    names = [entry["name"] for entry in architectures.catalog(q)]
    assert [name for name in names if not name.startswith("timm/")] == found
