"""Every method against plain training, on the same networks and images: a sweep through a service of its own.

    python benchmarks/methods.py [--methods ce kd srrl] [--seeds 0 1 2] [--epochs 40] [--data-dir FOLDER] [--out FILE]
    python benchmarks/methods.py --ablation [--stages stage1 stage2 last]

The service runs on a free port and a temporary folder, with two workers side by side and one thread for each
training. With a folder of one's own an interrupted run goes on where it was: the sweep lives in that folder's
database, and what is finished there is not run again. Ctrl-C ends everything that was started.

Accuracies are those of the last epoch on the test images, mean ± sample standard deviation over seeds. The gain over
``ce`` (labels alone, the same budget) is taken seed by seed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from limbeck import Client, LimbeckError
from limbeck.children import spawn, stop
from limbeck.console import say, show_error
from limbeck.demo import EXAMPLE, service
from limbeck.main import FAILED, INTERRUPTED, exit_code
from limbeck.results import Sweep, SweepChild, SweepRow
from limbeck.submit import read_request, with_inputs
from limbeck.sweep import SweepRequest, watch_sweep
from service.sweep_figures import COLUMNS, SEED_PATH

METHOD_PATH = "/method"
CONTROL = "ce"
_TERMS = {"FM": (1.0, 0.0), "SR": (0.0, 1.0), "FM + SR": (1.0, 1.0)}
_SHOWN = ("student_top1", "gain", "agreement", "kl_to_teacher", "cka", "seconds")
_STOP_SECONDS = 45.0  # a trainer writes its checkpoint first


# ---------------------------------------------------------------- what is asked for


def ablation(stages: Sequence[str]) -> dict[str, dict[str, Any]]:
    """SRRL's two terms, alone and together, at each stage, and both at all stages; settings by label.

    The first ablation of the paper, whose conv2, conv3 and conv4 are ``stage1``, ``stage2`` and ``last``.
    """
    places = {**{stage: [stage] for stage in stages}, **({"all": list(stages)} if len(stages) > 1 else {})}
    return {
        f"{name} at {place}": {
            "type": "srrl",
            "srrl": {"feature_weight": feature, "regression_weight": regression, "stages": chosen},
        }
        for place, chosen in places.items()
        for name, (feature, regression) in _TERMS.items()
        if place != "all" or name == "FM + SR"
    }


def methods(chosen: argparse.Namespace, known: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The settings of each method by label: those named, else all, or for an ablation the control and its parts."""
    everything = sorted(known, key=lambda name: name != CONTROL)  # the control first
    named = chosen.methods or ([CONTROL] if chosen.ablation else everything)
    found: dict[str, dict[str, Any]] = {name: {"type": name} for name in named}
    return found | (ablation(chosen.stages) if chosen.ablation else {})


def request(chosen: argparse.Namespace, varied: dict[str, dict[str, Any]]) -> SweepRequest:
    """The sweep: the example's pair and images, every method, every seed."""
    example = read_request(chosen.example)
    training = {**example.body.get("training", {}), "epochs": chosen.epochs, "baseline": False}
    axes = [
        {"path": METHOD_PATH, "values": list(varied.values()), "labels": list(varied)},
        {"path": SEED_PATH, "values": chosen.seeds},
    ]
    name = "ablation" if chosen.ablation else "methods"
    base = replace(example, body={**example.body, "training": training})
    return SweepRequest(body={"name": name, "axes": axes}, base=base)


# ---------------------------------------------------------------- the service


@contextlib.contextmanager
def running(chosen: argparse.Namespace, folder: Path, *, out: Console) -> Iterator[str]:
    """The URL of a service with so many workers on a folder; all of it ends with the block."""
    for name in [name for name in os.environ if name.startswith("LIMBECK_") and name != "LIMBECK_DEVICE"]:
        del os.environ[name]  # another database or broker is none of ours
    os.environ["LIMBECK_TRAINER_THREADS"] = str(chosen.threads)
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(service(folder, out=out, port=0))
        log = stack.enter_context((folder / "workers.log").open("ab"))
        workers = [spawn(["work", "--data-dir", str(folder)], output=log) for _ in range(chosen.workers - 1)]
        try:
            yield url
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                stop(worker, grace=_STOP_SECONDS)


@contextlib.contextmanager
def data_folder(given: Path | None) -> Iterator[Path]:
    """The folder that was given, or one that is gone afterwards."""
    if given is not None:
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="limbeck-methods-", ignore_cleanup_errors=True) as made:
        yield Path(made)


def run(chosen: argparse.Namespace, folder: Path, *, out: Console) -> Sweep:
    """Submit the sweep, or come back to it, and wait for its end."""
    with running(chosen, folder, out=out) as url, Client(url) as client:
        varied = methods(chosen, [method["type"] for method in client.methods()])
        asked = request(chosen, varied)
        body = {**asked.body, "base": with_inputs(client, asked.base, out=out)}
        # The same request on the same folder is the same sweep, by its key.
        key = f"benchmark-{hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()}"
        sweep = client.sweep(body, idempotency_key=key)
        done = sweep["counts"].get("succeeded", 0)
        say(out, f"sweep {sweep['id']}: {sweep['num_jobs']} jobs, {done} of them done; watch it at {url}")
        return watch_sweep(client, sweep["id"], out=out)


# ---------------------------------------------------------------- the answer


def gains(sweep: Sweep) -> dict[str, list[float]]:
    """Top-1 of each method less that of the control with the same seed, as shares of 1, by the method's label."""
    found: dict[str, dict[str, float]] = {}
    for child in sweep["children"]:
        top1 = child["figures"]["student_top1"]
        if top1 is not None:
            method, seed = (_label(child, path) for path in (METHOD_PATH, SEED_PATH))
            found.setdefault(method, {})[seed] = top1
    control = found.get(CONTROL, {})
    return {
        method: [top1 - control[seed] for seed, top1 in by_seed.items() if seed in control]
        for method, by_seed in found.items()
        if method != CONTROL
    }


def _label(point: SweepChild | SweepRow, path: str) -> str:
    return next(coordinate["label"] for coordinate in point["point"] if coordinate["path"] == path)


def markdown(sweep: Sweep) -> str:
    """The comparison as a table, with the teacher and the machine below it."""
    columns = [column for column in COLUMNS if column.figure in _SHOWN]
    over_control = gains(sweep)
    titles = ["over ce" if column.figure == "gain" else column.title for column in columns]
    lines = [_line(["method", *titles, "jobs"]), _line(["---", *["---:"] * (len(columns) + 1)])]
    for row in sweep["table"]:
        method = _label(row, METHOD_PATH)
        cells = []
        for column in columns:
            if column.figure == "gain":
                values = over_control.get(method, [])
                mean = statistics.mean(values) if values else None
                cells.append(column.show(mean, statistics.stdev(values) if len(values) > 1 else None))
            else:
                spread = row["figures"][column.figure]
                cells.append(column.show(spread["mean"], spread["sd"]))
        jobs = f"{row['num_finished']}" if row["is_complete"] else f"{row['num_finished']} of {row['num_jobs']}"
        lines.append(_line([method.replace("|", "\\|"), *cells, jobs]))
    return "\n".join([*lines, "", _below(sweep)]) + "\n"


def _below(sweep: Sweep) -> str:
    teachers = [row["figures"]["teacher_top1"]["mean"] for row in sweep["table"]]
    teacher = next((f"Teacher {top1:.2%}. " for top1 in teachers if top1 is not None), "")
    machine = f"torch {version('torch')}, {platform.machine()}, {os.cpu_count()} cores"
    return f"{teacher}Mean ± sample standard deviation over seeds; over ce seed by seed, in points. {machine}."


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> int:
    """See the module."""
    chosen = _arguments()
    out = Console(highlight=False)
    for told_to_end in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(told_to_end, signal.default_int_handler)  # the same as Ctrl-C
    try:
        with data_folder(chosen.data_dir) as folder:
            sweep = run(chosen, folder, out=out)
    except KeyboardInterrupt:
        goes_on = f"; the same command goes on in {chosen.data_dir}" if chosen.data_dir else ""
        say(out, f"interrupted{goes_on}")
        return INTERRUPTED
    except LimbeckError as error:
        show_error(error)
        return exit_code(error)
    table = markdown(sweep)
    say(out, f"\n{table}")
    if chosen.out:
        chosen.out.write_text(table, encoding="utf-8")
    if chosen.json:
        chosen.json.write_text(json.dumps(sweep, indent=1) + "\n", encoding="utf-8")
    return 0 if sweep["status"] == "succeeded" else FAILED


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", metavar="TYPE", help="of GET /methods; all of them")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--ablation", action="store_true", help="SRRL's terms alone and together at each stage")
    parser.add_argument("--stages", nargs="+", default=["stage1", "stage2", "last"], help="of the ablation")
    parser.add_argument("--example", type=Path, default=EXAMPLE, help="a file of `limbeck submit`: networks and data")
    parser.add_argument("--workers", type=int, default=2, help="trainings side by side")
    parser.add_argument("--threads", type=int, default=1, help="of each training")
    parser.add_argument("--data-dir", type=Path, help="keep everything here, and go on from what is here")
    parser.add_argument("--out", type=Path, help="write the table here too")
    parser.add_argument("--json", type=Path, help="write the sweep here, as GET /distill/sweep/{id} has it")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
