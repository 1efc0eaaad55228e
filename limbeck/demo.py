"""`limbeck demo`: the whole road once, on real images: service up, job in, student out, service down."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from limbeck.children import spawn, stop
from limbeck.client import Client
from limbeck.console import bytes_text, say, transfer
from limbeck.errors import CommandError, LimbeckError
from limbeck.instance import running_instance
from limbeck.report import conclusion, report_table
from limbeck.results import Job
from limbeck.submit import read_request, send
from limbeck.watch import outcome, watch

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "fashion-mnist" / "demo.json"
STUDENT = Path("demo-student") / "student.safetensors"
_DEFAULT_PORT = 8000
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_CANCEL_SECONDS = 10.0


def demo(*, out: Console, example: Path = EXAMPLE, student: Path = STUDENT) -> int:
    """Distil the shipped teacher into a small student and show what it was worth; the exit code.

    Raises:
        LimbeckError: as the parts it is made of.
    """
    started = time.monotonic()
    request = read_request(example)
    data_dir = Path(os.environ.get("LIMBECK_DATA_DIR") or ".limbeck/demo").resolve()
    with service(data_dir, out=out) as url, Client(url) as client:
        job = send(client, request, out=out)
        say(out, f"job {job['id']} is in; watch it here or at {url}/\n")
        job = _watch_or_cancel(client, job["id"], out=out)
        if job["status"] != "succeeded":
            say(out, outcome(job), style="red")
            return 1
        with transfer(out, "fetching the student") as on_progress:
            digest = client.download(job["id"], "student.safetensors", path=student, on_progress=on_progress)
        report = client.report(job["id"])
        out.print()
        out.print(report_table(report))
        say(out, conclusion(report))
        say(out, f"\nStudent: {student} ({bytes_text(student.stat().st_size)}, sha256 {digest[:12]}... checked)")
        say(out, f"Page:    {url}/ (opened again by `make serve`)")
        say(out, f"Took {time.monotonic() - started:.0f} s.")
    return 0


def _watch_or_cancel(client: Client, job_id: str, *, out: Console) -> Job:
    """Follow the job; Ctrl-C cancels it, or it would go on first when the demo is started again."""
    try:
        return watch(client, job_id, out=out)
    except KeyboardInterrupt:
        say(out, "cancelling the job ...")
        with contextlib.suppress(LimbeckError):
            client.cancel(job_id)
            deadline = time.monotonic() + _CANCEL_SECONDS
            while not client.job(job_id)["is_terminal"] and time.monotonic() < deadline:
                time.sleep(0.1)
        raise


@contextlib.contextmanager
def service(data_dir: Path, *, out: Console, port: int | None = None) -> Iterator[str]:
    """The URL of the service on a data folder: the one that runs, or one started for the block.

    Args:
        data_dir: where everything is kept.
        out: what is said goes there.
        port: 0 takes a free one; None the usual one, if it is free.

    Raises:
        CommandError: it does not start.
    """
    if running := running_instance(data_dir):
        say(out, f"using the service that runs at {running.url}")
        yield running.url
        return
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_path = data_dir / "serve.log"
    if port is None:
        port = _DEFAULT_PORT if _is_free(_DEFAULT_PORT) else 0
    with log_path.open("wb") as log:
        process = spawn(["serve", "--port", str(port), "--data-dir", str(data_dir)], output=log)
    try:
        yield _wait_until_ready(process, data_dir, log_path, out=out)
    finally:
        say(out, "stopping the service ...")
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], data_dir: Path, log_path: Path, *, out: Console) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        running = running_instance(data_dir)
        if running and running.pid == process.pid:
            say(out, f"service started at {running.url} (data in {data_dir})")
            return running.url
        time.sleep(0.05)
    tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-15:])
    raise CommandError(f"the service did not start; {log_path} ends with:\n{tail}", exit_code=1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the service; another Ctrl-C makes it hurry."""
    try:
        stop(process, grace=_STOP_SECONDS)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        stop(process, grace=5.0)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
