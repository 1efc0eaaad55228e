"""A real HTTP server on a free port that says what a test tells it to, faults included."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Service:
    """Answers by method and path (without its query), in turn; the last one again and again."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self.answers[method, path] = list(answers)

    def times(self, method: str, path: str) -> int:
        return sum((a.method, a.path.split("?")[0]) == (method, path) for a in self.asked)

    @staticmethod
    def reply(status: int, body: Any = None, **headers: str) -> Answer:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                request.send_header("Content-Length", str(len(data)))
            request.send_header("Connection", "close")
            request.end_headers()
            request.wfile.write(data)

        return answer

    def takes(self, upload_id: str, *, size: int) -> None:
        """An upload that is announced, sent in one piece and completed."""
        self.on("POST", "/uploads", self.reply(201, {"id": upload_id}))
        offsets = (self.reply(200, Upload_Offset=str(offset)) for offset in (0, size))
        self.on("HEAD", f"/uploads/{upload_id}", *offsets)
        self.on("PATCH", f"/uploads/{upload_id}", self.reply(204))
        self.on("POST", f"/uploads/{upload_id}/complete", self.reply(200, {"id": upload_id, "status": "completed"}))

    @staticmethod
    def hang_up(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        length = int(request.headers.get("Content-Length") or 0)
        body = request.rfile.read(length) if length else b""
        self.asked.append(Asked(request.command, request.path, dict(request.headers), body))
        answers = self.answers.get((request.command, request.path.split("?")[0]))
        if not answers:
            self.reply(404, {"code": "not_found", "detail": f"nothing at {request.path}"})(request)
            return
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(request)
        request.close_connection = True


@pytest.fixture
def scripted() -> Iterator[Service]:
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: the test looks at `asked`."""

        def _handle(self) -> None:
            service.handle(self)

        do_GET = do_POST = do_PUT = do_PATCH = do_HEAD = do_DELETE = _handle

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a client notes what it began."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def limbeck(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command with a data folder of its own."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"LIMBECK_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "200"} | environment
        return subprocess.run(
            [sys.executable, "-m", "limbeck", *words], capture_output=True, text=True, env=env, timeout=60
        )

    return run
