"""Data sets from URLs, by the worker's own duties and its child processes, on both databases."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from distill.spec import DistillSpec
from models import Dataset, InputStatus
from service import database as database_module
from service import inputs, jobs, remote, sources, uploads
from service.artifacts import store
from service.errors import Fenced, Invalid, TooLarge
from service.settings import settings
from tests.fixtures.https_files import Files
from tests.fixtures.processes import offspring
from worker import holding
from worker.fetcher import fetch_next
from worker.preparer import prepare_next

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture
def files(trusted_files: Files, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """The tiny data set on the server, which the operator lets in."""
    trusted_files.content = tiny_npz.read_bytes()
    setting(monkeypatch, "REMOTE_ALLOW_HOSTS", trusted_files.host)
    return trusted_files


def setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"LIMBECK_{name}", value)
    settings.cache_clear()


def registered(url: str, *, sha256: str | None = None, format: str = "auto") -> str:
    return remote.create_dataset(url, sha256=sha256, format=format).id


def work() -> None:
    """Do what a worker would do, once."""
    stopping = threading.Event()
    while fetch_next("tester", stopping=stopping) or prepare_next("tester", stopping=stopping):
        pass


def fetch() -> None:
    """Do the first half of it."""
    while fetch_next("tester", stopping=threading.Event()):
        pass


def row(dataset_id: str) -> Dataset:
    return inputs.get(Dataset, dataset_id)


def error_of(dataset_id: str) -> dict[str, Any]:
    found = row(dataset_id)
    assert found.status == InputStatus.ERROR
    assert found.error is not None
    assert "secret" not in f"{found.error} {found.url} {found.fetch} {found.filename}"
    return found.error


def stored() -> list[str]:
    folder = settings().artifacts_dir
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_from_a_url_to_a_data_set_that_is_ready(files: Files) -> None:
    digest = hashlib.sha256(files.content).hexdigest()
    made = registered(files.url("sets/tiny.npz?X-Signature=secret"), sha256=digest)
    before = row(made)
    assert (before.url, before.filename, before.size) == (files.url("sets/tiny.npz"), "tiny.npz", 0)
    assert inputs.claim_next("another") is None  # there is nothing to check yet
    work()
    found = row(made)
    assert (found.status, found.error) == ("ready", None)
    assert (found.sha256, found.size, found.format) == (digest, len(files.content), "npz")
    assert found.fetch is not None
    assert found.fetch["etag"] == '"v1"'
    assert found.report["splits"]["train"]["images"] == 128
    assert "secret" not in str(found.fetch)
    assert files.seen[0][0] == "/sets/tiny.npz?X-Signature=secret"
    assert list(settings().work_dir.iterdir()) == []
    assert stored() == sorted([found.source_key, found.key])
    inputs.delete(Dataset, made)
    assert stored() == []


def test_from_a_bucket(bucket: Any, s3_url: str, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put_object(Key="sets/tiny.npz", Body=tiny_npz.read_bytes())
    with pytest.raises(Invalid, match="not a bucket that is read here"):
        registered("s3://images/sets/tiny.npz")
    setting(monkeypatch, "REMOTE_BUCKETS", "others, images")
    setting(monkeypatch, "S3_ENDPOINT_URL", s3_url)
    made = registered("s3://images/sets/tiny.npz")
    work()
    found = row(made)
    assert (found.status, found.error) == ("ready", None)
    assert (found.url, found.size) == ("s3://images/sets/tiny.npz", tiny_npz.stat().st_size)


def test_a_job_waits_for_its_url(files: Files, body: dict[str, Any]) -> None:
    body = {**body, "dataset": {"url": files.url("tiny.npz?sig=secret")}}
    job = jobs.submit(DistillSpec.model_validate(body))
    assert job.status_reason == "waiting for the dataset to be checked"
    assert job.spec["dataset"]["url"] == files.url("tiny.npz")
    assert "secret" not in f"{job.spec} {job.facts}"
    work()
    with database_module.read() as session:
        job = session.get_one(type(job), job.id)
    assert (job.status, job.error) == ("queued", None)
    assert job.facts["dataset"]["sha256"] == row(job.dataset_id).sha256
    assert job.dispatched_at is not None


def test_a_job_whose_url_fails_says_why(files: Files, body: dict[str, Any]) -> None:
    files.statuses = [404]
    job = jobs.submit(DistillSpec.model_validate({**body, "dataset": {"url": files.url("a?sig=secret")}}))
    fetch()
    with database_module.read() as session:
        job = session.get_one(type(job), job.id)
    assert job.error is not None
    assert (job.status, job.error["code"], job.error["param"]) == ("failed", "dataset_unreadable", "/dataset")
    assert job.error["message"] == f"{files.host} answered 404."


def test_another_hash(files: Files) -> None:
    made = registered(files.url("a?sig=secret"), sha256="0" * 64)
    fetch()
    assert error_of(made)["code"] == "upload_corrupt"
    assert stored() == []


def test_what_is_no_data_set_is_refused_as_an_upload_would_be(files: Files) -> None:
    files.content = b"<!doctype html><p>Please log in."
    made = registered(files.url("a.zip"))
    fetch()
    assert error_of(made)["code"] == "unsupported_format"
    assert stored() == []


def test_another_format_than_asked_for(files: Files) -> None:
    made = registered(files.url(), format="imagefolder")
    fetch()
    assert error_of(made)["code"] == "unsupported_format"


def test_a_file_over_the_size_of_uploads(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    setting(monkeypatch, "MAX_UPLOAD_BYTES", "100")
    made = registered(files.url())
    fetch()
    assert error_of(made)["code"] == "too_large"


def test_the_quota_counts_what_is_fetched(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(files.content)
    setting(monkeypatch, "UPLOAD_QUOTA_BYTES", str(2 * size + 10))
    first, second = registered(files.url()), registered(files.url())
    fetch()
    third = registered(files.url())
    fetch()
    assert all(row(each).source_key for each in (first, second))
    assert error_of(third)["code"] == "quota_exceeded"
    with pytest.raises(TooLarge):
        uploads.create("a", size=11, purpose="dataset", sha256=None)
    inputs.delete(Dataset, first)
    uploads.create("a", size=11, purpose="dataset", sha256=None)


def test_the_workers_own_operator_has_a_say(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    made = registered(files.url())
    setting(monkeypatch, "REMOTE_ALLOW_HOSTS", "")
    fetch()
    error = error_of(made)
    assert (error["code"], files.seen) == ("invalid_value", [])


def test_a_certificate_that_nobody_trusts(https_files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    setting(monkeypatch, "REMOTE_ALLOW_HOSTS", https_files.host)
    made = registered(https_files.url())
    monkeypatch.setattr("worker.fetcher._TRIES", 1)
    fetch()
    error = error_of(made)
    assert error["code"] == "dataset_unreadable"
    assert "certificate" in error["message"]


def under_way(stopping: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=fetch_next, args=("tester",), kwargs={"stopping": stopping})
    thread.start()
    return thread


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "not within 30 s"
        time.sleep(0.02)


def fetchers() -> list[psutil.Process]:
    return [process for process in offspring(settings().work_dir) if "worker.remote_process" in process.cmdline()]


def test_progress_is_told_and_a_stopping_worker_lets_go_at_once(files: Files) -> None:
    files.pause = 60
    made = registered(files.url("a?sig=secret"))
    stopping = threading.Event()
    thread = under_way(stopping)
    wait_for(lambda: (row(made).fetch or {}).get("total") == len(files.content))
    assert row(made).size == len(files.content)  # which the quota counts from now on
    stopping.set()
    thread.join(10)
    assert not thread.is_alive()
    assert fetchers() == []
    assert list(settings().work_dir.iterdir()) == []
    found = row(made)
    assert (found.status, found.lease_until) == ("processing", None)
    files.pause = 0
    fetch()
    assert row(made).source_key != ""


def test_a_data_set_that_is_deleted_meanwhile_is_not_fetched_on(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    setting(monkeypatch, "LEASE_SECONDS", "0.6")
    files.pause = 60
    made = registered(files.url())
    thread = under_way(threading.Event())
    wait_for(lambda: files.seen)
    inputs.delete(Dataset, made)
    thread.join(20)
    assert not thread.is_alive()
    assert fetchers() == []
    assert list(settings().work_dir.iterdir()) == []
    assert stored() == []


def test_one_that_is_deleted_before_it_is_recorded_leaves_no_file(files: Files, tmp_path: Path) -> None:
    made = registered(files.url())
    hold = remote.claim_next("tester")
    assert hold is not None
    path = tmp_path / "fetched"
    path.write_bytes(files.content)
    inputs.delete(Dataset, made)
    with pytest.raises(Fenced):
        remote.arrived(hold, path, {"size": 1, "sha256": "", "etag": None})
    assert stored() == []


@pytest.fixture
def cramped(files: Files) -> Iterator[None]:
    """No file of this process and its children may have more than 4 MiB, which is less than the data set's."""
    draw, content = np.random.default_rng(0), io.BytesIO()
    images = draw.integers(0, 256, (400, 128, 128), dtype=np.uint8)
    np.savez(content, x_train=images, y_train=np.arange(400) % 4)
    files.content = content.getvalue()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 * 2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_is_full_where_the_fetcher_writes(files: Files, cramped: None) -> None:
    made = registered(files.url())
    fetch()
    assert error_of(made)["code"] == "storage_full"
    assert list(settings().work_dir.iterdir()) == []


def test_a_disk_that_is_full_where_it_is_kept(files: Files, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    made = registered(files.url())
    hold = remote.claim_next("tester")
    assert hold is not None
    request.getfixturevalue("cramped")
    path = tmp_path / "fetched"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before[1], before[1]))
    path.write_bytes(files.content)
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    remote.arrived(hold, path, {"size": path.stat().st_size, "sha256": "", "etag": None})
    assert error_of(made)["code"] == "storage_full"
    assert stored() == []


def test_the_lease_outlasts_a_slow_host(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    setting(monkeypatch, "LEASE_SECONDS", "1.5")
    files.pause = 4
    made = registered(files.url())
    thread = under_way(threading.Event())
    wait_for(lambda: files.seen)
    while thread.is_alive():
        assert remote.claim_next("thief") is None
        time.sleep(0.2)
    assert row(made).fence == 1
    assert row(made).source_key != ""


def test_a_fetcher_that_dies_is_tried_again_and_not_for_ever(files: Files) -> None:
    files.pause = 60
    made = registered(files.url())
    for _ in range(3):
        thread, before = under_way(threading.Event()), len(files.seen)
        wait_for(lambda before=before: len(files.seen) > before)
        for process in fetchers():
            process.kill()
        thread.join(10)
        assert not thread.is_alive()
    error = error_of(made)
    assert (error["code"], "3 times" in error["message"]) == ("dataset_unreadable", True)
    assert remote.claim_next("another") is None


def test_a_killed_worker_leaves_nothing_behind(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    setting(monkeypatch, "LEASE_SECONDS", "0.5")
    made = registered(files.url())
    lost = remote.claim_next("killed")
    assert lost is not None
    left = settings().work_dir / f"{made}-{lost.fence}"
    left.mkdir(parents=True)
    (left / "fetched").write_bytes(b"half")
    stray = settings().work_dir / "dj_1-1"
    stray.mkdir()
    assert holding.clear_folders() == 0  # it may still be alive
    store().put(sources.fetched_key(row(made), fence=lost.fence), left / "fetched")  # stored, and never told of
    time.sleep(0.6)
    assert holding.clear_folders() == 1
    assert [path.name for path in settings().work_dir.iterdir()] == ["dj_1-1"]  # a job's is not ours
    fetch()
    found = row(made)
    assert found.fence == 2
    assert stored() == [found.source_key]


def test_what_a_killed_writer_left_in_the_store_is_cleared_away_later(files: Files) -> None:
    folder = settings().artifacts_dir / "remote"
    folder.mkdir(parents=True)
    for name, age in ((".a.zip.1.tmp", 7200), (".b.zip.2.tmp", 60), ("c.zip", 7200)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    assert store().tidy() == 1
    assert stored() == ["remote/.b.zip.2.tmp", "remote/c.zip"]


def test_the_fetcher_sees_nothing_of_the_workers_environment(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("SOME_TOKEN", "secret")
    files.pause = 60
    registered(files.url())
    stopping = threading.Event()
    thread = under_way(stopping)
    wait_for(lambda: files.seen)
    seen = fetchers()[0].environ()
    stopping.set()
    thread.join(10)
    assert "secret" not in seen.values()
    assert not [name for name in seen if name.startswith(("LIMBECK_", "AWS_"))]
    assert seen["SSL_CERT_FILE"] == os.environ["SSL_CERT_FILE"]
