from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.errors import CommandError
from limbeck.instance import announce, only_instance, running_instance

HOLDER = """
import sys, time
from pathlib import Path
from limbeck.instance import announce, only_instance
with only_instance(Path(sys.argv[1])):
    announce(Path(sys.argv[1]), "http://127.0.0.1:8123")
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_second_is_told_where_the_first_runs_until_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            running = running_instance(tmp_path)
            assert running is not None
            assert (running.url, running.pid) == ("http://127.0.0.1:8123", holder.pid)
            with pytest.raises(CommandError, match="http://127\\.0\\.0\\.1:8123") as caught, only_instance(tmp_path):
                pytest.fail("two at once")
            assert caught.value.exit_code == 3
        finally:
            holder.kill()
    assert (tmp_path / "serve.json").exists()  # left behind, and believed by nobody
    assert running_instance(tmp_path) is None
    with only_instance(tmp_path):
        assert running_instance(tmp_path) is None  # starting, not answering yet
        announce(tmp_path, "http://127.0.0.1:9")
    assert not (tmp_path / "serve.json").exists()


def test_a_new_data_folder_is_private(tmp_path: Path) -> None:
    assert running_instance(tmp_path / "new") is None
    with only_instance(tmp_path / "new" / "deep"):
        assert (tmp_path / "new" / "deep").stat().st_mode & 0o077 == 0
        announce(tmp_path / "new" / "deep", "http://127.0.0.1:1")
        found = running_instance(tmp_path / "new" / "deep")
        assert found is not None
        assert found.pid == os.getpid()
