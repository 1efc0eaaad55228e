"""`limbeck serve` as a process tree: up with one command, and nothing left however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import httpx
import psutil
import pytest

T = TypeVar("T")
Start = Callable[..., subprocess.Popen[str]]


def until(look: Callable[[], T | None], *, seconds: float = 30.0) -> T:
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `limbeck serve` on a free port, in a session of its own; whatever is left at the end is killed."""
    started: list[subprocess.Popen[str]] = []
    seen: set[psutil.Process] = set()

    def run(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "limbeck", "serve", "--port", "0", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={k: v for k, v in os.environ.items() if not k.startswith("LIMBECK_")}
            | {"LIMBECK_DATA_DIR": str(tmp_path / "data")},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.returncode is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                seen.update(psutil.Process(process.pid).children(recursive=True))
            process.kill()
            process.communicate()
    for left in seen:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()


def ready(process: subprocess.Popen[str]) -> str:
    """The URL that the service prints once it answers."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("Limbeck is ready: "):
            return line.split()[3]
    pytest.fail(f"the service ended: {''.join(lines)}")


def family(process: subprocess.Popen[str]) -> dict[str, psutil.Process]:
    """Worker and broker of a service, by name, once both are there."""

    def look() -> dict[str, psutil.Process] | None:
        found = {}
        for child in psutil.Process(process.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                words = child.cmdline()
                if "valkey-server" in words[0] or "redis-server" in words[0]:
                    found["broker"] = child
                if words[-2:] == ["work", "--lifeline"] and "-c" not in words:
                    found["worker"] = child
        return found if len(found) == 2 else None

    return until(look)


def gone(processes: dict[str, psutil.Process]) -> bool:
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes.values())


def answers(url: str) -> bool:
    return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_answers_when_it_says_so_and_leaves_nothing(start: Start, tmp_path: Path, signum: int) -> None:
    process = start()
    url = ready(process)
    assert answers(url)
    noted = json.loads((tmp_path / "data" / "serve.json").read_text())
    assert noted == {"url": url, "pid": process.pid}
    children = family(process)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert gone(children)
    assert not (tmp_path / "data" / "serve.json").exists()


def test_twice_in_a_row_and_never_twice_at_once(start: Start) -> None:
    first = start()
    url = ready(first)
    second = start()
    output, _ = second.communicate(timeout=30)
    assert second.returncode == 3
    assert url in output
    assert answers(url)
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    third = start()
    assert answers(ready(third))


def test_killed_outright_it_takes_its_children_along_and_starts_again(start: Start) -> None:
    process = start()
    ready(process)
    children = family(process)
    process.kill()
    process.communicate()
    until(lambda: gone(children))
    again = start()
    assert answers(ready(again))


def test_dead_children_come_back(start: Start) -> None:
    process = start()
    url = ready(process)
    before = family(process)
    for child in before.values():
        child.kill()
    until(lambda: gone(before))

    def successors() -> dict[str, psutil.Process] | None:
        now = family(process)
        return now if {p.pid for p in now.values()}.isdisjoint({p.pid for p in before.values()}) else None

    after = until(successors)
    assert answers(url)
    assert not gone(after)


def test_its_lifeline_ends_it(start: Start, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "limbeck", "serve", "--port", "0", "--data-dir", str(tmp_path / "b"), "--lifeline"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            ready(process)
            children = family(process)
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(30) == 0
            assert gone(children)
        finally:
            process.kill()
