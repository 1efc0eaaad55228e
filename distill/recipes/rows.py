"""The recipes, made from the tables: each figure joined to the settings that lead to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from distill.recipes import tables
from distill.recipes.bases import CIFAR, IMAGENET, SMALL_DATA, Base, milestones
from distill.recipes.recipe import Body, Data, Recipe
from distill.recipes.tables import Pair

METHOD_NAMES = {
    "ce": "Labels alone", "kd": "KD", "at": "AT", "ofd": "OFD", "rkd": "RKD", "crd": "CRD", "reviewkd": "ReviewKD",
    "dkd": "DKD", "dist": "DIST", "srrl": "SRRL",
}  # fmt: skip
_NOT_OFFERED = {"ofd"}

CIFAR_100_DATA = Data(name="CIFAR-100", short="cifar100", preset="cifar-100", num_classes=100, base=CIFAR)
CIFAR_10_DATA = Data(name="CIFAR-10", short="cifar10", preset="cifar-10", num_classes=10, base=CIFAR)
IMAGENET_DATA = Data(name="ImageNet", short="imagenet", preset="imagenet", num_classes=1000, base=IMAGENET)
FASHION_DATA = Data(
    name="Fashion-MNIST, 5,000 images", short="fashion-mnist-5k", preset=None, num_classes=10, base=SMALL_DATA
)

_PAPER = "[paper] Yang, Martinez, Bulat, Tzimiropoulos, ICLR 2021"
_CITED = "[cited] WTTM (ICLR 2024), Table 5, and the READMEs of DIST, DKD and KD++"
_NOTES = "[notes] third-party notes on the SRRL paper"
_MEASURED = "[measured] means of three seeds, docs/decisions/0005-defaults.md"
_SRD_CODE = "[code] github.com/jingyang2017/SRD_ossl, later work of the SRRL authors; the same as the CRD benchmark"
_SRRL_CODE = "[code] github.com/jingyang2017/KD_SRRL"
_MDISTILLER = "[code] github.com/megvii-research/mdistiller, configs/imagenet"
_OUR_RUN = "[measured] examples/fashion-mnist/compare.py"

_CIFAR_NOTE = "The paper's own settings on CIFAR were not published; these are those of the authors' later code."
_TUNED_NOTE = (
    "The authors searched alpha and beta pair by pair, in (1, 1), (1, 5), (10, 1); which they took is not known."
)
_RIVAL_NOTE = "How the paper trained the rival methods was not published; these are their benchmark's settings."
_DAY = 86_400


def rows() -> Iterator[Recipe]:
    """Every recipe, table by table."""
    for pair in tables.CIFAR_100:
        yield from _pair(pair, CIFAR_100_DATA)
        if pair is tables.ABLATION_PAIR:
            yield from _ablation(pair)
    for pair in tables.CIFAR_10:
        yield from _pair(pair, CIFAR_10_DATA)
    for pair in tables.IMAGENET:
        yield from _pair(pair, IMAGENET_DATA)
    yield from _binary()
    yield from _fashion()


def training_of(base: Base, *, student: str, epochs: int, batch_size: int, days: int) -> Body:
    """A published run on this kind of data in full length; a stepped schedule, new crops every epoch."""
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": base.peak_rate(student, batch_size=base.batch_size),
        "weight_decay": base.weight_decay,
        "momentum": 0.9,
        "nesterov": base.nesterov,
        "schedule": "step",
        "milestones": milestones(base.drops, epochs=epochs),
        "gamma": 0.1,
        "augmentation": base.augmentation,
        "views": "fresh",
        # Whoever asks for hundreds of epochs means them: the default of four hours would end the run.
        "max_runtime_seconds": days * _DAY,
    }


def _pair(pair: Pair, data: Data) -> Iterator[Recipe]:
    for method in pair.top1:
        if method not in _NOT_OFFERED:
            yield _recipe(pair, data, method=method)


def _recipe(pair: Pair, data: Data, *, method: str) -> Recipe:
    if data.base is CIFAR:
        training = training_of(CIFAR, student=pair.student, epochs=240, batch_size=64, days=7)
        settings: Body = {}
        source, settings_source = _PAPER, _SRD_CODE
        notes: tuple[str, ...] = (_CIFAR_NOTE, _TUNED_NOTE if method == "srrl" else _RIVAL_NOTE)
    else:
        training, settings_source = _imagenet_training(pair.student, method)
        settings = _IMAGENET_SETTINGS.get((method, pair.student)) or _IMAGENET_SETTINGS.get((method, "")) or {}
        source, notes = _CITED, _IMAGENET_NOTES.get(method, ())
    return _join(
        pair,
        data,
        method=method,
        settings=settings,
        training=training,
        source=source,
        settings_source=settings_source,
        notes=notes + pair.notes,
    )


# Where a benchmark's ImageNet settings differ from the method's defaults; "" is any student.
_IMAGENET_SETTINGS: dict[tuple[str, str], Body] = {
    ("kd", ""): {"temperature": 1.0, "weight": 0.5, "label_weight": 0.5},
    ("reviewkd", "timm/resnet18"): {"weight": 1.0, "warmup_epochs": 1},
    ("reviewkd", "timm/mobilenetv1_100"): {"weight": 8.0, "warmup_epochs": 1},
    ("dkd", "timm/resnet18"): {"temperature": 1.0, "nontarget_weight": 0.5, "warmup_epochs": 1},
    ("dkd", "timm/mobilenetv1_100"): {"temperature": 1.0, "nontarget_weight": 2.0, "warmup_epochs": 1},
    ("dist", ""): {"temperature": 1.0},
}
_IMAGENET_NOTES: dict[str, tuple[str, ...]] = {
    "ce": ("The student alone is torchvision's or the benchmark's; its own settings may have been others.",),
    "dist": ("DIST's own ImageNet settings were not read; the schedule is SRRL's.",),
}


def _imagenet_training(student: str, method: str) -> tuple[Body, str]:
    training = training_of(IMAGENET, student=student, epochs=100, batch_size=512, days=30)
    if method in ("crd", "reviewkd"):
        return {**training, "batch_size": 256, "learning_rate": 0.1}, _MDISTILLER
    return training, _MDISTILLER if method in ("kd", "dkd") else _SRRL_CODE


def _ablation(pair: Pair) -> Iterator[Recipe]:
    training = training_of(CIFAR, student=pair.student, epochs=240, batch_size=64, days=7)
    for variant in tables.ABLATION:
        yield _join(
            pair,
            CIFAR_100_DATA,
            method="srrl",
            settings=variant.settings,
            training=training,
            variant=(variant.name, variant.title, variant.top1),
            source=_PAPER,
            settings_source=_SRD_CODE,
            notes=(_CIFAR_NOTE, _TUNED_NOTE),
        )


def _binary() -> Iterator[Recipe]:
    yield _join(
        tables.BINARY,
        IMAGENET_DATA,
        method="srrl",
        training=training_of(IMAGENET, student=tables.BINARY.student, epochs=100, batch_size=512, days=30),
        source=_NOTES,
        settings_source=_SRRL_CODE,
        notes=(
            "How the paper trained its binary student was not published; these are its settings for real-valued ones.",
            "The accuracy of its teacher, of the student alone and of rival methods were not found.",
        ),
    )


def _fashion() -> Iterator[Recipe]:
    """Our own, on the data that are shipped."""
    pair = tables.FASHION
    options = ({"width": 1.5, "stem_stride": 2}, {"width": 0.5, "stem_stride": 2})
    training = {
        "epochs": 40,
        "batch_size": 64,
        "learning_rate": SMALL_DATA.learning_rate,
        "weight_decay": SMALL_DATA.weight_decay,
        "momentum": 0.9,
        "nesterov": True,
        "schedule": "one_cycle",
        "augmentation": "flip",
        "views": 2,
    }
    spread = (
        "Standard deviations over seeds 0, 1, 2: labels alone 0.11, SRRL 0.57, with the teacher's head 0.34 points."
    )
    data = "The data and the teacher are shipped in examples/fashion-mnist."
    for method, settings, variant in (
        ("ce", {}, None),
        ("srrl", {}, None),
        ("srrl", {"head": "teacher"}, ("teacher-head", "with the teacher's head", pair.top1["srrl/teacher-head"])),
    ):
        yield _join(
            pair,
            FASHION_DATA,
            method=method,
            settings=settings,
            training=training,
            variant=variant,
            options=options,
            source=_MEASURED,
            settings_source=_OUR_RUN,
            notes=(spread, data),
        )


def _join(
    pair: Pair,
    data: Data,
    *,
    method: str,
    training: Body,
    source: str,
    settings_source: str,
    notes: tuple[str, ...],
    settings: Mapping[str, Any] | None = None,
    variant: tuple[str, str, float] | None = None,
    options: tuple[Body, Body] = ({}, {}),
) -> Recipe:
    """One recipe; ``variant`` is a name for the id, one for people, and the figure."""
    teacher, student = _short(pair.teacher), _short(pair.student)
    name, words, top1 = variant or (None, None, pair.top1[method])
    own = (method,) if name is None else (f"{method}/{name}",)
    rivals = {other: _share(value) for other, value in pair.top1.items() if other not in ("ce", *own)}
    title = f"{METHOD_NAMES[method]}: {_pretty(pair.teacher)} → {_pretty(pair.student)} on {data.name}"
    return Recipe(
        id="/".join((method, data.short, f"{teacher}-{student}") + ((name,) if name else ())),
        title=f"{title}, {words}" if words else title,
        data=data,
        teacher=_network(pair.teacher, options[0]),
        student=_network(pair.student, options[1]),
        method={"type": method, method: dict(settings)} if settings else {"type": method},
        training=training,
        top1=_share(top1),
        teacher_top1=None if pair.teacher_top1 is None else _share(pair.teacher_top1),
        baseline_top1=_share(pair.top1["ce"]) if "ce" in pair.top1 and method != "ce" else None,
        rivals=rivals,
        source=source,
        settings_source=settings_source,
        notes=notes,
    )


def _share(percent: float) -> float:
    return round(percent / 100, 4)


def _network(name: str, options: Body) -> Body:
    return {"architecture": name, "options": options} if options else {"architecture": name}


def _short(name: str) -> str:
    """For ids: wrn40x4, mobilenetv1."""
    plain = name.removeprefix("timm/").removesuffix("_100")
    return re.sub(r"wrn_(\d+)_(\d+)", r"wrn\1x\2", plain)


def _pretty(name: str) -> str:
    """For people: WRN-40-4, MobileNetV1."""
    plain = name.removeprefix("timm/").removesuffix("_100")
    plain = re.sub(r"wrn_(\d+)_(\d+)", r"WRN-\1-\2", plain)
    plain = re.sub(r"mobilenetv(\d)", r"MobileNetV\1", plain)
    return re.sub(r"resnet(\d+)", r"ResNet-\1", plain).replace("binary_", "binary ")
