"""Bringing one file here, from a server that does what servers do."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.errors import InputError
from service import egress
from service.egress import Policy
from tests.fixtures.https_files import Files
from worker import fetching
from worker.fetching import Fetched, HttpsFile, Limits, fetch

CONTENT = random.Random(0).randbytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()

Bring = Callable[..., Fetched]


@pytest.fixture
def files(trusted_files: Files, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.setattr(fetching, "_FIRST_PAUSE_SECONDS", 0.01)
    trusted_files.content = CONTENT
    return trusted_files


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


@pytest.fixture
def bring(files: Files, target: Path) -> Bring:
    def run(*, sha256: str | None = None, idle: float = 10, resolver: Any = egress.resolve, **limits: Any) -> Fetched:
        place = egress.check_url(files.url("data.npz?sig=secret"), Policy.of(files.host))
        remote = HttpsFile(target=place, idle_seconds=idle, resolver=resolver)
        chosen = Limits(**{"size": 10**6, "total_seconds": 60, **limits})
        return fetch(remote, target, limits=chosen, sha256=sha256)

    return run


def refusal(bring: Bring, **kw: Any) -> InputError:
    with pytest.raises(InputError) as refused:
        bring(**kw)
    said = str(refused.value.as_json())
    assert "secret" not in said
    assert "/data.npz" not in said
    return refused.value


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_whole_file(bring: Bring, files: Files, target: Path, tells_length: bool) -> None:
    files.tells_length = tells_length
    assert bring(sha256=DIGEST.upper()) == Fetched(size=300_000, sha256=DIGEST, etag='"v1"')
    assert target.read_bytes() == CONTENT
    assert files.seen[0][0] == "/data.npz?sig=secret"


def test_it_goes_on_where_the_line_broke(bring: Bring, files: Files, target: Path) -> None:
    files.cuts = [100_000, 250_000]
    assert bring().sha256 == DIGEST
    assert target.read_bytes() == CONTENT
    assert files.ranges == [None, "bytes=100000-", "bytes=250000-"]
    assert [headers["If-Range"] for _, headers in files.seen] == [None, '"v1"', '"v1"']


@pytest.mark.parametrize("why", ["no ranges", "no etag", "weak etag"])
def test_it_begins_anew_where_the_rest_is_not_to_be_had(bring: Bring, files: Files, target: Path, why: str) -> None:
    files.cuts = [100_000]
    files.takes_ranges = why != "no ranges"
    files.etag = {"no etag": None, "weak etag": 'W/"v1"'}.get(why, files.etag)
    assert bring().sha256 == DIGEST
    assert target.read_bytes() == CONTENT
    assert files.ranges == [None, "bytes=100000-" if why == "no ranges" else None]


@pytest.mark.parametrize("heeds_if_range", [True, False])
@pytest.mark.parametrize("size", [50_000, 200_000])
def test_no_file_is_made_of_two_versions(
    bring: Bring, files: Files, target: Path, size: int, heeds_if_range: bool
) -> None:
    files.cuts, files.successor, files.heeds_if_range = [100_000], random.Random(1).randbytes(size), heeds_if_range
    found = bring()
    assert (found.size, found.etag) == (size, '"v2"')
    assert target.read_bytes() == files.successor


def test_refusals_for_now_are_waited_out(bring: Bring, files: Files) -> None:
    files.statuses = [503, 429, 500]
    assert bring().sha256 == DIGEST
    assert len(files.seen) == 4


def test_tries_that_bring_nothing_are_counted(bring: Bring, files: Files) -> None:
    files.statuses = [503] * 100
    error = refusal(bring, tries=3)
    assert error.code == "dataset_unreadable"
    assert f"{files.host} answered 503" in error.message
    assert len(files.seen) == 3


def test_a_line_that_breaks_at_one_place_is_given_up(bring: Bring, files: Files) -> None:
    files.cuts = [100_000] * 100
    error = refusal(bring, tries=3)
    assert error.code == "dataset_unreadable"
    assert "100000 bytes had come" in error.message
    assert len(files.seen) == 3


@pytest.mark.parametrize("status", [401, 403, 404, 410, 204])
def test_refusals_for_good_are_not_asked_again(bring: Bring, files: Files, status: int) -> None:
    files.statuses = [status]
    error = refusal(bring)
    assert (error.code, error.message) == ("dataset_unreadable", f"{files.host} answered {status}.")
    assert len(files.seen) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_refused(bring: Bring, files: Files, status: int) -> None:
    files.statuses, files.location = [status], files.url("elsewhere?sig=secret")
    error = refusal(bring)
    assert error.code == "dataset_unreadable"
    assert f"redirects ({status})" in error.message
    assert len(files.seen) == 1


@pytest.mark.parametrize("tells_length", [True, False])
def test_a_file_beyond_the_limit_is_not_taken(bring: Bring, files: Files, target: Path, tells_length: bool) -> None:
    files.tells_length = tells_length
    error = refusal(bring, size=200_000, code="quota_exceeded")
    assert error.code == "quota_exceeded"
    assert "room for 200000" in error.message
    assert target.stat().st_size <= (0 if tells_length else 300_000)


def test_another_hash_than_announced(bring: Bring) -> None:
    error = refusal(bring, sha256="0" * 64)
    assert error.code == "upload_corrupt"
    assert DIGEST in error.message


def test_an_empty_file(bring: Bring, files: Files) -> None:
    files.content = b""
    assert refusal(bring).code == "upload_corrupt"


def test_a_silent_server_is_asked_again_and_given_up(bring: Bring, files: Files) -> None:
    files.content, files.pause = b"ab", 1.5
    error = refusal(bring, idle=0.2, tries=2)
    assert error.code == "dataset_unreadable"
    assert "did not answer in time" in error.message


def test_a_fetch_has_an_end(bring: Bring, files: Files) -> None:
    files.statuses = [503] * 1000
    error = refusal(bring, tries=10**6, total_seconds=0.5)
    assert error.code == "dataset_unreadable"
    assert "more than 0.5 s" in error.message


def test_every_try_holds_the_addresses_against_the_rules(files: Files, target: Path) -> None:
    answers = [[], ["10.0.0.1"]]
    place = egress.check_url("https://rebound.example/a", Policy())
    remote = HttpsFile(target=place, idle_seconds=1, resolver=lambda *_: answers.pop(0))
    with pytest.raises(InputError, match="No public address") as refused:
        fetch(remote, target, limits=Limits(size=1, total_seconds=10))
    assert refused.value.code == "invalid_value"
    assert answers == []
