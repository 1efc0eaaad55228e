"""Images per second of this training loop against a plain one, on the same pair of networks, in one run.

    python benchmarks/train_speed.py [--teacher resnet14 --teacher-width 1.5] [--student resnet8] [--device cuda]

The plain loop does what public distillation scripts do: one image after the other through Pillow (crop,
flip, tensor, normalise) in a DataLoader, float32, the teacher asked at every step, ``.item()`` of every
loss at every step. Ours is what the service runs, with fresh views and with kept teacher features. Each
round times them one after the other, since a machine is not equally fast all the time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.plain_loop import DECAY, RATE, SEED, PlainLoop, Task
from distill import events
from distill.batch import POOLED
from distill.data.augment import Augmentation
from distill.data.images import Images
from distill.data.packed import statistics as channel_statistics
from distill.data.readers import read
from distill.losses import label_cross_entropy
from distill.method_specs import SRRLMethod
from distill.pairs import Pair, sizes_of
from distill.preparation import choose_device, choose_precision
from distill.registry import build_objective
from distill.runs import Material, Run, draw_views
from distill.spec import NetworkOptions, TrainingSpec
from distill.taps import Tap, linear_head
from distill.teachers import Teacher, feature_bank
from distill.viewing import ImagePreparation

SHIPPED = Path(__file__).resolve().parent.parent / "examples" / "fashion-mnist" / "fashion-mnist-5k.npz"


# ---------------------------------------------------------------- ours


def material(task: Task) -> Material:
    """What a job of the service would train on: crop_flip, views drawn afresh, precision chosen by itself."""
    device = task.device
    precision = choose_precision("auto", device)
    training = TrainingSpec(
        epochs=1000,
        batch_size=task.batch_size,
        learning_rate=RATE,
        weight_decay=DECAY,
        schedule="constant",
        seed=SEED,
    )
    prepare = ImagePreparation(
        mean_C=torch.tensor(task.mean, device=device), std_C=torch.tensor(task.std, device=device)
    )
    network = task.frozen_teacher()
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.from_numpy(task.images_NCHW)
    return Material(
        training=training,
        device=device,
        precision=precision,
        images_NCHW=images.to(device),
        targets_N=torch.from_numpy(task.labels_N).to(device),
        test_images_NCHW=images[:0],
        augmentation=Augmentation("crop_flip", image_size=(images.shape[2], images.shape[3])),
        views_NV=None,
        bank=None,
        teacher=Teacher(Tap(network), linear_head(network), prepare, precision),
        prepare=prepare,
    )


def with_bank(fresh: Material, *, num_views: int) -> tuple[Material, float]:
    """The same with the teacher's features of a few views of each image kept; and the seconds that took."""
    teacher, images = fresh.teacher, fresh.images_NCHW
    assert teacher is not None
    views = draw_views(fresh.augmentation, num_images=len(images), num_views=num_views, seed=SEED).to(fresh.device)

    def view(indices: Tensor, slot: int) -> Tensor:
        return fresh.augmentation.apply(images[indices], views[indices, slot])

    _wait(fresh.device)
    start = time.perf_counter()
    bank = events.result(
        feature_bank(teacher, num_images=len(images), num_views=views.shape[1], view=view, device=fresh.device)
    )
    _wait(fresh.device)
    return replace(fresh, views_NV=views, bank=bank), time.perf_counter() - start


def our_run(task: Task, of: Material) -> Run:
    """The loop that the service runs."""
    assert of.teacher is not None
    network = task.network(task.student)
    shape = of.images_NCHW.shape[1:]
    pair = Pair(
        student=sizes_of(network, torch.zeros(2, *shape)),
        teacher=sizes_of(task.frozen_teacher(), torch.zeros(2, *shape)),
        classifier=linear_head(of.teacher.tap.network),
        resume=of.teacher.resume,
        nonnegative=frozenset({POOLED}),
        labels_N=of.targets_N,
        epochs=1,
    )
    spec = SRRLMethod(type="srrl")
    objective = build_objective(spec, pair=pair, label_loss=label_cross_entropy, label_part="ce")
    return Run("student", network=network, objective=objective, material=of, first_step=0, total_steps=1)


def train(run: Run) -> Iterator[int]:
    """Train for ever; at every event, the number of images since the one before."""
    before = run.step
    while True:
        for _ in run.train_epoch():
            yield (run.step - before) * run.material.batch_size
            before = run.step


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True, kw_only=True)
class Side:
    """One loop under measurement.

    Attributes:
        counts: images trained on since the last item.
        warm_up: images before the clock starts in every round, to use up what workers have prepared.
        ours: whether it runs as the service does, deterministically where that costs something.
    """

    name: str
    counts: Iterator[int]
    warm_up: int
    ours: bool


def images_per_second(side: Side, *, seconds: float, device: torch.device) -> float:
    """Of about so many seconds, in whole steps."""
    torch.backends.cudnn.deterministic = side.ours
    torch.backends.cudnn.benchmark = not side.ours
    warmed = 0
    while warmed < side.warm_up:
        warmed += next(side.counts)
    _wait(device)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        images += next(side.counts)
    _wait(device)
    return images / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def measure(sides: list[Side], *, rounds: int, seconds: float, device: torch.device) -> dict[str, list[float]]:
    """Images per second of each side in each round, interleaved; a short round before them does not count."""
    for side in sides:
        images_per_second(side, seconds=min(2.0, seconds), device=device)
    found: dict[str, list[float]] = {side.name: [] for side in sides}
    for _, side in itertools.product(range(rounds), sides):
        found[side.name].append(images_per_second(side, seconds=seconds, device=device))
    return found


# ---------------------------------------------------------------- what is printed


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "cores": _cores(),
        "load": [round(x, 2) for x in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "precision": str(choose_precision("auto", device)).removeprefix("torch."),
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def print_table(console: Console, found: dict[str, list[float]]) -> None:
    """One row a loop; the ratio is to the fastest plain loop of the same round, and the median of all rounds."""
    table = Table(title="Images per second, training")
    table.add_column("loop", no_wrap=True)
    for column in ("median", "min", "max", "ratio", "in each round"):
        table.add_column(column, justify="right")
    for name, speeds in found.items():
        ratios = ratios_of(found, name)
        figures = [f"{x:,.0f}" for x in (statistics.median(speeds), min(speeds), max(speeds))]
        each = " ".join(f"{r:.2f}" for r in ratios)
        table.add_row(name, *figures, f"x {statistics.median(ratios):.2f}", each)
    console.print(table)


def ratios_of(found: dict[str, list[float]], name: str) -> list[float]:
    """Of a loop, round by round, to the fastest plain loop."""
    plain = [speeds for key, speeds in found.items() if key.startswith("plain")]
    return [mine / max(theirs) for mine, *theirs in zip(found[name], *plain, strict=True)]


def main() -> None:
    """See the module."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # As the worker starts its trainers; OpenMP reads it once, before this line.
        os.execve(sys.executable, sys.orig_argv, os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    chosen = _arguments()
    torch.set_num_threads(chosen.threads)
    task = _task(chosen)
    console = Console()
    facts = machine(task.device)
    console.print(*(f"{key}: {value}" for key, value in facts.items()), sep="\n", highlight=False, soft_wrap=True)
    console.print(
        f"teacher: {_title(task.teacher)}; student: {_title(task.student)}; batch {task.batch_size}; "
        f"{len(task.images_NCHW):,} images {list(task.images_NCHW.shape[1:])}, {task.source}",
        highlight=False,
        soft_wrap=True,
    )
    fresh = material(task)
    banked, bank_seconds = with_bank(fresh, num_views=chosen.views)
    sides = _sides(task, fresh, banked, workers=chosen.workers)
    found = measure(sides, rounds=chosen.rounds, seconds=chosen.seconds, device=task.device)
    print_table(console, found)
    num_images = len(task.images_NCHW) * chosen.epochs
    kept = statistics.median(found["ours, kept features"])
    whole = num_images / (num_images / kept + bank_seconds)
    ratio = whole / max(statistics.median(s) for name, s in found.items() if name.startswith("plain"))
    console.print(
        f"Keeping the features of {chosen.views} views took {bank_seconds:.1f} s; with that, a run of {chosen.epochs} "
        f"epochs goes at {whole:,.0f} images/s, ratio x {ratio:.2f}.",
        highlight=False,
        soft_wrap=True,
    )
    if chosen.json:
        rows = {name: {"images_per_second": s, "ratio": ratios_of(found, name)} for name, s in found.items()}
        result = {"machine": facts, "arguments": vars(chosen), "loops": rows, "bank_seconds": bank_seconds}
        chosen.json.write_text(json.dumps(result | {"ratio_with_bank": ratio}, indent=1, default=str) + "\n")


def _sides(task: Task, fresh: Material, banked: Material, *, workers: list[int]) -> list[Side]:
    # Each worker holds two batches ready, made while nobody was counting: those go first.
    plain = [
        Side(
            name=f"plain, {n} workers",
            counts=PlainLoop(task, num_workers=n).train(),
            warm_up=(2 * n + 1) * task.batch_size,
            ours=False,
        )
        for n in workers
    ]
    kinds = {"ours, fresh views": fresh, "ours, kept features": banked}
    ours = [Side(name=k, counts=train(our_run(task, m)), warm_up=1, ours=True) for k, m in kinds.items()]
    return plain + ours


def _title(which: tuple[str, NetworkOptions]) -> str:
    return f"{which[0]} (width {which[1].width:g}, stem stride {which[1].stem_stride})"


def _task(chosen: argparse.Namespace) -> Task:
    if chosen.data is not None and chosen.data.exists():
        raw = read(chosen.data)
        images, labels, classes = np.asarray(raw.train_images), raw.train_labels, len(raw.classes)
        source = chosen.data.name
    else:
        random = np.random.default_rng(SEED)
        images = random.integers(0, 256, (chosen.images, 3, 32, 32), dtype=np.uint8)
        labels, classes, source = random.integers(0, 10, chosen.images), 10, "random"
    images, labels = images[: chosen.images], labels[: chosen.images]
    mean, std = channel_statistics(Images.of(images))
    return Task(
        images_NCHW=images,
        labels_N=labels,
        mean=mean,
        std=std,
        num_classes=classes,
        source=source,
        batch_size=min(chosen.batch_size, len(images)),
        teacher=(chosen.teacher, NetworkOptions(width=chosen.teacher_width, stem_stride=chosen.stem_stride)),
        student=(chosen.student, NetworkOptions(width=chosen.student_width, stem_stride=chosen.stem_stride)),
        device=choose_device(chosen.device),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Callable[..., Any] = parser.add_argument
    add("--teacher", default="resnet14")
    add("--teacher-width", type=float, default=1.5)
    add("--student", default="resnet8")
    add("--student-width", type=float, default=0.5)
    add("--stem-stride", type=int, choices=(1, 2), default=2, help="of both networks")
    add("--batch-size", type=int, default=64)
    add("--data", type=Path, default=SHIPPED, help="a data set; random 3x32x32 images where there is no such file")
    add("--images", type=int, default=5000, help="use at most so many")
    add("--views", type=int, default=10, help="kept views of each image")
    add("--epochs", type=int, default=40, help="length of the run over which keeping the features is spread")
    add("--workers", type=int, nargs="+", default=[0, 2], help="of the plain loop's DataLoader, one loop for each")
    add("--rounds", type=int, default=5)
    add("--seconds", type=float, default=5.0, help="of each loop in each round")
    help_threads = "of each loop; as the worker: all cores but one, since OpenMP waits for its slowest thread"
    add("--threads", type=int, default=max(1, _cores() - 1), help=help_threads)
    add("--device", default="auto")
    add("--json", type=Path, help="write the figures here too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
