"""Downloads over broken lines; hashlib over the original bytes is the reference."""

from __future__ import annotations

import base64
import hashlib
import random
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from limbeck import ApiError, Client, DownloadError, Unreachable
from limbeck import download as download_module

PATH = "/distill/dj_1/artifacts/student.safetensors"


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "backoff", lambda _failures: 0.0)


class File:
    """An artifact as the contract serves it: strong tag, ranges, digest; each answer breaks off after ``cut`` bytes."""

    def __init__(self, data: bytes, *, cut: int | None = None, ranges: bool = True) -> None:
        self.data = data
        self.cut = cut
        self.ranges = ranges
        self.sha256 = hashlib.sha256(data)
        self.digest = f"sha-256=:{base64.b64encode(self.sha256.digest()).decode()}:"
        self.statuses: list[int] = []

    def __call__(self, request: BaseHTTPRequestHandler) -> None:
        etag, start = f'"{self.sha256.hexdigest()}"', 0
        wanted = request.headers.get("Range")
        if wanted and self.ranges and request.headers.get("If-Range") in (None, etag):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(self.data):
            self._head(request, 416, {"Content-Range": f"bytes */{len(self.data)}", "Content-Length": "0"})
            return
        headers = {"ETag": etag, "Repr-Digest": self.digest, "Content-Length": str(len(self.data) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(self.data) - 1}/{len(self.data)}"
        self._head(request, 206 if start else 200, headers)
        request.wfile.write(self.data[start:][: self.cut])

    def _head(self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str]) -> None:
        self.statuses.append(status)
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()


@pytest.fixture
def original() -> bytes:
    return random.Random(0).randbytes(1_000_003)


@pytest.fixture
def client(scripted: Any) -> Any:
    with Client(scripted.url) as made:
        yield made


def test_it_goes_on_where_the_line_broke(scripted: Any, client: Client, tmp_path: Path, original: bytes) -> None:
    served = File(original, cut=300_000)
    scripted.on("GET", PATH, served)
    seen: list[tuple[int, int | None]] = []
    target = tmp_path / "new" / "student.safetensors"
    found = client.download(
        "dj_1", "student.safetensors", path=target, on_progress=lambda done, total: seen.append((done, total))
    )
    assert target.read_bytes() == original
    assert found == served.sha256.hexdigest()
    assert served.statuses == [200, 206, 206, 206]
    assert seen[-1] == (len(original), len(original))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert list(target.parent.iterdir()) == [target]


def test_a_later_call_goes_on_after_a_lost_service(
    scripted: Any, client: Client, tmp_path: Path, original: bytes
) -> None:
    served = File(original, cut=400_000)
    scripted.on("GET", PATH, served, scripted.hang_up)
    target = tmp_path / "student"
    with pytest.raises(Unreachable):
        client.download("dj_1", "student.safetensors", path=target)
    assert not target.exists()

    whole = File(original)
    scripted.on("GET", PATH, whole)
    client.download("dj_1", "student.safetensors", path=target)
    assert target.read_bytes() == original
    assert whole.statuses == [206]


def test_a_file_that_changed_meanwhile_is_fetched_anew(
    scripted: Any, client: Client, tmp_path: Path, original: bytes
) -> None:
    other = original[::-1]
    scripted.on("GET", PATH, File(original, cut=400_000), File(other))
    client.download("dj_1", "student.safetensors", path=tmp_path / "student")
    assert (tmp_path / "student").read_bytes() == other


def test_a_service_without_ranges_sends_the_whole_again(
    scripted: Any, client: Client, tmp_path: Path, original: bytes
) -> None:
    scripted.on("GET", PATH, File(original, cut=400_000), File(original, ranges=False))
    client.download("dj_1", "student.safetensors", path=tmp_path / "student")
    assert (tmp_path / "student").read_bytes() == original


def test_a_part_that_is_already_whole_does_no_harm(
    scripted: Any, client: Client, tmp_path: Path, original: bytes
) -> None:
    served = File(original)
    scripted.on("GET", PATH, served)
    (tmp_path / "student.part").write_bytes(original)
    (tmp_path / "student.part.etag").write_text(f'"{served.sha256.hexdigest()}"')
    client.download("dj_1", "student.safetensors", path=tmp_path / "student")
    assert (tmp_path / "student").read_bytes() == original
    assert served.statuses == [416, 200]


@pytest.mark.parametrize("broken", ["bytes", "header"])
def test_wrong_bytes_are_not_kept(scripted: Any, client: Client, tmp_path: Path, original: bytes, broken: str) -> None:
    served = File(original)
    if broken == "bytes":
        served.data = original[:500] + b"\0" + original[501:]
    else:
        served.digest = "sha-256=:!!!:"
    scripted.on("GET", PATH, served)
    with pytest.raises(DownloadError):
        client.download("dj_1", "student.safetensors", path=tmp_path / "student")
    assert not (tmp_path / "student").exists()
    assert not any(p.stat().st_size for p in tmp_path.iterdir())


def test_a_refusal_is_not_a_file(scripted: Any, client: Client, tmp_path: Path) -> None:
    scripted.on("GET", PATH, scripted.reply(404, {"code": "not_found", "detail": "No artifact."}))
    with pytest.raises(ApiError, match="No artifact"):
        client.download("dj_1", "student.safetensors", path=tmp_path / "student")
    assert list(tmp_path.iterdir()) == []
