from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from distill import events

CONTENT = bytes(range(256)) * 5000  # more than one chunk of the store
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url(running: Any) -> str:
    running.keep(CONTENT)
    return f"/distill/{running.job_id}/student"


def test_the_list_names_hashes_and_where_to_go(client: httpx.Client, running: Any) -> None:
    running.keep(CONTENT)
    running.keep(b"{}", "report.json")
    found = client.get(f"/distill/{running.job_id}/artifacts").json()["data"]
    assert [(a["name"], a["size"], a["sha256"]) for a in found] == [
        ("report.json", 2, hashlib.sha256(b"{}").hexdigest()),
        ("student.safetensors", len(CONTENT), DIGEST),
    ]
    assert client.get(found[1]["links"]["download"]).content == CONTENT


def test_a_download_is_whole_and_says_its_hash(client: httpx.Client, url: str) -> None:
    answer = client.get(url)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    digest = base64.b64encode(hashlib.sha256(CONTENT).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert answer.headers["etag"] == f'"{DIGEST}"'
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == 'attachment; filename="student.safetensors"'
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_head_says_the_same_without_the_bytes(client: httpx.Client, url: str) -> None:
    volatile = {"x-request-id", "date"}
    whole, head = client.get(url), client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert {k: v for k, v in head.headers.items() if k not in volatile} == {
        k: v for k, v in whole.headers.items() if k not in volatile
    }
    named = client.head(url.replace("/student", "/artifacts/student.safetensors"))
    assert named.headers["etag"] == head.headers["etag"]


SIZE = len(CONTENT)


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000-", 1000, SIZE),
        ("bytes=-500", SIZE - 500, SIZE),
        ("bytes=100-199", 100, 200),
        (f"bytes=5-{10**15}", 5, SIZE),
        (f"bytes=-{10**15}", 0, SIZE),
        ("BYTES = 3-4".replace(" ", ""), 3, 5),
        (f"bytes={2**20 - 3}-{2**20 + 3}", 2**20 - 3, 2**20 + 4),
    ],
)
def test_a_single_range(client: httpx.Client, url: str, asked: str, start: int, stop: int) -> None:
    answer = client.get(url, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (206, CONTENT[start:stop])
    assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.headers["content-length"] == str(stop - start)
    assert answer.headers["etag"] == f'"{DIGEST}"'


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=5-3", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=--5", ""])
def test_what_is_no_single_range_gets_the_whole(client: httpx.Client, url: str, asked: str) -> None:
    answer = client.get(url, headers={"Range": asked})
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", f"bytes={SIZE + 5}-{SIZE + 9}", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(client: httpx.Client, url: str, asked: str) -> None:
    answer = client.get(url, headers={"Range": asked})
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize("tag", ['"other"', f'W/"{DIGEST}"', "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_range_of_other_bytes_gets_the_whole(client: httpx.Client, url: str, tag: str) -> None:
    answer = client.get(url, headers={"Range": "bytes=5-9", "If-Range": tag})
    assert (answer.status_code, len(answer.content)) == (200, SIZE)


def test_a_broken_download_goes_on_where_it_was(client: httpx.Client, url: str) -> None:
    with client.stream("GET", url) as answer:
        etag = answer.headers["etag"]
        part = next(answer.iter_raw(1000))
    rest = client.get(url, headers={"Range": f"bytes={len(part)}-", "If-Range": etag})
    assert rest.status_code == 206
    assert hashlib.sha256(part + rest.content).hexdigest() == DIGEST


def test_a_better_student_takes_the_place_and_the_tag(client: httpx.Client, running: Any, url: str) -> None:
    running.keep(b"better")
    answer = client.get(url, headers={"Range": "bytes=2-", "If-Range": f'"{DIGEST}"'})
    assert (answer.status_code, answer.content) == (200, b"better")
    etag = answer.headers["etag"]
    assert client.get(url, headers={"If-None-Match": etag}).status_code == 304


def test_bytes_that_the_store_lost_are_an_error_and_no_traceback(
    client: httpx.Client, database: str, url: str, tmp_path: Path
) -> None:
    (stored,) = (path for path in (tmp_path / "data").rglob("*student.safetensors"))
    stored.unlink()
    answer = client.get(url)
    assert (answer.status_code, answer.json()["code"]) == (500, "storage_error")


def test_before_the_first_epoch_the_student_is_not_there_and_the_answer_says_when(
    client: httpx.Client, job_id: str
) -> None:
    problem = client.get(f"/distill/{job_id}/student").json()
    assert (problem["status"], problem["code"]) == (404, "not_found")
    assert "first finished epoch" in problem["hint"]


def test_the_report(client: httpx.Client, running: Any) -> None:
    url = f"/distill/{running.job_id}/report"
    early = client.get(url)
    assert (early.status_code, early.json()["code"]) == (404, "not_found")
    assert early.json()["hint"]
    report = {
        "teacher": {"top1": 0.93, "parameters": 300_000, "per_class": [0.9, None]},
        "student": {"top1": 0.88, "parameters": 24_000, "agreement": 0.9},
        "baseline": None,
        "head": "own",
        "method": "srrl",
    }
    running.record(events.Report(report=report))
    found = client.get(url).json()
    assert found["student"]["agreement"] == 0.9
    assert found["teacher"]["per_class"] == [0.9, None]
    assert (found["baseline"], found["head"], found["method"]) == (None, "own", "srrl")
