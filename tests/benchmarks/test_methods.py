from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.methods import ablation, gains, markdown, methods
from tests.fixtures.processes import offspring

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

ROOT = Path(__file__).resolve().parents[2]
Benchmark = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def benchmark(tmp_path: Path, tiny_npz: Path, tiny_teacher: TeacherFile) -> Iterator[Benchmark]:
    """Start the benchmark on tiny files, in a folder of its own."""
    example = {
        "teacher_upload": {
            "file": str(tiny_teacher.path),
            "architecture": tiny_teacher.architecture,
            "options": tiny_teacher.options.model_dump(),
        },
        "dataset_upload": {"file": str(tiny_npz), "format": "npz"},
        "student": {"architecture": "resnet8", "options": {"width": 0.25, "stem_stride": 2}},
        "training": {"batch_size": 16},
    }
    (tmp_path / "example.json").write_text(json.dumps(example))
    started: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        files = ["--example", "example.json", "--data-dir", "data", "--out", "table.md", "--json", "sweep.json"]
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "benchmarks" / "methods.py"), *files, "--methods", "ce", "srrl", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "LIMBECK_DATABASE_URL": "nonsense://"},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.returncode is None:
            process.kill()
            process.communicate()
    deadline = time.monotonic() + 30
    while left := offspring(tmp_path):
        if time.monotonic() > deadline:
            for each in left:
                each.kill()
        time.sleep(0.1)


def told(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    return output


def test_it_compares_and_does_not_run_again_what_is_done(benchmark: Benchmark, tmp_path: Path) -> None:
    words = ("--seeds", "0", "--epochs", "1")
    first = benchmark(*words)
    output = told(first)
    assert first.returncode == 0, output
    assert "2 jobs, 0 of them done" in output
    assert offspring(tmp_path) == []
    sweep = json.loads((tmp_path / "sweep.json").read_text())
    top1 = {child["point"][0]["label"]: 100 * child["figures"]["student_top1"] for child in sweep["children"]}
    table = (tmp_path / "table.md").read_text()
    assert table in output
    cells = {line.split("|")[1].strip(): line for line in table.splitlines() if line.startswith("| ")}
    assert f"| {top1['ce']:.2f} | – |" in cells["ce"]
    assert f"| {top1['srrl']:.2f} | {top1['srrl'] - top1['ce']:+.2f} |" in cells["srrl"]
    teacher = sweep["children"][0]["figures"]["teacher_top1"]
    assert f"Teacher {teacher:.2%}." in table

    again = benchmark(*words)
    output = told(again)
    assert again.returncode == 0, output
    assert "2 jobs, 2 of them done" in output
    assert json.loads((tmp_path / "sweep.json").read_text()) == sweep


@pytest.mark.timeout(900)  # a dozen processes that each load torch: slow on a machine that does much else
def test_ctrl_c_ends_everything_and_the_next_run_goes_on(benchmark: Benchmark, tmp_path: Path) -> None:
    words = ("--seeds", "0", "1", "--epochs", "12", "--workers", "2")
    process = benchmark(*words)
    assert process.stdout is not None
    begun = ""
    for line in process.stdout:
        begun += line
        if line.startswith("[1/4]"):
            break
    process.send_signal(signal.SIGINT)
    output = begun + told(process)
    assert process.returncode == 130, output
    assert "interrupted; the same command goes on in data" in output
    assert "Traceback" not in output
    assert offspring(tmp_path) == []
    assert not (tmp_path / "table.md").exists()

    second = benchmark(*words)
    output = told(second)
    assert second.returncode == 0, output
    known = begun.split("sweep ")[1].split(":")[0]
    assert f"sweep {known}: 4 jobs" in output
    assert "0 of them done" not in output
    sweep = json.loads((tmp_path / "sweep.json").read_text())
    assert sweep["counts"] == {"succeeded": 4}
    assert [row["num_finished"] for row in sweep["table"]] == [2, 2]


def chosen(**words: Any) -> argparse.Namespace:
    return argparse.Namespace(**{"methods": None, "ablation": False, "stages": ["stage2"], **words})


def test_the_ablation_has_each_term_alone_and_together_at_each_stage_and_both_at_all() -> None:
    parts = ablation(["stage1", "last"])
    alone = [f"{term} at {stage}" for stage in ("stage1", "last") for term in ("FM", "SR", "FM + SR")]
    assert list(parts) == [*alone, "FM + SR at all"]
    assert parts["FM at last"]["srrl"] == {"feature_weight": 1.0, "regression_weight": 0.0, "stages": ["last"]}
    assert parts["FM + SR at all"]["srrl"]["stages"] == ["stage1", "last"]
    weights = [(p["srrl"]["feature_weight"], p["srrl"]["regression_weight"]) for p in parts.values()]
    assert weights == [*[(1, 0), (0, 1), (1, 1)] * 2, (1, 1)]
    assert list(ablation(["stage2"])) == ["FM at stage2", "SR at stage2", "FM + SR at stage2"]


def test_which_methods_are_run() -> None:
    known = ["srrl", "ce", "kd"]
    found = methods(chosen(), known)
    assert (list(found), found["kd"]) == (["ce", "srrl", "kd"], {"type": "kd"})
    assert list(methods(chosen(methods=["kd"]), known)) == ["kd"]
    assert list(methods(chosen(ablation=True), known)) == ["ce", *ablation(["stage2"])]
    assert list(methods(chosen(ablation=True, methods=["ce", "kd"]), known))[:2] == ["ce", "kd"]


def test_gains_are_taken_seed_by_seed_over_what_both_have() -> None:
    top1: dict[str, list[float | None]] = {"ce": [0.85, 0.87, None], "a|b": [0.86, 0.90, 0.91], "kd": [None] * 3}
    children = [
        {
            "point": [{"path": "/method", "label": name}, {"path": "/training/seed", "label": str(seed)}],
            "figures": {"student_top1": value},
        }
        for name, values in top1.items()
        for seed, value in enumerate(values)
    ]
    figures = ("student_top1", "teacher_top1", "agreement", "kl_to_teacher", "cka", "seconds")
    table = [
        {
            "point": [{"path": "/method", "label": method}],
            "num_jobs": 3,
            "num_finished": 3 - values.count(None),
            "is_complete": None not in values,
            "figures": {name: {"n": 0, "mean": None, "sd": None} for name in figures},
        }
        for method, values in top1.items()
    ]
    sweep: Any = {"children": children, "table": table}
    expected = [0.86 - 0.85, 0.90 - 0.87]
    assert gains(sweep) == {"a|b": expected}
    lines = markdown(sweep).splitlines()
    mean, deviation = 100 * statistics.mean(expected), 100 * statistics.stdev(expected)
    assert lines[3].startswith(f"| a\\|b | – | +{mean:.2f} ± {deviation:.2f} |")
    assert lines[2].endswith("| 2 of 3 |")
    assert lines[4] == "| kd | – | – | – | – | – | – | 0 of 3 |"
