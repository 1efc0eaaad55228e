"""The trainer: a process of its own that reads one order, trains, and writes events. It holds no credentials.

Standard input: one JSON line, the order; its end later means that the supervisor is gone.
Standard output: one JSON line an event. SIGTERM: finish the step, write a checkpoint, exit with 75. SIGUSR1: write what
every thread is at to standard error.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import IO, Any

from worker import lifeline

EXIT_STOPPED = 75
"""Stopped on request with everything needed to go on (EX_TEMPFAIL)."""


def main() -> None:
    """Run one order to its end."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    order = json.loads(sys.stdin.buffer.readline())
    lifeline.watch(lambda: os._exit(EXIT_STOPPED))
    with _events_only(sys.stdout.fileno()) as out:
        sys.exit(EXIT_STOPPED if _train(order, out, stop) else 0)


@contextlib.contextmanager
def _events_only(fd: int) -> Iterator[IO[str]]:
    """A stream on the real standard output; whatever else prints goes to standard error."""
    with os.fdopen(os.dup(fd), "w", encoding="utf-8") as out:
        os.dup2(sys.stderr.fileno(), fd)
        yield out


def _train(order: dict[str, Any], out: IO[str], stop: threading.Event) -> bool:
    """Yield everything to ``out``; whether it was stopped before the end."""
    from distill import events, memory
    from distill.errors import DistillError

    def say(event: events.Event) -> None:
        out.write(json.dumps(events.to_json(event)) + "\n")
        out.flush()

    _tune(order["threads"])
    try:
        with contextlib.closing(_events(order)) as stream:
            for event in stream:
                say(event)
                if stop.is_set() and not isinstance(event, events.Finished):
                    return True
    except DistillError as error:
        say(events.Failed(error=error.as_json()))
    except (RuntimeError, MemoryError) as error:  # outside of the steps, which have their own way out
        if not memory.ran_out(error):
            raise
        say(events.Failed(error=memory.out_of_memory(error).as_json()))
    return False


def _events(order: dict[str, Any]) -> Generator[Any]:
    from distill.spec import DistillSpec
    from distill.teacher_files import TeacherFile
    from distill.trainer import Inputs, train

    start = order["start_path"]
    return train(
        DistillSpec.model_validate(order["spec"]),
        Inputs(
            teacher=TeacherFile.of(order["teacher"]),
            dataset_path=Path(order["dataset_path"]),
            start_path=None if start is None else Path(start),
            workdir=Path(order["workdir"]),
            device=order["device"],
            recorded_step=order["recorded_step"],
        ),
    )


def _tune(threads: int) -> None:
    """Threads as told, and the same numbers from the same seed."""
    import torch

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True


if __name__ == "__main__":
    main()
