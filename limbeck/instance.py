"""One service per data folder: a lock that the kernel frees with its holder, and a note that says where it runs."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from limbeck.errors import CommandError

_PATIENCE = 0.5  # somebody who only looks holds the lock for a moment


@dataclass(frozen=True)
class Instance:
    """A running service."""

    url: str
    pid: int


@contextlib.contextmanager
def only_instance(data_dir: Path) -> Iterator[None]:
    """Hold the data folder for this process.

    Raises:
        CommandError: another service holds it (exit code 3).
    """
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock_path(data_dir).open("a+") as handle:
        deadline = time.monotonic() + _PATIENCE
        while not _try(handle.fileno(), fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                first = _noted(data_dir)
                where = f"on {first.url} (process {first.pid})" if first else "and is just starting"
                raise CommandError(f"limbeck already runs on {data_dir} {where}", exit_code=3)
            time.sleep(0.05)
        _note_path(data_dir).unlink(missing_ok=True)  # what a killed service left behind
        try:
            yield
        finally:
            _note_path(data_dir).unlink(missing_ok=True)


def announce(data_dir: Path, url: str) -> None:
    """Note where this process serves, whole or not at all."""
    path = _note_path(data_dir)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(asdict(Instance(url, os.getpid()))) + "\n")
    draft.replace(path)


def running_instance(data_dir: Path) -> Instance | None:
    """The service on a data folder; None when there is none, or none yet that answers."""
    path = _lock_path(data_dir)
    if not path.exists():
        return None
    with path.open("r") as handle:
        if _try(handle.fileno(), fcntl.LOCK_SH):
            return None
    return _noted(data_dir)


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _noted(data_dir: Path) -> Instance | None:
    try:
        return Instance(**json.loads(_note_path(data_dir).read_text()))
    except FileNotFoundError:
        return None


def _lock_path(data_dir: Path) -> Path:
    return data_dir / "serve.lock"


def _note_path(data_dir: Path) -> Path:
    return data_dir / "serve.json"
