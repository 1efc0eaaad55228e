"""The whole corpus against a whole service: each file gets its published code, and nothing else happens."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from tests.fixtures import tiny
from tests.fixtures.processes import offspring
from tests.fixtures.served import served
from tests.hostile.case import Hostile
from tests.hostile.corpus import CORPUS
from tests.hostile.pickles import MARKER, PICKLES

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

log = logging.getLogger(__name__)

LIMIT = 2.0
"""Seconds to a code. At a load of 7 on two cores the API took 1.5 at most, the worker 0.5 to 6, of which most is the
start of a process, and of PyTorch for teachers and sound data."""
SLOW = 10.0
"""How much longer it may take on a machine that does much else."""
CHECK_SECONDS = 10
"""Of the processor, that a teacher's check may take here; one file of the corpus would take hours."""
MEMORY = 50 * 2**20
"""That the API may have grown by when a kind is through; measured: up to 49 MB at the highest, in between."""
NUMBER = sum(map(len, CORPUS.values()))


@dataclass(frozen=True)
class Refusal:
    """What became of a file: its code (None: ready), what is said of it, who said it, and after how many seconds."""

    code: str | None
    hint: str
    by_worker: bool
    seconds: float


@dataclass(frozen=True)
class Service:
    """A running service and its two processes, with all that lies around its data folder."""

    client: httpx.Client
    place: Path
    api: psutil.Process
    worker: psutil.Process
    memory: int = 0
    """Bytes that the API had resident when the first hostile file came."""

    def surroundings(self) -> dict[str, str]:
        """Every file outside of the data folder, by its hash; what is no file, by its kind."""
        return {
            str(path.relative_to(self.place)): hashlib.sha256(path.read_bytes()).hexdigest()
            if path.is_file()
            else "folder"
            if path.is_dir()
            else "other"
            for path in sorted(self.place.rglob("*"))
            if self.place / "data" not in path.parents
        }

    def upload(self, content: bytes, purpose: str, filename: str) -> str:
        told = {"filename": filename, "bytes": len(content), "purpose": purpose}
        upload_id = str(self.client.post("/uploads", json=told).raise_for_status().json()["id"])
        self.client.put(f"/uploads/{upload_id}/content", content=content).raise_for_status()
        self.client.post(f"/uploads/{upload_id}/complete").raise_for_status()
        return upload_id

    def send(self, hostile: Hostile) -> Refusal:
        """Upload it, ask for a teacher or a data set of it, and wait for what is said."""
        upload_id = self.upload(hostile.build(), hostile.purpose, hostile.filename)
        start = time.monotonic()
        answer = self.client.post(f"/{hostile.purpose}s", json={"upload_id": upload_id, **hostile.asked})
        if answer.status_code != 202:
            seconds = time.monotonic() - start
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.status_code == 422, answer.text
            (flaw,) = answer.json()["errors"]
            return Refusal(flaw["code"], flaw["hint"], False, seconds)
        row = self.settled(f"/{hostile.purpose}s", answer.json()["id"])
        error = row["error"] or {"code": None, "hint": ""}
        return Refusal(error["code"], error["hint"], True, time.monotonic() - start)

    def settled(self, route: str, row_id: str) -> dict[str, Any]:
        """The row once it is no longer waiting or at work."""
        deadline = time.monotonic() + 200
        while True:
            row: dict[str, Any] = self.client.get(f"{route}/{row_id}").raise_for_status().json()
            if row["status"] not in ("processing", "queued", "running"):
                return row
            assert time.monotonic() < deadline, row
            time.sleep(0.1)

    def serves(self, teacher: Path, images: Path, *, job: bool) -> None:
        """A sound teacher and a sound data set become ready, and a job of both gives a student."""
        ids = {}
        for purpose, path, asked in (("teacher", teacher, tiny.TEACHER), ("dataset", images, {})):
            upload_id = self.upload(path.read_bytes(), purpose, path.name)
            made = self.client.post(f"/{purpose}s", json={"upload_id": upload_id, **asked}).raise_for_status()
            ids[purpose] = made.json()["id"]
            assert self.settled(f"/{purpose}s", ids[purpose])["status"] == "ready"
        if job:
            training = {"epochs": 1, "batch_size": 64, "baseline": False}
            body = {
                "teacher": {"id": ids["teacher"]},
                "dataset": {"id": ids["dataset"]},
                "student": tiny.STUDENT,
                "training": training,
            }
            made = self.client.post("/distill", json=body).raise_for_status()
            assert self.settled("/distill", made.json()["id"])["status"] == "succeeded"


@contextmanager
def running(place: Path, **settings: str) -> Iterator[Service]:
    """A service in ``place/data``, whose home, temporary folder and working folder are beside it."""
    folders = {name: place / name for name in ("home", "tmp", "cwd")}
    for folder in folders.values():
        folder.mkdir()
    environment = {"HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "XDG_CACHE_HOME": "", **settings}
    with (
        served(
            place / "data", cwd=folders["cwd"], LIMBECK_TEACHER_CHECK_SECONDS=str(CHECK_SECONDS), **environment
        ) as url,
        httpx.Client(base_url=url, timeout=120, trust_env=False) as client,
    ):
        api, worker = (process_called(place / "data", word) for word in ("serve", "work"))
        yield Service(client, place, api, worker)


def process_called(folder: Path, word: str) -> psutil.Process:
    (found,) = [process for process in offspring(folder) if word in process.cmdline()]
    return found


def published_codes() -> set[str]:
    return set(re.findall(r"^\| `(\w+)`", Path("docs/errors.md").read_text(), flags=re.MULTILINE))


def peak_memory(process: psutil.Process) -> int:
    """The most that was resident since :func:`forget_peak`, in bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak(process: psutil.Process) -> None:
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_teacher: TeacherFile, tiny_npz: Path) -> Iterator[Service]:
    """One that is sound at the end, too: the same worker, nothing left and nothing changed, and a job that succeeds."""
    place = tmp_path_factory.mktemp("served")
    with running(place, LIMBECK_ALLOW_PICKLE="1") as made:
        made.serves(tiny_teacher.path, tiny_npz, job=False)
        around = made.surroundings()
        forget_peak(made.api)
        made = replace(made, memory=made.api.memory_info().rss)
        yield made
        assert made.surroundings() == around
        assert list((place / "data" / "work").iterdir()) == []
        assert not [path for path in place.rglob("*") if MARKER in path.name or path.name.endswith(".tmp")]
        assert not list(Path("/tmp").glob(f"{MARKER}*"))
        assert made.api.is_running()
        assert process_called(place / "data", "work").pid == made.worker.pid
        made.serves(tiny_teacher.path, tiny_npz, job=True)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of memory are read from /proc")
@pytest.mark.parametrize("kind", CORPUS)
def test_each_gets_its_code_and_the_service_stays_well(kind: str, service: Service) -> None:
    cases = CORPUS[kind]

    found = {name: service.send(hostile) for name, hostile in cases.items()}

    growth, peak = service.api.memory_info().rss - service.memory, peak_memory(service.api) - service.memory
    tell(kind, found, growth, peak)
    assert {name: refusal.code for name, refusal in found.items()} == {name: h.code for name, h in cases.items()}
    assert {name for name, refusal in found.items() if refusal.by_worker != cases[name].by_worker} == set()
    assert {name for name, refusal in found.items() if refusal.code and not refusal.hint} == set()
    assert {refusal.code for refusal in found.values()} - {None} <= published_codes()
    late = {name: refusal.seconds for name, refusal in found.items() if refusal.seconds > LIMIT * SLOW}
    assert late.keys() <= {"products that take hours"}
    assert growth < MEMORY
    assert peak < 2 * MEMORY


def tell(kind: str, found: Mapping[str, Refusal], growth: int, peak: int) -> None:
    """The figures, for ``pytest --log-cli-level=WARNING``."""
    log.warning("%s: %d files; API's memory: %+.1f MB, %+.1f at most", kind, len(found), growth / 2**20, peak / 2**20)
    for by_worker in (False, True):
        slowest = sorted(((round(r.seconds, 2), name) for name, r in found.items() if r.by_worker == by_worker))[-3:]
        log.warning("%s, the worker: %s, the slowest of %d: %s", kind, by_worker, len(found), slowest)


def test_where_pickles_are_not_allowed_none_is_looked_into(tmp_path: Path) -> None:
    with running(tmp_path) as service:
        found = {name: service.send(hostile) for name, hostile in PICKLES.items()}

    assert {refusal.code for refusal in found.values()} == {"unsupported_format"}
    assert not any(refusal.by_worker for refusal in found.values())
    assert all("safetensors" in refusal.hint for refusal in found.values())
    assert max(refusal.seconds for refusal in found.values()) < LIMIT * SLOW


def test_the_corpus_has_every_kind() -> None:
    assert NUMBER >= 40
    assert min(map(len, CORPUS.values())) >= 15
