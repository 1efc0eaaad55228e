"""Processes of our own that must not outlive us, and come back when they die.

A child holds the reading end of a pipe, its lifeline: when the parent ends, however it ends, the pipe does too, and
the child stops as if told. On Linux the kernel's parent-death signal says the same, and covers the child's start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from service import logs
from service.broker import BrokerError, EmbeddedBroker
from service.parent_death import argv_dying_with_parent

_log = logs.logger(__name__)
_ROOT = Path(__file__).resolve().parent.parent
_TICK = 0.5
_LONGEST_PAUSE = 30.0
_SETTLED = 60.0  # who lived so long did not die of its start


def spawn(words: Sequence[str], *, output: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    """Start ``limbeck WORDS --lifeline`` in a session of its own; close its stdin and it stops.

    A session of its own, because Ctrl-C at the terminal is meant for us: we tell the child in due order.
    """
    # -P and our own root: the folder that the user stands in may hold packages with our names.
    argv = [sys.executable, "-P", "-m", "limbeck", *words, "--lifeline"]
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        argv_dying_with_parent(argv),
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes], *, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
    """Tell a child to stop, and kill it when it has not after ``grace`` seconds or when there is a hurry."""
    if process.poll() is None:
        process.terminate()
    deadline = time.monotonic() + grace
    while process.poll() is None:
        if time.monotonic() > deadline or hurry():
            process.kill()
            process.wait()
        time.sleep(0.05)
    if process.stdin:
        process.stdin.close()


def hold_lifeline(*, grace: float) -> None:
    """Watch stdin in the background; at its end stop this process, gently, and after ``grace`` seconds for good."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace)
        os._exit(75)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


class Supervisor(threading.Thread):
    """Keeps the embedded broker, if ``data_dir`` is given, and one worker alive.

    One thread that starts and ends both: a parent-death signal fires when the starting thread ends.

    Args:
        data_dir: of the embedded broker; None when the broker is somebody else's.
        grace: seconds that the worker may take to stop.
    """

    def __init__(self, *, data_dir: Path | None, grace: float, on_broker: Callable[[str], None]) -> None:
        super().__init__(name="supervisor", daemon=True)
        self._broker = EmbeddedBroker(data_dir) if data_dir else None
        self._grace = grace
        self._on_broker = on_broker
        self._stopping = threading.Event()
        self._users_gone = threading.Event()
        self._hurry = threading.Event()
        self._begun = threading.Event()
        self._failure: Exception | None = None

    def begin(self) -> None:
        """Start, and return once the broker answers.

        Raises:
            BrokerError: it does not.
        """
        self.start()
        self._begun.wait()
        if self._failure:
            raise self._failure

    def stop_worker(self) -> None:
        """Tell the worker to stop; returns at once."""
        self._stopping.set()

    def hurry(self) -> None:
        """Kill what has not stopped yet."""
        self._hurry.set()

    def finish(self) -> None:
        """Stop the worker, then the broker, and wait for both."""
        self._stopping.set()
        self._users_gone.set()
        while self.is_alive():  # in steps, so that a second Ctrl-C is heard on every system
            self.join(0.1)

    def run(self) -> None:
        try:
            if self._broker:
                self._broker.start()
                self._on_broker(self._broker.url)
        except Exception as error:  # raised again by begin()
            self._failure = error
            return
        finally:
            self._begun.set()
        try:
            self._keep_alive()
            self._users_gone.wait()
        except Exception:
            _log.exception("supervisor_failed")
            os.kill(os.getpid(), signal.SIGTERM)  # a service without a worker must not look alive
        finally:
            if self._broker:
                self._broker.stop()

    def _keep_alive(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            born = time.monotonic()
            worker = spawn(["work"])
            while worker.poll() is None and not self._stopping.wait(_TICK):
                self._keep_broker()
            stop(worker, grace=self._grace, hurry=self._hurry.is_set)
            if self._stopping.is_set():
                return
            if time.monotonic() - born > _SETTLED:
                pause = 1.0
            _log.warning("worker_ended", exit_code=worker.returncode, again_in_seconds=pause)
            self._stopping.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _keep_broker(self) -> None:
        try:
            if self._broker:
                self._broker.ensure()
        except BrokerError as error:
            _log.error("broker_down", error=str(error))
