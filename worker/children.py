"""Starting, hearing and ending the worker's child processes, each in a process group of its own."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from service.parent_death import argv_dying_with_parent

_LOG_LINES = 40
_MAX_LINE = 4 * 2**20
_NEEDED = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS", "MKL_NUM_THREADS")

_WAY_OUT = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")


class Child:
    """A ``python -m module`` that reads one JSON order and answers in JSON lines.

    Args:
        module: the module to run.
        order: its one line of input; standard input then stays open as the lifeline.
        cwd: its working folder.
        env: its environment; by default the worker's without what opens the service's own parts.
    """

    def __init__(self, module: str, *, order: dict[str, Any], cwd: Path, env: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            # Frozen, or in native code, it would not see the end of its lifeline. The calling thread must outlive it.
            argv_dying_with_parent([sys.executable, "-m", module], signum=signal.SIGKILL),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=_environment() if env is None else env,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self.messages: queue.Queue[dict[str, Any] | None] = queue.Queue(maxsize=1000)
        """What it said, in order; None at its end."""
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._readers = [
            threading.Thread(target=self._hear, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._listen, args=(self._process.stderr,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._log.append("it ended before it read its order")

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """Ask it to end in good order."""
        self._signal(signal.SIGTERM)

    def dump(self) -> None:
        """Ask it what each of its threads is at; it tells on standard error, unless it is frozen."""
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End it and everything that it started, at once."""
        self._signal(signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, once it has ended; the rest of its group is gone then."""
        code = self._process.wait()
        self.kill()
        for reader in self._readers:
            reader.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                _close(stream)
        return code

    def log_excerpt(self) -> list[str]:
        """The last lines of its standard error."""
        return list(self._log)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return  # it has ended

    def _hear(self, stream: IO[bytes]) -> None:
        for line in iter(lambda: stream.readline(_MAX_LINE), b""):
            try:
                self.messages.put(json.loads(line))
            except ValueError:
                self._log.append(f"not an event: {line[:200]!r}")
        self.messages.put(None)

    def _listen(self, stream: IO[bytes]) -> None:
        for line in iter(stream.readline, b""):
            self._log.append(line.decode(errors="replace").rstrip()[:500])


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return  # its reader is gone, which is what closing was to achieve


def _environment() -> dict[str, str]:
    """The worker's environment without anything that opens a database, a broker or a store."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LIMBECK_", "AWS_", "PG"))}
    # Threads that spin while they wait take their core from the API and the worker beside them.
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return kept | {"PYTHONPATH": _python_path()}


def bare_environment(home: Path) -> dict[str, str]:
    """What a process needs that reads untrusted files, and no more: a secret may stand under any other name."""
    kept = {k: v for k, v in os.environ.items() if k in _NEEDED}
    folder = str(home.resolve())
    return kept | {"HOME": folder, "TMPDIR": folder, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": _python_path()}


def network_environment(home: Path) -> dict[str, str]:
    """The same with what tells the way out of this machine, and whom to trust there."""
    return bare_environment(home) | {k: v for k, v in os.environ.items() if k.lower() in _WAY_OUT}


def _python_path() -> str:
    root = str(Path(__file__).resolve().parent.parent)
    return os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
