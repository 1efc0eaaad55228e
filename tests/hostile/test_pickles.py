"""Files that want to harm: each is refused by a published code, and nothing else happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill.errors import InputError
from service import settings as settings_module
from service import teacher_files
from tests.hostile.case import Hostile
from tests.hostile.pickles import PICKLES, saved, weights

SLOW = 5.0
"""How much longer than alone things may take on a machine that does much else."""
AT_ONCE = {
    name: hostile
    for name, hostile in PICKLES.items()
    if not hostile.by_worker and hostile.code != "state_dict_mismatch"  # sound in themselves
}
CHECKED_AGAIN = ("os.system", "memory by bytearray", "NaN")


@pytest.fixture
def pickles_allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIMBECK_ALLOW_PICKLE", "1")
    settings_module.settings.cache_clear()
    yield
    settings_module.settings.cache_clear()


@pytest.mark.parametrize("hostile", AT_ONCE.values(), ids=AT_ONCE)
def test_an_outline_is_refused_at_once_by_little_memory(
    hostile: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pickles_allowed: None
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "upload"
    path.write_bytes(hostile.build())
    start, before = time.process_time(), psutil.Process().memory_info().rss

    with pytest.raises(InputError) as caught:
        teacher_files.look(path)

    assert psutil.Process().memory_info().rss - before < 50 * 2**20
    assert time.process_time() - start < 2.0
    assert caught.value.code == hostile.code
    assert caught.value.hint
    assert len(caught.value.message) < 500
    assert [found.name for found in tmp_path.iterdir()] == ["upload"]


@pytest.mark.parametrize("name", ["lists in lists", "dictionaries without end", "names without end"])
def test_the_most_that_an_outline_takes_of_memory(name: str, tmp_path: Path, pickles_allowed: None) -> None:
    path = tmp_path / "upload"
    path.write_bytes(PICKLES[name].build())
    tracemalloc.start()

    with pytest.raises(InputError):
        teacher_files.look(path)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * 2**20


@pytest.mark.parametrize("name", CHECKED_AGAIN)
def test_the_workers_child_refuses_by_itself(name: str, tmp_path: Path) -> None:
    """Whatever the API was made to believe."""
    hostile = PICKLES[name]
    (tmp_path / "upload").write_bytes(hostile.build())
    start = time.monotonic()

    answer = checked(tmp_path / "upload", tmp_path)

    assert answer["error"]["code"] == hostile.code
    assert answer["error"]["hint"]
    assert time.monotonic() - start < (2.0 + process_start()) * SLOW
    assert {found.name for found in tmp_path.iterdir()} <= {"upload", "prepared.safetensors"}


def test_a_sound_file_passes_the_same_child_and_only_safetensors_are_left(tmp_path: Path) -> None:
    (tmp_path / "upload").write_bytes(saved(weights()))

    answer = checked(tmp_path / "upload", tmp_path)

    assert answer["report"]["checks"]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["prepared.safetensors", "upload"]


def checked(path: Path, folder: Path) -> dict[str, Any]:
    """What the checker of uploads answers to a file that is said to be a pickle of resnet8."""
    order = {"kind": "teacher", "pickled": True, "source": str(path), "target": str(folder / "prepared.safetensors")}
    order["memory_bytes"] = 8 * 2**30
    network = {"architecture": "resnet8", "options": {}, "num_classes": 4, "in_channels": 3}
    more = {"classes": None, "preprocessing": {}, "cpu_seconds": 60}
    child = subprocess.Popen(
        [sys.executable, "-m", "worker.ingest_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        text=True,
    )
    with child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(json.dumps({**order, **network, **more}) + "\n")
        child.stdin.flush()
        answer: dict[str, Any] = json.loads(child.stdout.readline())
    return answer


def process_start() -> float:
    """Seconds until a Python has PyTorch."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - start
