"""The README's walk, word for word, against a service that was started as the README says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0


@pytest.fixture
def service_url(tmp_path: Path) -> Iterator[str]:
    """`limbeck serve` on a free port and an empty folder; it must end well when it is interrupted."""
    process = subprocess.Popen(
        [sys.executable, "-m", "limbeck", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LIMBECK_DATA_DIR": str(tmp_path / "data")},
    )
    told = tmp_path / "data" / "serve.json"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and not told.exists():
        assert process.poll() is None
        time.sleep(0.05)
    yield json.loads(told.read_text())["url"]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
def test_the_walk_with_curl_does_what_it_says(service_url: str) -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 8

    walked = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        cwd=ROOT,
        env={**os.environ, "LIMBECK_URL": service_url},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )

    assert walked.returncode == 0, walked.stderr + walked.stdout[-2000:]
    told = walked.stdout
    assert '"architecture_unknown"' in told
    assert "resnet8" in told.split("architecture_unknown", 1)[1]
    assert '"status":"succeeded"' in told.replace(" ", "")
    assert '"teacher": {' in told
    digest = re.search(r"repr-digest: sha-256=:(.+):", told, flags=re.IGNORECASE)
    assert digest is not None
    assert digest[1] in told.splitlines()
    ends = re.findall(r"^event: end\ndata: (.+)$", told, flags=re.MULTILINE)
    assert [json.loads(end)["status"] for end in ends] == ["succeeded", "succeeded"]  # the second by DIST and KD
    assert '"num_jobs":9' in told
    assert '"used": {' in told
