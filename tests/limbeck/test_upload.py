"""What the client makes of a service that breaks off: it asks where to go on, now or at the next call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from limbeck import Client
from limbeck.errors import ApiError, CommandError, Unreachable
from limbeck.submit import purpose_of

DATA = bytes(range(256)) * 1000
Limbeck = Callable[..., "CompletedProcess[str]"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "teacher.safetensors"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def client(scripted: Any) -> Iterator[Client]:
    with Client(scripted.url) as made:
        yield made


def offsets(scripted: Any, *held: int) -> None:
    answers = (scripted.reply(200, Upload_Offset=str(offset)) for offset in held)
    scripted.on("HEAD", "/uploads/up_1", *answers)


def sent(scripted: Any) -> list[tuple[int, bytes]]:
    return [(int(a.headers["Upload-Offset"]), a.body) for a in scripted.asked if a.method == "PATCH"]


def notes(state_home: Path) -> list[Path]:
    return list((state_home / "limbeck" / "uploads").glob("*"))


def test_it_goes_on_from_what_arrived(scripted: Any, client: Client, file: Path, state_home: Path) -> None:
    scripted.takes("up_1", size=len(DATA))
    offsets(scripted, 0, 1000, 1000, len(DATA))
    busy = scripted.reply(409, {"code": "upload_busy", "detail": "Another sender."})
    scripted.on("PATCH", "/uploads/up_1", scripted.hang_up, busy, scripted.reply(204))

    assert client.upload(file, purpose="teacher")["status"] == "completed"

    assert sent(scripted) == [(0, DATA), (1000, DATA[1000:]), (1000, DATA[1000:])]
    assert notes(state_home) == []


def test_another_call_goes_on_with_the_same_upload(scripted: Any, client: Client, file: Path, state_home: Path) -> None:
    scripted.takes("up_1", size=len(DATA))
    scripted.on("PATCH", "/uploads/up_1", scripted.reply(413, {"code": "too_large", "detail": "no"}))
    with pytest.raises(ApiError, match="no"):
        client.upload(file, purpose="teacher")
    assert [note.read_text() for note in notes(state_home)] == ["up_1"]

    scripted.on("GET", "/uploads/up_1", scripted.reply(200, {"id": "up_1", "status": "pending"}))
    offsets(scripted, 5, len(DATA))
    scripted.on("PATCH", "/uploads/up_1", scripted.reply(204))
    client.upload(file, purpose="teacher")

    assert scripted.times("POST", "/uploads") == 1
    assert sent(scripted)[-1] == (5, DATA[5:])
    assert notes(state_home) == []


@pytest.mark.parametrize("answer", [(404, {}), (410, {}), (200, {"id": "up_0", "status": "completed"})])
def test_what_takes_no_more_bytes_is_announced_anew(
    scripted: Any, client: Client, file: Path, answer: tuple[int, Any]
) -> None:
    scripted.takes("up_0", size=len(DATA))
    scripted.on("POST", "/uploads/up_0/complete", scripted.reply(409, {"detail": "not now"}))
    with pytest.raises(ApiError, match="not now"):
        client.upload(file, purpose="teacher")
    scripted.on("GET", "/uploads/up_0", scripted.reply(*answer))
    scripted.takes("up_1", size=len(DATA))

    assert client.upload(file, purpose="teacher")["id"] == "up_1"


def test_a_file_that_arrived_otherwise_is_not_gone_on_with(
    scripted: Any, client: Client, file: Path, state_home: Path
) -> None:
    scripted.takes("up_1", size=len(DATA))
    refusal = scripted.reply(422, {"code": "upload_corrupt", "detail": "The SHA-256 differs."})
    scripted.on("POST", "/uploads/up_1/complete", refusal)
    with pytest.raises(ApiError, match="differs"):
        client.upload(file, purpose="teacher")
    assert notes(state_home) == []


def test_patience_ends(scripted: Any, client: Client, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from limbeck import upload

    scripted.takes("up_1", size=len(DATA))
    offsets(scripted, 7)
    scripted.on("PATCH", "/uploads/up_1", scripted.hang_up)
    with pytest.raises(Unreachable):
        upload.upload(client._transport, file, purpose="teacher", patience=0.5)
    assert len(sent(scripted)) > 1


def test_the_command_sends_and_tells_the_id(scripted: Any, limbeck: Limbeck, file: Path) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    scripted.takes("up_1", size=len(DATA))
    done = {"id": "up_1", "bytes": len(DATA), "sha256": digest}
    scripted.on("POST", "/uploads/up_1/complete", scripted.reply(200, done))

    ended = limbeck("upload", str(file), "--url", scripted.url)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"up_1: teacher teacher.safetensors, 256,000 bytes, sha256 {digest}\n"


def test_the_purpose_is_told_by_the_name_or_asked_for(tmp_path: Path) -> None:
    for name, purpose in (("a.SAFETENSORS", "teacher"), ("a.onnx", "teacher"), ("a.zip", "dataset")):
        (tmp_path / name).touch()
        assert purpose_of(tmp_path / name) == purpose
    assert purpose_of(tmp_path / "a.zip", "teacher") == "teacher"
    with pytest.raises(CommandError, match="not as fun"):
        purpose_of(tmp_path / "a.zip", "fun")
    with pytest.raises(CommandError, match="no file"):
        purpose_of(tmp_path / "nothing.zip")
