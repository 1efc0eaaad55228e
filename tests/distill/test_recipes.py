from __future__ import annotations

import math
import re
from typing import Any

import pytest

from distill import architectures, plan, recipes
from distill.spec import DistillSpec

# The tables once more, as they stand in the notes on the paper: not read from the code under test.
# student, teacher, student alone, KD, AT, OFD, RKD, CRD, SRRL, teacher; top-1 in per cent.
CIFAR_100 = """
| WRN-16-2 | WRN-40-4 | 72.70 | 74.52 | 74.33 | 75.57 | 74.23 | 75.27 | 75.96 | 79.50 |
| WRN-16-4 | WRN-40-4 | 76.97 | 78.35 | 78.06 | 79.29 | 78.38 | 78.83 | 79.58 | 79.50 |
| WRN-10-10 | WRN-16-10 | 76.27 | 78.20 | 76.44 | 78.72 | 77.84 | 78.35 | 79.17 | 79.77 |
| ResNet-10 (4.95M) | ResNet-34 (21.33M) | 75.01 | 77.35 | 76.87 | 77.35 | 77.46 | 77.37 | 77.90 | 77.26 |
| WRN-16-2 | ResNet-34 (21.33M) | 72.70 | 73.95 | 72.32 | 74.78 | 73.91 | 74.88 | 75.38 | 78.44 |
| MobileNetV2 | ResNet-34 (21.33M) | 68.42 | 69.36 | 68.60 | 69.45 | 68.75 | 71.36 | 71.58 | 78.44 |
| MobileNetV2 | WRN-40-4 | 68.42 | 69.15 | 68.95 | 70.08 | 68.19 | 71.46 | 71.82 | 79.50 |
"""
# student, teacher, student alone, KD, AT, OFD, RKD, SRRL, teacher.
CIFAR_10 = """
| WRN-16-1 (0.18M) | WRN-16-2 (0.69M) | 91.04 | 92.57 | 92.15 | 92.28 | 92.51 | 92.95 | 93.98 |
| WRN-16-2 (0.69M) | WRN-40-2 (2.2M) | 93.98 | 94.46 | 94.39 | 94.30 | 94.41 | 94.66 | 95.07 |
| ResNet-8 (0.08M) | ResNet-26 (0.37M) | 87.78 | 88.75 | 88.15 | 87.49 | 88.50 | 89.02 | 93.58 |
| ResNet-14 (0.17M) | ResNet-26 (0.37M) | 91.59 | 92.57 | 92.11 | 92.51 | 92.36 | 92.70 | 93.58 |
| WRN-16-1 (0.18M) | ResNet-26 (0.37M) | 91.04 | 92.42 | 91.32 | 92.47 | 92.08 | 92.94 | 93.58 |
"""
# teacher -> student, teacher, alone, KD, CRD, SRRL, ReviewKD, DKD, DIST.
IMAGENET = {
    "resnet34-resnet18": (73.31, 69.76, 70.66, 71.17, 71.73, 71.61, 71.70, 72.07),
    "resnet50-mobilenetv1": (76.16, 68.87, 70.50, 71.37, 72.49, 72.56, 72.05, 73.24),
}
# The ablation: teacher 79.50, student alone 76.97.
ABLATION = {
    "": 79.58,
    "/fm-conv4": 78.05,
    "/sr-conv4": 79.10,
    "/both-conv2": 77.03,
    "/both-conv3": 77.34,
    "/both-conv2-3-4": 79.43,
}
MEASURED = {"ce": 86.56, "srrl": 89.33, "srrl/teacher-head": 89.39}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in table.strip().splitlines()]


def short(name: str) -> str:
    """WRN-40-4 and ResNet-10 (4.95M) as ids have them: wrn40x4, resnet10."""
    plain = re.sub(r" \(.*", "", name).lower()
    return re.sub(r"wrn-(\d+)-(\d+)", r"wrn\1x\2", plain).replace("resnet-", "resnet")


def transcribed() -> dict[str, tuple[float, float | None, float | None]]:
    """Id -> top-1, the teacher's, the student's alone, in per cent."""
    found: dict[str, tuple[float, float | None, float | None]] = {}
    for data, table, methods in (
        ("cifar100", CIFAR_100, ("ce", "kd", "at", "ofd", "rkd", "crd", "srrl")),
        ("cifar10", CIFAR_10, ("ce", "kd", "at", "ofd", "rkd", "srrl")),
    ):
        for student, teacher, *figures in cells(table):
            *tops, master = map(float, figures)
            for method, top1 in zip(methods, tops, strict=True):
                id = f"{method}/{data}/{short(teacher)}-{short(student)}"
                found[id] = (top1, master, tops[0] if method != "ce" else None)
    for pair, (master, *tops) in IMAGENET.items():
        for method, top1 in zip(("ce", "kd", "crd", "srrl", "reviewkd", "dkd", "dist"), tops, strict=True):
            found[f"{method}/imagenet/{pair}"] = (top1, master, tops[0] if method != "ce" else None)
    for variant, top1 in ABLATION.items():
        found[f"srrl/cifar100/wrn40x4-wrn16x4{variant}"] = (top1, 79.50, 76.97)
    found["srrl/imagenet/resnet18-binary_resnet18"] = (59.57, None, None)
    for name, top1 in MEASURED.items():
        method, _, variant = name.partition("/")
        id = "/".join(filter(None, (method, "fashion-mnist-5k/resnet14-resnet8", variant)))
        found[id] = (top1, 93.44, 86.56 if method != "ce" else None)
    return {id: figures for id, figures in found.items() if not id.startswith("ofd/")}


def share(percent: float | None) -> float | None:
    return None if percent is None else pytest.approx(percent / 100, abs=1e-9)


def request(id: str, **more: Any) -> dict[str, Any]:
    return {"recipe": id, "teacher": {"id": "tch_1"}, "dataset": {"id": "ds_1"}, **more}


def test_every_row_of_the_tables_is_a_recipe_and_no_other() -> None:
    assert set(recipes.ids()) == set(transcribed())
    assert len(recipes.ids()) == 90


@pytest.mark.parametrize(("id", "figures"), transcribed().items())
def test_every_figure_is_the_published_one(id: str, figures: tuple[float, float | None, float | None]) -> None:
    recipe = recipes.find(id)
    top1, teacher_top1, alone = figures
    assert recipe.top1 == share(top1)
    assert recipe.teacher_top1 == share(teacher_top1)
    assert recipe.baseline_top1 == share(alone)


@pytest.mark.parametrize("id", [id for id in transcribed() if id.count("/") == 2 and "fashion" not in id])
def test_the_rivals_are_the_rest_of_the_row(id: str) -> None:
    method, data, pair = id.split("/")
    row = {
        other.split("/")[0]: top1 for other, (top1, _, _) in transcribed().items() if other.endswith(f"{data}/{pair}")
    }
    quoted = {"ofd"} if data.startswith("cifar") else set()
    rivals = recipes.find(id).rivals
    assert rivals.keys() == row.keys() - {"ce", method} | quoted
    assert {name: rivals[name] for name in rivals if name != "ofd"} == {
        name: share(row[name]) for name in rivals if name != "ofd"
    }


@pytest.mark.parametrize("row", cells(CIFAR_100) + cells(CIFAR_10))
def test_what_is_only_quoted_stands_among_the_rivals(row: list[str]) -> None:
    data = "cifar100" if len(row) == 10 else "cifar10"
    rivals = recipes.find(f"srrl/{data}/{short(row[1])}-{short(row[0])}").rivals
    assert rivals["ofd"] == share(float(row[5]))


def test_the_ablation_is_held_against_the_paper_s_choice() -> None:
    for variant in ABLATION:
        rivals = recipes.find(f"srrl/cifar100/wrn40x4-wrn16x4{variant}").rivals
        assert rivals.get("srrl") == (share(79.58) if variant else None)


@pytest.mark.parametrize("id", recipes.ids())
def test_a_recipe_says_where_its_figures_and_settings_are_from(id: str) -> None:
    recipe = recipes.find(id)
    mark = {"imagenet": "[cited]", "fashion-mnist-5k": "[measured]"}.get(recipe.data.short, "[paper]")
    assert recipe.source.startswith("[notes]" if "binary" in id else mark)
    assert re.match(r"\[(code|measured)\] ", recipe.settings_source)
    assert bool(recipe.notes) or recipe.data.short == "imagenet"
    if recipe.data.short.startswith("cifar"):
        assert "The paper's own settings on CIFAR were not published" in recipe.notes[0]


@pytest.mark.parametrize("id", [id for id in recipes.ids() if "/cifar" in id])
def test_cifar_trains_as_the_authors_later_code_does(id: str) -> None:
    recipe = recipes.find(id)
    assert recipe.training == {
        "epochs": 240,
        "batch_size": 64,
        "learning_rate": 0.01 if "mobilenet" in id else 0.05,
        "weight_decay": 5e-4,
        "momentum": 0.9,
        "nesterov": False,
        "schedule": "step",
        "milestones": [150, 180, 210],
        "gamma": 0.1,
        "augmentation": "crop_flip",
        "views": "fresh",
        "max_runtime_seconds": 7 * 24 * 3600,
    }
    assert (recipe.data.preset, recipe.data.num_classes) in (("cifar-10", 10), ("cifar-100", 100))


@pytest.mark.parametrize("id", [id for id in recipes.ids() if "/imagenet/" in id])
def test_imagenet_trains_as_the_authors_code_does(id: str) -> None:
    recipe = recipes.find(id)
    batch, rate = (256, 0.1) if id.startswith(("crd", "reviewkd")) else (512, 0.2)
    assert recipe.training == {
        "epochs": 100,
        "batch_size": batch,
        "learning_rate": rate,
        "weight_decay": 1e-4,
        "momentum": 0.9,
        "nesterov": False,
        "schedule": "step",
        "milestones": [30, 60, 90],
        "gamma": 0.1,
        "augmentation": "resized_crop_flip",
        "views": "fresh",
        "max_runtime_seconds": 30 * 24 * 3600,
    }
    assert (recipe.data.preset, recipe.data.num_classes) == ("imagenet", 1000)


@pytest.mark.parametrize(
    ("id", "method"),
    [
        ("srrl/cifar100/wrn40x4-wrn16x4", {"type": "srrl"}),
        ("srrl/cifar100/wrn40x4-wrn16x4/fm-conv4", {"type": "srrl", "srrl": {"regression_weight": 0.0}}),
        ("srrl/cifar100/wrn40x4-wrn16x4/sr-conv4", {"type": "srrl", "srrl": {"feature_weight": 0.0}}),
        (
            "srrl/cifar100/wrn40x4-wrn16x4/both-conv2",
            {"type": "srrl", "srrl": {"feature_stages": ["stage1"], "regression_stages": ["stage1"]}},
        ),
        (
            "srrl/cifar100/wrn40x4-wrn16x4/both-conv3",
            {"type": "srrl", "srrl": {"feature_stages": ["stage2"], "regression_stages": ["stage2"]}},
        ),
        (
            "srrl/cifar100/wrn40x4-wrn16x4/both-conv2-3-4",
            {
                "type": "srrl",
                "srrl": {
                    "feature_stages": ["stage1", "stage2", "last"],
                    "regression_stages": ["stage1", "stage2", "last"],
                },
            },
        ),
        ("kd/cifar100/wrn40x4-wrn16x4", {"type": "kd"}),
        (
            "kd/imagenet/resnet34-resnet18",
            {"type": "kd", "kd": {"temperature": 1.0, "weight": 0.5, "label_weight": 0.5}},
        ),
        ("dist/imagenet/resnet34-resnet18", {"type": "dist", "dist": {"temperature": 1.0}}),
        (
            "reviewkd/imagenet/resnet50-mobilenetv1",
            {"type": "reviewkd", "reviewkd": {"weight": 8.0, "warmup_epochs": 1}},
        ),
        (
            "dkd/imagenet/resnet50-mobilenetv1",
            {"type": "dkd", "dkd": {"temperature": 1.0, "nontarget_weight": 2.0, "warmup_epochs": 1}},
        ),
        ("ce/cifar10/resnet26-resnet8", {"type": "ce"}),
    ],
)
def test_methods_differ_from_their_defaults_where_the_sources_do(id: str, method: dict[str, Any]) -> None:
    assert recipes.find(id).method == method


def test_the_networks_are_named_as_the_zoo_names_them() -> None:
    for id in recipes.ids():
        for network in (recipes.find(id).teacher, recipes.find(id).student):
            architectures.check(network["architecture"])


@pytest.mark.parametrize("id", recipes.ids())
def test_an_id_with_teacher_and_data_is_a_complete_request(id: str) -> None:
    recipe = recipes.find(id)
    spec = DistillSpec.model_validate(request(id))
    assert spec.student.model_dump(include=set(recipe.student)) == recipe.student
    assert spec.method.model_dump(exclude_unset=True) == recipe.method
    assert spec.training.model_dump(mode="json", include=set(recipe.training)) == recipe.training
    # As it is stored and read again, and resolved for the very data of the row: nothing moves.
    assert DistillSpec.model_validate(spec.model_dump(mode="json")) == spec
    base = recipe.data.base
    resolved = plan.resolve(spec, num_images=base.num_images, image_size=(base.side, base.side))
    assert resolved.training.model_dump(mode="json", include=set(recipe.training)) == recipe.training
    assert resolved.student == spec.student


def test_the_measured_recipe_is_what_auto_gives_on_the_shipped_data() -> None:
    named = DistillSpec.model_validate(request("srrl/fashion-mnist-5k/resnet14-resnet8"))
    left = DistillSpec.model_validate({"teacher": {"id": "t"}, "dataset": {"id": "d"}, "student": named.student})
    found = [plan.resolve(each, num_images=5_000, image_size=(28, 28)) for each in (named, left)]
    assert found[0].training == found[1].training
    assert found[0].method == found[1].method


@pytest.mark.parametrize(
    ("q", "method", "count"),
    [
        ("", "", 90),
        ("", "srrl", 7 + 5 + 5 + 2 + 1 + 2),
        ("cifar100 mobilenetv2", "", 12),
        ("WRN-40-4 WRN-16-4", "srrl", 6),
        ("conv3", "", 2),
        ("", "none", 0),
        ("nowhere", "", 0),
    ],
)
def test_recipes_are_found_by_words_and_method(q: str, method: str, count: int) -> None:
    found = recipes.catalog(q, method=method)
    assert len(found) == count
    assert all(entry["method"]["type"] == method for entry in found if method)


@pytest.mark.parametrize(
    ("num_images", "image_size", "name"),
    [
        (5_000, (28, 28), "small-data"),
        (1, (8, 8), "small-data"),
        (2_000, (224, 224), "small-data"),
        (15_811, None, "small-data"),  # the root of 5,000 * 50,000 is 15,811.4
        (15_812, None, "cifar"),
        (100_000, (64, 64), "cifar"),
        (20_000, (224, 224), "cifar"),
        (200_000, (224, 224), "imagenet"),
        (1_281_167, (32, 32), "imagenet"),
        (1_000_000, None, "imagenet"),
        (7_000, None, "small-data"),
    ],
)
def test_the_nearest_base_by_count_and_side(num_images: int, image_size: tuple[int, int] | None, name: str) -> None:
    assert recipes.nearest(num_images=num_images, image_size=image_size).name == name
    places = {"small-data": (5_000, 28), "cifar": (50_000, 32), "imagenet": (1_281_167, 224)}
    side = math.sqrt(math.prod(image_size)) if image_size else None
    squares = {
        kind: math.log(num_images / count) ** 2 + (math.log(side / length) ** 2 if side else 0)
        for kind, (count, length) in places.items()
    }
    assert min(squares, key=lambda kind: squares[kind]) == name


def test_milestones_round_half_up_and_stay_inside() -> None:
    drops = (0.3, 0.6, 0.9)
    assert recipes.milestones(drops, epochs=100) == [30, 60, 90]
    assert recipes.milestones((0.625, 0.75, 0.875), epochs=20) == [13, 15, 18]
    assert recipes.milestones(drops, epochs=2) == [1]
    assert recipes.milestones(drops, epochs=1) == []
