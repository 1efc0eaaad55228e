"""Checking teachers and data sets in full, one at a time, each in a confined child process; another one fetches."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.errors import DistillError, InputError
from service import hub, inputs, jobs, teacher_files
from service.errors import Fenced
from service.inputs import Preparation
from service.logs import logger
from service.settings import settings
from worker.children import Child, bare_environment, network_environment
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


class _Stopped(Exception):
    """The worker is to end."""


class _Died(Exception):
    """A child ended without an answer."""


def _prepare(preparation: Preparation, folder: Path, stopping: threading.Event, lost: threading.Event) -> None:
    packed = folder / "prepared.safetensors"
    try:
        teacher_files.check_request(preparation.request)
        order = _order(preparation, folder, stopping, lost)
        limits = {"teacher": settings().teacher_check_seconds, "dataset": settings().dataset_check_seconds}
        order |= {"target": str(packed.resolve()), "cpu_seconds": limits[order["kind"]]}
        environment = bare_environment(folder)
        answer = _ask(preparation, "worker.ingest_process", order, folder, environment, stopping, lost)
        inputs.ready(preparation, report=_origin(order) | answer["report"], packed=packed if packed.exists() else None)
    except _Stopped:
        inputs.release(preparation)
    except _Died as died:
        if preparation.tries < _MAX_ATTEMPTS:
            log.warning("the checker died; it is tried again", input=preparation.id, died=str(died))
            inputs.release(preparation)
        else:
            message = f"Reading it failed {preparation.tries} times ({str(died)[:200]})."
            hint = "Look whether the file is whole and ordinary, save it anew and upload that; or send less at once."
            inputs.failed(preparation, InputError("unsafe_file", message, hint=hint))
    except DistillError as error:
        inputs.failed(preparation, error)


def _order(preparation: Preparation, folder: Path, stopping: threading.Event, lost: threading.Event) -> dict[str, Any]:
    """What the checker is told; what lies on a hub has been fetched then."""
    request = preparation.request
    if "hub" not in request:
        return {**request, "source": str(Path(request["source"]).resolve())}
    hub.check_allowed()
    source = folder.resolve() / "hub"
    source.mkdir()
    order = {
        **request["hub"],
        "url": settings().hub_url,
        "max_bytes": settings().max_upload_bytes,
        "folder": str(source),
    }
    fetched = _ask(preparation, "worker.fetch_process", order, folder, network_environment(folder), stopping, lost)
    return {**request, "source": str(source), "hub": {**request["hub"], **fetched}}


def _origin(order: Mapping[str, Any]) -> dict[str, Any]:
    """What the report tells of a hub."""
    return {"hub": order["hub"]} if "hub" in order else {}


def _ask(
    preparation: Preparation,
    module: str,
    order: dict[str, Any],
    folder: Path,
    environment: Mapping[str, str],
    stopping: threading.Event,
    lost: threading.Event,
) -> dict[str, Any]:
    """The answer of a child process.

    Raises:
        DistillError: its answer is one.
        Fenced: another worker took the input over; the child is gone then, as in the other cases.
        _Stopped: the worker is to end.
        _Died: it gave no answer.
    """
    child = Child(module, order=order, cwd=folder, env=environment)
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
                raise _Stopped from None
            continue
        if message is None:
            break
        answer = message
    code = child.wait()
    if answer is None and code == -signal.SIGXCPU:  # it would take as long again
        limit = f"Checking it takes more than {order['cpu_seconds']:,} seconds of the processor's time."
        raise InputError("unsafe_file", limit, hint="Send a smaller one.")
    if answer is None:
        log.warning("a child died", module=module, input=preparation.id, code=code, log=child.log_excerpt())
        raise _Died(f"exit code {code}")
    if "error" in answer:
        raise DistillError.from_json(answer["error"])
    return answer
