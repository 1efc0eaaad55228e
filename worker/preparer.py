"""Checking uploaded teachers and data sets in full, one at a time, each in a confined child process."""

from __future__ import annotations

import queue
import shutil
import signal
import threading
import time
from pathlib import Path

from distill.errors import DistillError, InputError
from service import inputs, jobs, teacher_files
from service.errors import Fenced
from service.inputs import Preparation
from service.logs import logger
from service.settings import settings
from worker.children import Child, bare_environment

log = logger(__name__)

_MAX_ATTEMPTS = 3


def prepare_next(owner: str, *, stopping: threading.Event) -> bool:
    """Check the oldest waiting input, if there is one; whether there was."""
    preparation = inputs.claim_next(owner)
    if preparation is None:
        return False
    folder = settings().work_dir / f"{preparation.id}-{preparation.fence}"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _prepare(preparation, folder, stopping)
    except Fenced:
        log.warning("another worker took the input over", input=preparation.id)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    jobs.settle_waiting()
    return True


def _prepare(preparation: Preparation, folder: Path, stopping: threading.Event) -> None:
    try:
        teacher_files.check_request(preparation.request)
    except InputError as error:
        inputs.failed(preparation, error)
        return
    packed = folder / "prepared.safetensors"
    source = str(Path(preparation.request["source"]).resolve())
    limits = {"teacher": settings().teacher_check_seconds, "dataset": settings().dataset_check_seconds}
    seconds = limits[preparation.request["kind"]]
    order = {**preparation.request, "source": source, "target": str(packed.resolve()), "cpu_seconds": seconds}
    child = Child("worker.ingest_process", order=order, cwd=folder, env=bare_environment(folder))
    answer = None
    renewed = time.monotonic()
    while True:
        if time.monotonic() - renewed > settings().lease_seconds / 3:
            _renew(preparation, child)
            renewed = time.monotonic()
        try:
            message = child.messages.get(timeout=0.2)
        except queue.Empty:
            if stopping.is_set():
                child.kill()
                child.wait()
                inputs.release(preparation)
                return
            continue
        if message is None:
            break
        answer = message
    code = child.wait()
    if answer is None and code == -signal.SIGXCPU:  # it would take as long again
        message_text = f"Checking it takes more than {seconds:,} seconds of the processor's time."
        inputs.failed(preparation, InputError("unsafe_file", message_text, hint="Send a smaller one."))
    elif answer is None and preparation.fence < _MAX_ATTEMPTS:
        log.warning("the checker died; it is tried again", input=preparation.id, code=code, log=child.log_excerpt())
        inputs.release(preparation)
    elif answer is None:
        message_text = f"Reading it failed {preparation.fence} times (exit code {code})."
        inputs.failed(preparation, InputError("unsafe_file", message_text, hint="Is the file whole and ordinary?"))
    elif "error" in answer:
        inputs.failed(preparation, DistillError.from_json(answer["error"]))
    else:
        inputs.ready(preparation, report=answer["report"], packed=packed if packed.exists() else None)


def _renew(preparation: Preparation, child: Child) -> None:
    try:
        inputs.renew(preparation)
    except Fenced:
        child.kill()
        child.wait()
        raise
