"""Uploads in pieces, as the tus protocol has them, over lines that break."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.routes import uploads as uploads_route
from limbeck import Client
from models import Upload, utcnow
from service import database, uploads
from service.settings import settings

CONTENT = random.Random(0).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture
def url(client: httpx.Client) -> str:
    body = {"filename": "t.safetensors", "bytes": len(CONTENT), "purpose": "teacher", "sha256": DIGEST}
    return str(client.post("/uploads", json=body).raise_for_status().headers["location"])


def patch(client: httpx.Client, url: str, offset: int | str, content: Any, **headers: str) -> httpx.Response:
    sent = {"Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset), **TUS}
    return client.patch(url, content=content, headers=sent | headers)


def stored_files(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "data" / "uploads").glob("*")]


def test_pieces_make_the_whole(client: httpx.Client, url: str, tmp_path: Path) -> None:
    for start in range(0, len(CONTENT), 70_000):
        answer = patch(client, url, start, CONTENT[start : start + 70_000])
        held = min(start + 70_000, len(CONTENT))
        assert (answer.status_code, answer.content, answer.headers["upload-offset"]) == (204, b"", str(held))
        assert answer.headers["tus-resumable"] == "1.0.0"
        asked = client.head(url, headers=TUS)
        assert (asked.headers["upload-offset"], asked.headers["upload-length"]) == (str(held), str(len(CONTENT)))
        assert parsedate_to_datetime(asked.headers["upload-expires"]) > utcnow() + timedelta(hours=23)
        assert client.get(url).json()["offset"] == held
    assert client.post(f"{url}/complete").json()["sha256"] == DIGEST
    assert stored_files(tmp_path) == []
    assert client.head(url).headers["upload-offset"] == str(len(CONTENT))
    late = patch(client, url, len(CONTENT), b"")
    assert (late.status_code, late.json()["code"]) == (409, "conflict")


def test_a_protocol_client_can_announce_by_headers(client: httpx.Client) -> None:
    asked = client.options("/uploads")
    assert (asked.status_code, asked.headers["tus-version"]) == (204, "1.0.0")
    assert asked.headers["tus-extension"] == "creation,expiration"
    assert asked.headers["tus-max-size"] == str(settings().max_upload_bytes)
    told = {"filename": "my weights.safetensors", "purpose": "teacher", "filetype": "x/y"}
    metadata = ",".join(f"{name} {base64.b64encode(value.encode()).decode()}" for name, value in told.items())

    made = client.post("/uploads", headers={**TUS, "Upload-Length": "5", "Upload-Metadata": metadata})

    assert made.status_code == 201
    upload = client.get(made.headers["location"]).json()
    assert (upload["filename"], upload["purpose"], upload["bytes"]) == ("my weights.safetensors", "teacher", 5)


@pytest.mark.parametrize(
    ("headers", "status", "code", "pointers"),
    [
        ({}, 422, "missing_field", [""]),
        ({"Upload-Length": "5"}, 422, "missing_field", ["/filename", "/purpose"]),
        ({"Upload-Length": "5", "Upload-Metadata": "filename ???"}, 400, "malformed_request", []),
        ({"Upload-Length": "5", "Tus-Resumable": "0.2.2"}, 412, "precondition_failed", []),
    ],
)
def test_an_announcement_of_no_sense(
    client: httpx.Client, headers: dict[str, str], status: int, code: str, pointers: list[str]
) -> None:
    answer = client.post("/uploads", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert [flaw["pointer"] for flaw in answer.json()["errors"]] == pointers


@pytest.mark.parametrize(
    ("offset", "headers", "status", "code"),
    [
        (10, {}, 409, "conflict"),
        (0, {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        (0, {"Tus-Resumable": "0.2.2"}, 412, "precondition_failed"),
        (-1, {}, 422, "invalid_value"),
        ("x", {}, 422, "invalid_value"),
    ],
)
def test_a_piece_that_is_refused(
    client: httpx.Client, url: str, offset: int | str, headers: dict[str, str], status: int, code: str
) -> None:
    answer = patch(client, url, offset, b"abc", **headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    if status == 409:
        assert answer.headers["upload-offset"] == "0"
    if status == 412:
        assert answer.headers["tus-version"] == "1.0.0"
    assert client.head(url).headers["upload-offset"] == "0"


@pytest.mark.parametrize("announced", [True, False])
def test_no_more_is_taken_than_was_announced(client: httpx.Client, url: str, announced: bool) -> None:
    patch(client, url, 0, CONTENT[:-2])
    content = b"abc" if announced else iter([b"abc"])
    answer = patch(client, url, len(CONTENT) - 2, content)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert patch(client, url, len(CONTENT) - 2, CONTENT[-2:]).status_code == 204
    assert client.post(f"{url}/complete").json()["sha256"] == DIGEST


def test_whole_and_pieces_may_be_mixed(client: httpx.Client, url: str) -> None:
    patch(client, url, 0, b"something else")
    client.put(f"{url}/content", content=CONTENT).raise_for_status()
    assert client.post(f"{url}/complete").json()["sha256"] == DIGEST


@contextlib.contextmanager
def begun(client: httpx.Client, url: str, content: bytes, *, length: int) -> Iterator[socket.socket]:
    """A line on which a PATCH of that length has begun."""
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as line:
        head = f"PATCH {url} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nUpload-Offset: 0\r\n"
        line.sendall(f"{head}Content-Type: application/offset+octet-stream\r\n\r\n".encode() + content)
        yield line


def test_what_arrived_before_the_line_broke_is_kept(client: httpx.Client, url: str) -> None:
    with begun(client, url, CONTENT[:5000], length=len(CONTENT)):
        time.sleep(0.2)
    until(lambda: client.head(url).headers["upload-offset"] == "5000")
    assert patch(client, url, 5000, CONTENT[5000:]).status_code == 204
    assert client.post(f"{url}/complete").json()["sha256"] == DIGEST


def test_what_arrived_before_it_came_too_slowly_is_kept(
    client: httpx.Client, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads_route, "_CHUNK_SECONDS", 0.2)
    with begun(client, url, CONTENT[:5000], length=len(CONTENT)) as line:
        assert line.recv(1000).startswith(b"HTTP/1.1 408")
    assert client.head(url).headers["upload-offset"] == "5000"


def test_two_at_once_do_not_mix(client: httpx.Client, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_LOCK_SECONDS", 0.1)
    with begun(client, url, CONTENT[:5000], length=len(CONTENT)) as line:
        until(lambda: patch(client, url, 99, b"mine").json()["code"] == "upload_busy")
        whole = client.put(f"{url}/content", content=CONTENT)
        assert (whole.status_code, whole.json()["code"]) == (409, "upload_busy")
        assert whole.headers["retry-after"] == "5"
        line.sendall(CONTENT[5000:])
        assert line.recv(1000).startswith(b"HTTP/1.1 204")
    assert client.post(f"{url}/complete").json()["sha256"] == DIGEST


def test_ten_cuts_at_random_places_and_the_client_ends_with_the_right_hash(
    client: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    content = random.Random(1).randbytes(4_000_000)
    (tmp_path / "t.safetensors").write_bytes(content)
    draw = random.Random(2)
    cuts = [draw.randrange(1_000, 350_000) for _ in range(10)]
    with _Scissors(client.base_url.port or 80, cuts) as scissors, Client(scissors.url) as sender:
        done = sender.upload(tmp_path / "t.safetensors", purpose="teacher")
    assert scissors.cuts == []
    assert (done["status"], done["sha256"]) == ("completed", hashlib.sha256(content).hexdigest())


class _Scissors:
    """A line to a port that is cut after so many bytes of a PATCH, once for each number; afterwards it holds."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self.cuts = cuts
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> _Scissors:
        self._threads[0].start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._carry, args=(near,))
            self._threads.append(thread)
            thread.start()

    def _carry(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            back = threading.Thread(target=self._pour, args=(far, near))
            back.start()
            left: int | None = None
            with contextlib.suppress(OSError):
                while data := near.recv(65_536):
                    if data.startswith(b"PATCH ") and self.cuts:
                        left = self.cuts.pop(0)
                    if left is not None:
                        far.sendall(data[:left])
                        left -= min(left, len(data))
                        if left == 0:
                            break
                    else:
                        far.sendall(data)
            for line in (near, far):
                with contextlib.suppress(OSError):
                    line.shutdown(socket.SHUT_RDWR)
            back.join(10)

    @staticmethod
    def _pour(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)


def test_an_expired_upload_is_gone_and_its_bytes_make_room(client: httpx.Client, url: str, tmp_path: Path) -> None:
    patch(client, url, 0, CONTENT[:5000])
    (tmp_path / "data" / "uploads" / f"{url.rsplit('/', 1)[1]}.abcd.part").touch()
    (tmp_path / "data" / "uploads" / "up_unknown").touch()
    with database.begin() as session:
        session.get_one(Upload, url.rsplit("/", 1)[1]).expires_at = utcnow() - timedelta(seconds=1)

    for answer in (client.head(url), patch(client, url, 5000, CONTENT[5000:]), client.post(f"{url}/complete")):
        assert answer.status_code == 410
    client.post("/uploads", json={"filename": "t", "bytes": 5, "purpose": "teacher"}).raise_for_status()
    assert stored_files(tmp_path) == []


def test_uploads_together_have_a_quota(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMBECK_UPLOAD_QUOTA_BYTES", "100")
    settings.cache_clear()

    def announce(size: int) -> httpx.Response:
        return client.post("/uploads", json={"filename": "t", "bytes": size, "purpose": "teacher"})

    announce(60).raise_for_status()
    refused = announce(41)
    assert (refused.status_code, refused.json()["code"]) == (413, "quota_exceeded")
    assert "60 of the 100 bytes" in refused.json()["detail"]
    assert announce(40).status_code == 201
    with database.begin() as session:
        for upload in session.query(Upload).where(Upload.size == 60):
            upload.expires_at = utcnow() - timedelta(seconds=1)
    assert announce(60).status_code == 201


def until(condition: Any, *, seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
