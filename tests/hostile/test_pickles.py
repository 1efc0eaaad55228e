"""Files that want to harm: each is refused by a published code, and nothing else happens."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from distill.errors import InputError
from service import settings as settings_module
from service import teacher_files
from tests.fixtures.served import served
from tests.hostile.pickles import HOSTILE, MARKER, Hostile, saved, weights

SLOW = 5.0
"""How much longer than alone things may take on a machine that does much else."""
AT_ONCE = {
    name: hostile
    for name, hostile in HOSTILE.items()
    if not hostile.by_worker and hostile.code != "state_dict_mismatch"  # sound in themselves
}
CHECKED_AGAIN = ("os.system", "memory by bytearray", "NaN")


@pytest.fixture
def pickles_allowed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LIMBECK_ALLOW_PICKLE", "1")
    settings_module.settings.cache_clear()
    yield
    settings_module.settings.cache_clear()


def published_codes() -> set[str]:
    return set(re.findall(r"^\| `(\w+)`", Path("docs/errors.md").read_text(), flags=re.MULTILINE))


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
    path.write_bytes(HOSTILE[name].build())
    tracemalloc.start()

    with pytest.raises(InputError):
        teacher_files.look(path)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50 * 2**20


@pytest.mark.parametrize("name", CHECKED_AGAIN)
def test_the_workers_child_refuses_by_itself(name: str, tmp_path: Path) -> None:
    """Whatever the API was made to believe."""
    hostile = HOSTILE[name]
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
        child.stdin.write(json.dumps({**order, **network}) + "\n")
        child.stdin.flush()
        answer: dict[str, Any] = json.loads(child.stdout.readline())
    return answer


def process_start() -> float:
    """Seconds until a Python has PyTorch."""
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[httpx.Client]:
    with (
        served(folder / "data", LIMBECK_ALLOW_PICKLE="1") as url,
        httpx.Client(base_url=url, timeout=60, trust_env=False) as opened,
    ):
        yield opened


def test_through_the_service_each_gets_its_code_and_it_goes_on(client: httpx.Client, folder: Path) -> None:
    found = {name: code_of(client, hostile) for name, hostile in HOSTILE.items()}

    assert found == {name: hostile.code for name, hostile in HOSTILE.items()}
    assert set(found.values()) <= published_codes()
    assert not list(folder.rglob(f"*{MARKER}*"))
    assert not Path(MARKER).exists()
    assert {path.name for path in folder.iterdir()} == {"data"}
    assert list((folder / "data" / "work").iterdir()) == []
    assert code_of(client, Hostile("", lambda: saved(weights()))) is None  # a sound one is ready


def code_of(client: httpx.Client, hostile: Hostile) -> str | None:
    content = hostile.build()
    told = {"filename": hostile.filename, "bytes": len(content), "purpose": "teacher"}
    upload_id = client.post("/uploads", json=told).raise_for_status().json()["id"]
    client.put(f"/uploads/{upload_id}/content", content=content).raise_for_status()
    client.post(f"/uploads/{upload_id}/complete").raise_for_status()
    start = time.monotonic()
    answer = client.post("/teachers", json={"upload_id": upload_id, "architecture": "resnet8"})
    assert time.monotonic() - start < 2.0 * SLOW
    if answer.status_code == 422:
        (flaw,) = answer.json()["errors"]
        assert flaw["hint"]
        return str(flaw["code"])
    return code_of_the_worker(client, answer.raise_for_status().json()["id"])


def code_of_the_worker(client: httpx.Client, teacher_id: str) -> str | None:
    deadline = time.monotonic() + 60
    while (teacher := client.get(f"/teachers/{teacher_id}").json())["status"] == "processing":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return str(teacher["error"]["code"]) if teacher["error"] else None
