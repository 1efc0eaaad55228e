from __future__ import annotations

import hashlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.routes import uploads as uploads_route

CONTENT = b"weights " * 1000


def announce(client: httpx.Client, **changes: Any) -> httpx.Response:
    body = {"filename": "t.safetensors", "bytes": len(CONTENT), "purpose": "teacher", **changes}
    return client.post("/uploads", json=body)


@pytest.fixture
def url(client: httpx.Client) -> str:
    return str(announce(client).raise_for_status().headers["location"])


def stored_files(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "data" / "uploads").glob("*")]


def test_announce_send_complete(client: httpx.Client, tmp_path: Path) -> None:
    announced = announce(client)
    url, upload = announced.headers["location"], announced.json()
    assert announced.status_code == 201
    assert url == f"/uploads/{upload['id']}"
    assert announced.headers["upload-offset"] == "0"
    assert (upload["object"], upload["status"], upload["bytes"]) == ("upload", "pending", len(CONTENT))
    sent = client.put(f"{url}/content", content=CONTENT)
    assert (sent.status_code, sent.headers["upload-offset"]) == (200, str(len(CONTENT)))
    done = client.post(f"{url}/complete").json()
    assert (done["status"], done["sha256"]) == ("completed", hashlib.sha256(CONTENT).hexdigest())
    assert client.post(f"{url}/complete").json() == done
    assert client.get(url).json() == done
    assert stored_files(tmp_path) == []


def test_head_tells_how_far_it_came(client: httpx.Client, url: str) -> None:
    before = client.head(url)
    assert (before.headers["upload-offset"], before.headers["upload-length"]) == ("0", str(len(CONTENT)))
    assert before.headers["cache-control"] == "no-store"
    client.put(f"{url}/content", content=CONTENT)
    assert client.head(url).headers["upload-offset"] == str(len(CONTENT))
    assert client.head("/uploads/up_nothing").status_code == 404


def chunked(content: bytes) -> Iterator[bytes]:
    """A body whose length is not announced."""
    yield from (content[start : start + 1000] for start in range(0, len(content), 1000))


@pytest.mark.parametrize("form", ["whole", "chunked"])
@pytest.mark.parametrize(
    ("content", "status", "code"), [(CONTENT[:-1], 422, "upload_corrupt"), (CONTENT + b"!", 413, "too_large")]
)
def test_another_length_is_refused_and_nothing_is_kept(
    client: httpx.Client, url: str, tmp_path: Path, form: str, content: bytes, status: int, code: str
) -> None:
    answer = client.put(f"{url}/content", content=content if form == "whole" else chunked(content))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert stored_files(tmp_path) == []
    assert client.head(url).headers["upload-offset"] == "0"
    assert client.put(f"{url}/content", content=chunked(CONTENT)).status_code == 200


def test_a_broken_connection_leaves_nothing(client: httpx.Client, url: str, tmp_path: Path) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line:
        head = f"PUT {url}/content HTTP/1.1\r\nHost: x\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
        line.sendall(head.encode() + CONTENT[:4000])
        until(lambda: stored_files(tmp_path) != [])
    until(lambda: stored_files(tmp_path) == [])
    assert client.head(url).headers["upload-offset"] == "0"


def test_a_sender_that_falls_silent_is_given_up(
    client: httpx.Client, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads_route, "_CHUNK_SECONDS", 0.4)
    line = http.client.HTTPConnection(client.base_url.host, client.base_url.port, timeout=10)
    line.putrequest("PUT", f"{url}/content")
    line.putheader("Content-Length", str(len(CONTENT)))
    line.endheaders(CONTENT[:4000])
    answer = line.getresponse()
    assert (answer.status, b"request_timeout" in answer.read()) == (408, True)
    line.close()
    assert stored_files(tmp_path) == []


def test_a_slow_sender_is_heard_out(client: httpx.Client, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads_route, "_CHUNK_SECONDS", 0.5)

    def slow() -> Iterator[bytes]:
        for part in chunked(CONTENT):
            yield part
            time.sleep(0.1)

    assert client.put(f"{url}/content", content=slow()).status_code == 200


def test_the_announced_hash_must_be_the_sent_one(client: httpx.Client) -> None:
    url = announce(client, sha256="0" * 64).headers["location"]
    client.put(f"{url}/content", content=CONTENT)
    answer = client.post(f"{url}/complete")
    assert (answer.status_code, answer.json()["code"]) == (422, "upload_corrupt")
    assert hashlib.sha256(CONTENT).hexdigest() in answer.json()["detail"]
    assert client.get(url).json()["status"] == "pending"


def test_the_hash_may_come_last(client: httpx.Client, url: str) -> None:
    client.put(f"{url}/content", content=CONTENT)
    wrong = client.post(f"{url}/complete", json={"sha256": "0" * 64})
    assert wrong.json()["code"] == "upload_corrupt"
    right = client.post(f"{url}/complete", json={"sha256": hashlib.sha256(CONTENT).hexdigest()})
    assert right.json()["status"] == "completed"


def test_what_did_not_arrive_cannot_be_completed(client: httpx.Client, url: str) -> None:
    answer = client.post(f"{url}/complete")
    assert (answer.status_code, answer.json()["code"]) == (422, "upload_corrupt")


def test_a_completed_upload_takes_no_more_bytes(client: httpx.Client, url: str) -> None:
    client.put(f"{url}/content", content=CONTENT)
    client.post(f"{url}/complete")
    answer = client.put(f"{url}/content", content=CONTENT)
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_a_folder_in_the_name_goes_nowhere(client: httpx.Client) -> None:
    assert announce(client, filename="../../etc/passwd").json()["filename"] == "passwd"


@pytest.mark.parametrize(
    ("changes", "status", "code", "pointer"),
    [
        ({"bytes": 0}, 422, "invalid_value", "/bytes"),
        ({"bytes": 2**45}, 413, "too_large", None),
        ({"purpose": "fun"}, 422, "invalid_value", "/purpose"),
        ({"sha256": "abc"}, 422, "invalid_value", "/sha256"),
        ({"size": 5}, 422, "unknown_field", "/size"),
    ],
)
def test_an_announcement_of_no_sense(
    client: httpx.Client, changes: dict[str, Any], status: int, code: str, pointer: str | None
) -> None:
    problem = announce(client, **changes).json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert [flaw["pointer"] for flaw in problem["errors"]] == ([pointer] if pointer else [])


def test_an_upload_is_not_bound_by_the_limit_of_other_bodies(client: httpx.Client) -> None:
    content = b"x" * (3 * 2**20)
    url = announce(client, bytes=len(content)).headers["location"]
    assert client.put(f"{url}/content", content=content).status_code == 200
    url = announce(client, bytes=len(content)).headers["location"]
    assert client.put(f"/v1{url}/content", content=chunked(content)).status_code == 200


def test_two_senders_at_once_leave_one_whole_file(client: httpx.Client, url: str, tmp_path: Path) -> None:
    def send() -> None:
        client.put(f"{url}/content", content=chunked(CONTENT))

    senders = [threading.Thread(target=send) for _ in range(4)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert stored_files(tmp_path) == [url.rsplit("/", 1)[1]]
    assert client.post(f"{url}/complete").json()["sha256"] == hashlib.sha256(CONTENT).hexdigest()


def until(condition: Any, *, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
