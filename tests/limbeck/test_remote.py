"""A data set by its URL through the whole service: the API, a worker, the fetcher and the checker as processes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.fixtures.https_files import Files
from tests.fixtures.processes import offspring
from tests.fixtures.served import served


def settled(url: str, dataset_id: str, *, seconds: float = 60.0) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while True:
        found: dict[str, Any] = httpx.get(f"{url}/datasets/{dataset_id}", trust_env=False).json()
        if found["status"] != "processing":
            return found
        assert time.monotonic() < end, found
        time.sleep(0.1)


def running(folder: Path, word: str) -> list[psutil.Process]:
    return [process for process in offspring(folder) if word in process.cmdline()]


@pytest.fixture
def files(https_files: Files, tiny_npz: Path) -> Files:
    https_files.content = tiny_npz.read_bytes()
    return https_files


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "not within 60 s"
        time.sleep(0.05)


def test_from_a_url_to_ready_over_a_line_that_breaks_and_a_worker_that_is_killed(files: Files, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    trust = {"LIMBECK_REMOTE_ALLOW_HOSTS": files.host, "SSL_CERT_FILE": str(files.authority)}
    body = {"url": files.url("sets/tiny.npz?sig=secret"), "sha256": hashlib.sha256(files.content).hexdigest()}
    with served(folder, LIMBECK_LEASE_SECONDS="4", LIMBECK_SWEEP_SECONDS="0.5", **trust) as url:
        files.cuts = [10_000]
        made = httpx.post(f"{url}/datasets", json=body, trust_env=False)
        assert made.status_code == 202
        ready = settled(url, made.json()["id"])
        assert (ready["status"], ready["phase"], ready["error"]) == ("ready", None, None)
        assert (ready["sha256"], ready["bytes"]) == (body["sha256"], len(files.content))
        assert ready["url"] == files.url("sets/tiny.npz")
        assert ready["fetch"]["etag"] == '"v1"'
        assert ready["report"]["splits"]["test"]["images"] == 96
        assert files.ranges == [None, "bytes=10000-"]

        files.pause = 120
        again = httpx.post(f"{url}/datasets", json=body, trust_env=False).json()["id"]
        wait_for(lambda: len(files.seen) == 3)
        fetcher = running(folder, "worker.remote_process")[0]
        for worker in running(folder, "--lifeline"):
            worker.kill()
        wait_for(lambda: not fetcher.is_running() or fetcher.status() == psutil.STATUS_ZOMBIE)
        files.pause = 0
        assert settled(url, again)["status"] == "ready"
        assert list((folder / "work").iterdir()) == []
        stored = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
        assert len(stored) == 4  # of each, what was fetched and what was made of it

        forbidden = httpx.post(f"{url}/datasets", json={"url": "https://127.0.0.1/a"}, trust_env=False)
        assert forbidden.status_code == 422
