"""What a step by each method costs, against a step on labels alone: the same pair, images and batches, in one run.

    python benchmarks/method_cost.py [--steps 60] [--rounds 3] [--threads 1]

The teacher's features are kept, as they are in a job of this pair; filling them is not counted. Each round takes the
methods in turn, since a machine is not equally fast all the time; the ratio is to ``ce`` of the same round, and the
median of all rounds.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors import safe_open

from distill import plan
from distill.data.packed import PackedDataset, pack
from distill.data.readers import read
from distill.method_specs import METHODS
from distill.preparation import prepare
from distill.prepared import Prepared
from distill.runs import Run
from distill.spec import DistillSpec, NetworkOptions
from distill.teacher_files import TeacherFile
from limbeck.demo import EXAMPLE
from limbeck.submit import read_request

CONTROL = "ce"


def ready(kind: str, dataset: Path) -> tuple[DistillSpec, Prepared]:
    """The shipped pair, prepared for a method."""
    request = read_request(EXAMPLE)
    assert request.teacher is not None
    with safe_open(request.teacher.path, framework="pt") as file:
        metadata = dict(file.metadata() or {})
    data = PackedDataset.load(dataset)
    teacher = TeacherFile(
        path=request.teacher.path,
        architecture=metadata["architecture"],
        options=NetworkOptions.model_validate_json(metadata["options"]),
        num_classes=data.num_classes,
        in_channels=data.in_channels,
    )
    inputs = {"teacher": {"id": "shipped"}, "dataset": {"id": "shipped"}, "method": {"type": kind}}
    spec = DistillSpec.model_validate({**request.body, **inputs})
    resolved = plan.resolve(spec, num_images=len(data.train_images), image_size=data.image_size)
    stream = prepare(resolved, teacher=teacher, dataset_path=dataset, device="auto")
    while True:
        try:
            next(stream)
        except StopIteration as stop:
            prepared: Prepared = stop.value
            return prepared.resolve(resolved), prepared


def milliseconds(run: Run, *, steps: int) -> float:
    """Of one optimizer step, over so many."""
    device = run.material.device
    start, first = time.perf_counter(), run.step
    while run.step - first < steps:
        for _ in run.train_epoch():
            if run.step - first >= steps:
                break
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return 1000.0 * (time.perf_counter() - start) / (run.step - first)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    request = read_request(EXAMPLE)
    assert request.dataset is not None
    kinds: list[str] = [method.model_fields["type"].annotation.__args__[0] for method in METHODS]  # type: ignore[union-attr]
    runs: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        dataset = Path(folder) / "dataset.safetensors"
        pack(read(request.dataset.path), dataset)
        for kind in sorted(kinds, key=lambda kind: kind != CONTROL):
            spec, prepared = ready(kind, dataset)
            torch.manual_seed(0)
            network = prepared.student(spec)
            objective = prepared.objective(spec.method, network)
            material: Any = prepared.material
            runs[kind] = Run(
                "student", network=network, objective=objective, material=material, first_step=0, total_steps=1
            )
            milliseconds(runs[kind], steps=10)
        found: dict[str, list[float]] = {kind: [] for kind in runs}
        for _, kind in itertools.product(range(chosen.rounds), runs):
            found[kind].append(milliseconds(runs[kind], steps=chosen.steps))
    table = Table(title=f"One step of {material.batch_size} images")
    for column in ("method", "ms, median", "ratio to ce"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for kind, times in found.items():
        ratio = statistics.median(t / c for t, c in zip(times, found[CONTROL], strict=True))
        table.add_row(kind, f"{statistics.median(times):.1f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
