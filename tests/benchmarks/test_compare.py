from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def described_teacher(tiny_teacher: TeacherFile, tmp_path: Path) -> Path:
    """The tiny teacher with its architecture in the file's header, as the shipped one has it."""
    with safe_open(tiny_teacher.path, framework="pt") as file:
        metadata = dict(file.metadata())
    metadata |= {"architecture": tiny_teacher.architecture, "options": tiny_teacher.options.model_dump_json()}
    save_file(load_file(tiny_teacher.path), tmp_path / "teacher.safetensors", metadata=metadata)
    return tmp_path / "teacher.safetensors"


def test_it_compares_over_seeds(described_teacher: Path, tiny_npz: Path, tmp_path: Path) -> None:
    files = ["--teacher", str(described_teacher), "--data", str(tiny_npz), "--json", str(tmp_path / "figures.json")]
    grid = ["--methods", "ce", "srrl", "--augmentation", "none", "--seeds", "0", "1"]
    student = ["--width", "0.25", "--epochs", "2", "--processes", "2", "--device", "cpu"]
    ended = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "fashion-mnist" / "compare.py"), *files, *grid, *student],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "SRRL, own head (none) over labels alone (none)" in ended.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["method"] for row in figures["table"]] == ["ce", "srrl"]
    ce, srrl = (row["by_seed"] for row in figures["table"])
    margin = figures["margins"]["srrl"]
    assert margin["gap"] == pytest.approx(min(srrl.values()) - max(ce.values()), abs=0.01)
    assert margin["paired"] == {seed: pytest.approx(srrl[seed] - ce[seed], abs=0.01) for seed in ce}
