"""What working on an input takes beside the work: a folder that does not stay, and a lease that does not run out."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from models import Dataset, Teacher
from service import inputs
from service.errors import Fenced
from service.inputs import Hold
from service.logs import logger
from service.settings import settings

log = logger(__name__)

_FOLDER = re.compile(r"((?:tch|ds)_[0-9A-Za-z]+)-(\d+)")


@contextlib.contextmanager
def folder_of(hold: Hold) -> Iterator[Path]:
    """A folder for the work on an input."""
    folder = settings().work_dir / f"{hold.id}-{hold.fence}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def renewed(hold: Hold) -> Iterator[threading.Event]:
    """Renew the lease from a thread, whatever the block waits for; the event is set once the hold is lost."""
    lost, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=_renew, args=(hold, lost, ended), name="renew", daemon=True)
    thread.start()
    try:
        yield lost
    finally:
        ended.set()
        thread.join()


def _renew(hold: Hold, lost: threading.Event, ended: threading.Event) -> None:
    while not ended.wait(settings().lease_seconds / 3):
        try:
            inputs.renew(hold)
        except Fenced:
            if not ended.is_set():  # else the block itself has just let go of it
                lost.set()
            return
        except SQLAlchemyError as error:  # the next time will show whether the hold was lost meanwhile
            log.warning("the lease was not renewed", input=hold.id, error=type(error).__name__)


def clear_folders() -> int:
    """Remove the folders that killed workers left; how many."""
    count = 0
    for folder in settings().work_dir.glob("*-*"):
        found = _FOLDER.fullmatch(folder.name)
        if found is None:
            continue
        kind = Teacher if found[1].startswith("tch") else Dataset
        if not inputs.is_held(kind, found[1], fence=int(found[2])):
            shutil.rmtree(folder, ignore_errors=True)
            count += 1
    return count
