"""The shipped teacher's student by labels alone and by SRRL, over seeds, each with several augmentations.

    python examples/fashion-mnist/compare.py [--processes 2] [--json FILE]

Every row is a job as the service runs it, here without the service. Accuracies are those of the last epoch
on the 10,000 test images. Which augmentation is best for a method is read off the same images, for every
method alike.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from distill import events, plan
from distill.data.packed import PackedDataset, pack
from distill.data.readers import read
from distill.spec import DistillSpec, NetworkOptions
from distill.teacher_files import TeacherFile
from distill.trainer import Inputs, train

HERE = Path(__file__).resolve().parent
METHODS: dict[str, dict[str, Any]] = {
    "ce": {"type": "ce"},
    "srrl": {"type": "srrl", "srrl": {"head": "own"}},
    "srrl-teacher-head": {"type": "srrl", "srrl": {"head": "teacher"}},
}
TITLES = {"ce": "labels alone", "srrl": "SRRL, own head", "srrl-teacher-head": "SRRL, teacher's head"}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training and where its files are."""

    method: str
    augmentation: Literal["none", "flip", "crop_flip"]
    seed: int
    spec: DistillSpec
    inputs: Inputs
    threads: int


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a training came to; accuracies in 0..1."""

    method: str
    augmentation: str
    seed: int
    top1: float
    teacher_top1: float
    teacher_parameters: int
    parameters: int
    seconds: float


def run(job: Job) -> Result:
    """Train, in a process that does nothing else."""
    torch.set_num_threads(job.threads)
    start = time.monotonic()
    (report,) = [event.report for event in train(job.spec, job.inputs) if isinstance(event, events.Report)]
    return Result(
        method=job.method,
        augmentation=job.augmentation,
        seed=job.seed,
        top1=report["student"]["top1"],
        teacher_top1=report["teacher"]["top1"],
        teacher_parameters=report["teacher"]["parameters"],
        parameters=report["student"]["parameters"],
        seconds=round(time.monotonic() - start, 1),
    )


def jobs(chosen: argparse.Namespace, folder: Path) -> list[Job]:
    """Everything to be trained; the data set is packed on the way."""
    packed = folder / "dataset.safetensors"
    pack(read(chosen.data), packed)
    data = PackedDataset.load(packed)
    teacher = _teacher(chosen.teacher, data)
    return [
        Job(
            method=method,
            augmentation=augmentation,
            seed=seed,
            spec=plan.resolve(_spec(chosen, method, augmentation, seed), num_images=len(data.train_images)),
            inputs=Inputs(
                teacher=teacher,
                dataset_path=packed,
                workdir=folder / f"{method}-{augmentation}-{seed}",
                device=chosen.device,
            ),
            threads=chosen.threads,
        )
        for seed in chosen.seeds
        for augmentation in chosen.augmentation
        for method in chosen.methods
    ]


def _teacher(path: Path, data: PackedDataset) -> TeacherFile:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    return TeacherFile(
        path=path,
        architecture=metadata["architecture"],
        options=NetworkOptions.model_validate_json(metadata["options"]),
        num_classes=data.num_classes,
        in_channels=data.in_channels,
    )


def _spec(chosen: argparse.Namespace, method: str, augmentation: str, seed: int) -> DistillSpec:
    return DistillSpec.model_validate(
        {
            "teacher": {"id": "shipped"},
            "dataset": {"id": "shipped"},
            "student": {
                "architecture": chosen.student,
                "options": {"width": chosen.width, "stem_stride": chosen.stem_stride},
            },
            "method": METHODS[method],
            "training": {
                "epochs": chosen.epochs,
                "batch_size": chosen.batch_size,
                "learning_rate": chosen.learning_rate,
                "augmentation": augmentation,
                "views": chosen.views,
                "seed": seed,
                "baseline": False,
            },
        }
    )


# ---------------------------------------------------------------- what is printed


def accuracies(results: Iterable[Result]) -> dict[tuple[str, str], dict[int, float]]:
    """Per cent by seed, for each method and augmentation."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for result in results:
        found.setdefault((result.method, result.augmentation), {})[result.seed] = 100.0 * result.top1
    return found


def spread(values: Iterable[float]) -> str:
    """Mean and sample standard deviation."""
    numbers = list(values)
    deviation = f" ± {statistics.stdev(numbers):.2f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.2f}{deviation}"


def best(found: dict[tuple[str, str], dict[int, float]], method: str) -> str:
    """The augmentation with which a method is best on average."""
    return max((a for m, a in found if m == method), key=lambda a: statistics.mean(found[method, a].values()))


def margins(found: dict[tuple[str, str], dict[int, float]]) -> dict[str, dict[str, Any]]:
    """Of each method over labels alone, each side at its best augmentation, in points.

    ``paired``: by seed; ``gap``: the method's worst seed less the best seed of labels alone.
    """
    methods = {method for method, _ in found}
    if "ce" not in methods:
        return {}
    plain = best(found, "ce")
    control = found["ce", plain]
    answer = {}
    for method in sorted(methods - {"ce"}):
        chosen = best(found, method)
        mine = found[method, chosen]
        answer[method] = {
            "augmentation": chosen,
            "control_augmentation": plain,
            "paired": {seed: round(mine[seed] - control[seed], 2) for seed in mine},
            "gap": round(min(mine.values()) - max(control.values()), 2),
        }
    return answer


def show(console: Console, results: list[Result]) -> None:
    """The table and the margins."""
    found = accuracies(results)
    columns = list(dict.fromkeys(result.augmentation for result in results))
    first = results[0]
    sizes = sorted(result.parameters for result in results)
    table = Table(title="Test accuracy (%), mean ± sd over seeds")
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right")
    for method in [m for m in METHODS if any(m == name for name, _ in found)]:
        table.add_row(TITLES[method], *(spread(found[method, column].values()) for column in columns))
    console.print(table)
    console.print(
        f"Teacher: {first.teacher_top1:.2%} with {first.teacher_parameters:,} parameters; "
        f"student: {sizes[0]:,}" + (f", with the teacher's head {sizes[-1]:,}." if sizes[-1] > sizes[0] else "."),
        highlight=False,
        soft_wrap=True,
    )
    for method, margin in margins(found).items():
        console.print(
            f"{TITLES[method]} ({margin['augmentation']}) over labels alone ({margin['control_augmentation']}): "
            f"{spread(margin['paired'].values())} points seed by seed; worst seed against best: {margin['gap']:+.2f}.",
            highlight=False,
            soft_wrap=True,
        )


def _as_json(chosen: argparse.Namespace, results: list[Result]) -> str:
    found = accuracies(results)
    table = [
        {"method": m, "augmentation": a, "mean": round(statistics.mean(v.values()), 3), "by_seed": v}
        for (m, a), v in found.items()
    ]
    arguments = {name: v.name if isinstance(v, Path) else v for name, v in vars(chosen).items()}
    content = {"arguments": arguments, "torch": torch.__version__, "table": table, "margins": margins(found)}
    return json.dumps(content | {"runs": [asdict(result) for result in results]}, indent=1) + "\n"


def main() -> None:
    """See the module."""
    chosen = _arguments()
    console = Console()
    # For the processes to come, as the worker sets it for its own: spinning threads starve each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    results: list[Result] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(
            chosen.processes, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
        ) as pool,
    ):
        futures = [pool.submit(run, job) for job in jobs(chosen, Path(folder))]
        try:
            for future in as_completed(futures):
                result = future.result()
                results.append(result)
                console.print(
                    f"{len(results)}/{len(futures)} {TITLES[result.method]}, {result.augmentation}, "
                    f"seed {result.seed}: {result.top1:.2%} in {result.seconds:.0f} s",
                    highlight=False,
                    soft_wrap=True,
                )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    places = chosen.methods, chosen.augmentation, chosen.seeds
    results.sort(
        key=lambda r: tuple(p.index(v) for p, v in zip(places, (r.method, r.augmentation, r.seed), strict=True))
    )
    show(console, results)
    if chosen.json:
        chosen.json.write_text(_as_json(chosen, results))


def _views(text: str) -> int | str:
    return text if text in ("auto", "fresh") else int(text)


def _auto(kind: type[int] | type[float]) -> Any:
    return lambda text: text if text == "auto" else kind(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, default=HERE / "teacher.safetensors")
    parser.add_argument("--data", type=Path, default=HERE / "fashion-mnist-5k.npz")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--stem-stride", type=int, choices=(1, 2), default=2)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    names = ["none", "flip", "crop_flip"]
    parser.add_argument("--augmentation", nargs="+", choices=names, default=names)
    parser.add_argument("--views", type=_views, default="auto", help="of each image: auto, fresh or a number")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=_auto(int), default=40)
    parser.add_argument("--batch-size", type=_auto(int), default="auto")
    parser.add_argument("--learning-rate", type=_auto(float), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--processes", type=int, default=1, help="trainings side by side")
    parser.add_argument("--threads", type=int, help="of each training; all cores but one, or 1 side by side")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    chosen = parser.parse_args()
    if chosen.threads is None:
        chosen.threads = 1 if chosen.processes > 1 else max(1, (os.cpu_count() or 1) - 1)
    return chosen


if __name__ == "__main__":
    main()
