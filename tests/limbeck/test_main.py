"""The command as a process: messages and exit codes."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Limbeck = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


def test_every_command_explains_itself(limbeck: Limbeck) -> None:
    overview = limbeck("--help").stdout
    for command in ("serve", "work", "demo", "submit", "sweep", "watch", "get", "migrate", "openapi"):
        assert command in overview
        help_text = limbeck(command, "--help")
        assert help_text.returncode == 0
        assert "lifeline" not in help_text.stdout


def test_no_service_is_3(limbeck: Limbeck) -> None:
    done = limbeck("watch", "dj_1", "--url", "http://127.0.0.1:9")
    assert done.returncode == 3
    assert "cannot reach http://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_refusal_is_2_and_says_what_to_do(limbeck: Limbeck, scripted: Any, tmp_path: Path) -> None:
    flaw = {"pointer": "/student/architecture", "detail": "no such network", "did_you_mean": ["resnet8"]}
    problem = {"code": "architecture_unknown", "detail": "Unknown network.", "hint": "See /networks.", "errors": [flaw]}
    scripted.on("POST", "/distill", scripted.reply(422, problem))
    body = {"teacher": {"id": "tch_1"}, "dataset": {"id": "ds_1"}, "student": {"architecture": "resnet9"}}
    (tmp_path / "job.json").write_text(json.dumps(body))
    done = limbeck("submit", str(tmp_path / "job.json"), LIMBECK_URL=scripted.url)
    assert done.returncode == 2
    for part in (
        "architecture_unknown",
        "/student/architecture: no such network",
        "did you mean resnet8?",
        "/networks",
    ):
        assert part in done.stderr


def test_submit_answers_json_when_asked(limbeck: Limbeck, scripted: Any, tmp_path: Path) -> None:
    scripted.on("POST", "/distill", scripted.reply(202, {"id": "dj_1", "status": "queued"}))
    body = {"teacher": {"id": "tch_1"}, "dataset": {"id": "ds_1"}}
    (tmp_path / "job.json").write_text(json.dumps(body))
    done = limbeck("submit", str(tmp_path / "job.json"), "--student", "resnet8", "--json", "--url", scripted.url)
    assert json.loads(done.stdout) == {"id": "dj_1", "status": "queued"}
    assert json.loads(scripted.asked[0].body) == body | {"student": {"architecture": "resnet8"}}


def test_wrong_usage_is_2(limbeck: Limbeck, tmp_path: Path) -> None:
    for words in (("submit",), ("submit", str(tmp_path / "none.json")), ("get",), ("brew",), ("serve", "--port", "x")):
        done = limbeck(*words)
        assert done.returncode == 2, words
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org"])
def test_serve_refuses_any_other_address(limbeck: Limbeck, tmp_path: Path, host: str) -> None:
    done = limbeck("serve", "--host", host)
    assert done.returncode == 2
    assert "no keys" in done.stderr
    assert not (tmp_path / "data").exists()


def test_serve_says_that_its_port_is_taken(limbeck: Limbeck, taken_port: int) -> None:
    done = limbeck("serve", "--port", str(taken_port))
    assert done.returncode == 2
    assert f"port {taken_port} on 127.0.0.1 is taken; choose another with --port" in done.stderr


def test_migrate_makes_the_database(limbeck: Limbeck, tmp_path: Path) -> None:
    assert limbeck("migrate").returncode == 0
    assert (tmp_path / "data" / "limbeck.db").exists()
    assert limbeck("migrate").returncode == 0
