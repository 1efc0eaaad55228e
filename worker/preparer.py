"""Checking uploaded teachers and data sets in full, one at a time, each in a confined child process."""

from __future__ import annotations

import queue
import signal
import threading
from pathlib import Path

from distill.errors import DistillError, InputError
from service import inputs, jobs, teacher_files
from service.errors import Fenced
from service.inputs import Preparation
from service.logs import logger
from service.settings import settings
from worker.children import Child, bare_environment
from worker.holding import folder_of, renewed

log = logger(__name__)

_MAX_ATTEMPTS = 3


def prepare_next(owner: str, *, stopping: threading.Event) -> bool:
    """Check the oldest waiting input, if there is one; whether there was."""
    preparation = inputs.claim_next(owner)
    if preparation is None:
        return False
    with folder_of(preparation) as folder, renewed(preparation) as lost:
        try:
            _prepare(preparation, folder, stopping, lost)
        except Fenced:
            log.warning("another worker took the input over", input=preparation.id)
    jobs.settle_waiting()
    return True


def _prepare(preparation: Preparation, folder: Path, stopping: threading.Event, lost: threading.Event) -> None:
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
    while True:
        if lost.is_set():
            child.kill()
            child.wait()
            raise Fenced(preparation.id)
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
    elif answer is None and preparation.tries < _MAX_ATTEMPTS:
        log.warning("the checker died; it is tried again", input=preparation.id, code=code, log=child.log_excerpt())
        inputs.release(preparation)
    elif answer is None:
        message_text = f"Reading it failed {preparation.tries} times (exit code {code})."
        hint = "Look whether the file is whole and ordinary, save it anew and upload that; or send less at once."
        inputs.failed(preparation, InputError("unsafe_file", message_text, hint=hint))
    elif "error" in answer:
        inputs.failed(preparation, DistillError.from_json(answer["error"]))
    else:
        inputs.ready(preparation, report=answer["report"], packed=packed if packed.exists() else None)
