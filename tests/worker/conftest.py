"""Real workers as processes, on a real broker and a real database, with tiny real jobs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from distill.spec import DistillSpec, TeacherTraits
from distill.teacher_files import TeacherFile
from models import Job
from service import database as database_module
from service import inputs, job_views, jobs, uploads
from service import settings as settings_module
from tests.fixtures.tiny import STUDENT

# Each of the processes that share the tests (gw0, gw1, ...) empties a database of its own.
_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
REDIS = os.environ.get("LIMBECK_TEST_REDIS_URL", f"redis://127.0.0.1:6379/{15 - _NUMBER}")


def _python_path() -> str:
    return os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH")]))


@dataclass
class Stack:
    """Database and broker of a test, and the workers that it starts."""

    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_worker(self) -> subprocess.Popen[bytes]:
        worker = subprocess.Popen(
            [sys.executable, "-c", "from worker.app import start_worker; start_worker()"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _python_path()},
        )
        self.workers.append(worker)
        return worker

    @staticmethod
    def freeze(worker: subprocess.Popen[bytes], job_id: str) -> None:
        """Stop a worker outside any transaction: frozen within one it would keep its lock (decision 0004)."""
        for _ in range(100):
            os.kill(worker.pid, signal.SIGSTOP)
            wait_for(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED, what="the worker to stop")
            if _lockable(job_id):
                return
            os.kill(worker.pid, signal.SIGCONT)
            time.sleep(0.03)
        raise AssertionError("the worker was in a transaction whenever it was looked at")

    def stop(self) -> None:
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGCONT)
                worker.terminate()
        for worker in self.workers:
            try:
                worker.wait(20)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    @staticmethod
    def trainers() -> list[psutil.Process]:
        """All trainer processes of this machine that belong to this test's data folder."""
        folder = str(settings_module.settings().work_dir)
        found = []
        for process in psutil.process_iter(["cmdline"]):
            try:
                if "worker.trainer_process" in (process.info["cmdline"] or []) and process.cwd().startswith(folder):
                    found.append(process)
            except psutil.Error:
                continue  # it ended while it was looked at
        return [p for p in found if p.status() != psutil.STATUS_ZOMBIE]


def _lockable(job_id: str) -> bool:
    """Whether nobody holds a lock that would keep others from the job."""
    url = database_module.engine().url
    if url.get_backend_name() == "sqlite":
        assert url.database is not None
        with contextlib.closing(sqlite3.connect(url.database, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            connection.execute("ROLLBACK")
        return True
    with database_module.engine().connect() as connection:
        try:
            connection.execute(select(Job.id).where(Job.id == job_id).with_for_update(nowait=True))
        except OperationalError:
            return False
    return True


@pytest.fixture
def stack(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """SQLite with the embedded broker, and PostgreSQL with Redis."""
    for name, value in {"LEASE_SECONDS": "4", "SWEEP_SECONDS": "0.5", "REDISPATCH_SECONDS": "2"}.items():
        monkeypatch.setenv(f"LIMBECK_{name}", value)
    with _broker(database, tmp_path) as url:
        monkeypatch.setenv("LIMBECK_BROKER_URL", url)
        settings_module.settings.cache_clear()
        made = Stack()
        try:
            yield made
        finally:
            made.stop()


def _broker(database: str, tmp_path: Path) -> Any:
    if database == "sqlite":
        from service.broker import EmbeddedBroker

        return _Embedded(EmbeddedBroker(tmp_path / "data"))
    return _Redis()


class _Embedded:
    def __init__(self, broker: Any) -> None:
        self.broker = broker

    def __enter__(self) -> str:
        return str(self.broker.__enter__().url)

    def __exit__(self, *error: Any) -> None:
        self.broker.__exit__(*error)


class _Redis:
    def __enter__(self) -> str:
        import redis

        self.client = redis.Redis.from_url(REDIS, socket_connect_timeout=2)
        try:
            self.client.flushdb()
        except redis.ConnectionError:
            pytest.skip(f"no Redis answers at {REDIS}")
        return REDIS

    def __exit__(self, *_error: object) -> None:
        self.client.flushdb()
        self.client.close()


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    pytest.importorskip("moto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=5).close()
                break
            assert time.monotonic() < end, "moto's server does not answer"
            time.sleep(0.1)
        yield url
        server.terminate()


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket `images`, and the credentials for it."""
    for name, value in {"ACCESS_KEY_ID": "id", "SECRET_ACCESS_KEY": "key", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    boto3 = pytest.importorskip("boto3")
    store = boto3.resource("s3", endpoint_url=s3_url)
    made = store.create_bucket(Bucket="images")
    yield made
    made.objects.delete()
    made.delete()


@pytest.fixture
def upload(stack: Stack) -> Callable[[Path, Any], str]:
    """Send a file for a purpose; the upload's id."""

    def send(path: Path, purpose: Any) -> str:
        made = uploads.create(path.name, size=path.stat().st_size, purpose=purpose, sha256=None)
        shutil.copy(path, uploads.path_of(made))
        return uploads.complete(made.id).id

    return send


@pytest.fixture
def submit(upload: Callable[[Path, Any], str], tiny_npz: Path, tiny_teacher: TeacherFile) -> Callable[..., str]:
    """Submit a job on the tiny teacher and data, given inline; its id."""
    known: dict[str, str] = {}

    def make(*, outputs: list[str] | None = None, student: dict[str, Any] | None = None, **training: Any) -> str:
        if not known:
            traits = TeacherTraits(options=tiny_teacher.options)
            teacher = upload(tiny_teacher.path, "teacher")
            known["teacher"] = inputs.create_teacher(teacher, architecture="resnet8", traits=traits).id
            known["dataset"] = inputs.create_dataset(upload(tiny_npz, "dataset"), format="auto").id
        body = {
            "teacher": {"id": known["teacher"]},
            "dataset": {"id": known["dataset"]},
            "student": student or STUDENT,
            "training": {"epochs": 3, "batch_size": 16, "baseline": False, **training},
            "outputs": outputs or ["safetensors"],
        }
        return jobs.submit(DistillSpec.model_validate(body)).id

    return make


def wait_for(condition: Callable[[], Any], *, seconds: float = 60.0, what: str = "") -> Any:
    """The first true value of a condition that is asked again and again."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what}")


@pytest.fixture
def until() -> Callable[..., Job]:
    """Wait until a job satisfies a condition; the job."""

    def wait(job_id: str, condition: Callable[[Job], Any], *, seconds: float = 60.0) -> Job:
        def check() -> Job | None:
            job = job_views.get(job_id)
            return job if condition(job) else None

        try:
            found: Job = wait_for(check, seconds=seconds)
        except AssertionError as error:
            job = job_views.get(job_id)
            said = [(e.type, e.data) for e in job_views.events(job_id)][-8:]
            raise AssertionError(f"{error} status {job.status}, step {job.step}, error {job.error}, {said}") from None
        return found

    return wait
