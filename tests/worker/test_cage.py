from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.children import bare_environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")

TRIES = {
    "a connection": "socket.create_connection(('127.0.0.1', 9))",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "another program": "subprocess.run(['true'])",
    "a shell": "sys.exit('ran') if os.system('true') == 0 else os.execv('/bin/true', ['true'])",
    "a signal to the worker": "os.kill(os.getppid(), 0)",
    "the worker's memory": "sys.exit('read') if libc.ptrace(16, os.getppid(), 0, 0) == 0 else os.kill(1, 0)",
}


def run(code: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import ctypes, os, socket, subprocess, sys, threading\n"
        "from worker import cage\n"
        "libc = ctypes.CDLL(None)\n"
        "cage.lock()\n" + code
    )
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=Path.cwd(), check=False)


@pytest.mark.parametrize("code", TRIES.values(), ids=TRIES)
def test_what_leads_out_of_the_process_is_forbidden(code: str) -> None:
    ended = run(code)

    assert ended.returncode == 1
    assert "PermissionError" in ended.stderr


def test_a_reader_of_untrusted_files_is_told_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIMBECK_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "MY_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, "hush")

    said = bare_environment(tmp_path)

    assert "hush" not in said.values()
    assert (said["HOME"], said["TMPDIR"]) == (str(tmp_path), str(tmp_path))
    assert said["PATH"]


def test_threads_and_files_still_work_and_threads_are_shut_in_too(tmp_path: Path) -> None:
    ended = run(
        f"open({str(tmp_path / 'file')!r}, 'w').write('x')\n"
        "def work():\n"
        "    try:\n"
        "        socket.socket()\n"
        "    except PermissionError:\n"
        "        print('shut in')\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "thread.join()\n"
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "shut in\n", "")
    assert (tmp_path / "file").read_text() == "x"
