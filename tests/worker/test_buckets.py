"""Files in S3, from moto's server on loopback, over real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.errors import InputError
from worker import fetching
from worker.buckets import BucketFile
from worker.fetching import Limits, Piece, fetch

CONTENT = random.Random(0).randbytes(1_000_000)
LIMITS = Limits(size=10**7, total_seconds=60)


def file_at(s3_url: str, key: str = "a/b c.zip", bucket: str = "images") -> BucketFile:
    return BucketFile(bucket, key, endpoint=s3_url, idle_seconds=10)


def test_a_whole_file(s3_url: str, bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="a/b c.zip", Body=CONTENT)
    found = fetch(file_at(s3_url), tmp_path / "fetched", limits=LIMITS)
    assert (tmp_path / "fetched").read_bytes() == CONTENT
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert found.etag == f'"{hashlib.md5(CONTENT).hexdigest()}"'


class Cut:
    """A file whose line breaks once, after so many bytes."""

    def __init__(self, file: BucketFile, after: int) -> None:
        self.file, self.after = file, after
        self.starts: list[int] = []

    @property
    def name(self) -> str:
        return self.file.name

    @contextlib.contextmanager
    def open(self, start: int, validator: str | None, *, seconds: float) -> Iterator[Piece]:
        self.starts.append(start)
        with self.file.open(start, validator, seconds=seconds) as piece:
            yield piece if start else replace(piece, body=iter([next(piece.body)[: self.after]]))


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_FIRST_PAUSE_SECONDS", 0.01)


def test_it_goes_on_where_the_line_broke(s3_url: str, bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="a/b c.zip", Body=CONTENT)
    cut = Cut(file_at(s3_url), 123_456)
    found = fetch(cut, tmp_path / "fetched", limits=LIMITS)
    assert cut.starts == [0, 123_456]
    assert found.sha256 == hashlib.sha256(CONTENT).hexdigest()


def test_a_file_that_changes_meanwhile_is_fetched_anew(s3_url: str, bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="a/b c.zip", Body=CONTENT)
    file = file_at(s3_url)
    with file.open(0, None, seconds=10) as piece:
        validator = piece.validator
    bucket.put_object(Key="a/b c.zip", Body=CONTENT[::-1])
    with pytest.raises(fetching.NoRest), file.open(1000, validator, seconds=10):
        pass


@pytest.mark.parametrize(("key", "bucket_name", "code"), [("none", "images", "NoSuchKey"), ("a", "no-such", "NoSuch")])
def test_what_is_not_there(s3_url: str, bucket: Any, tmp_path: Path, key: str, bucket_name: str, code: str) -> None:
    with pytest.raises(InputError, match=f"s3://{bucket_name} answered 404 \\({code}") as refused:
        fetch(file_at(s3_url, key, bucket_name), tmp_path / "fetched", limits=LIMITS)
    assert refused.value.code == "dataset_unreadable"


def test_a_store_that_is_not_reached(tmp_path: Path, bucket: Any) -> None:
    with pytest.raises(InputError, match="s3://images is not reached") as refused:
        fetch(file_at("http://127.0.0.1:9"), tmp_path / "fetched", limits=replace(LIMITS, tries=2))
    assert refused.value.code == "dataset_unreadable"


def test_too_large(s3_url: str, bucket: Any, tmp_path: Path) -> None:
    bucket.put_object(Key="a/b c.zip", Body=CONTENT)
    with pytest.raises(InputError, match="room for 999999") as refused:
        fetch(file_at(s3_url), tmp_path / "fetched", limits=replace(LIMITS, size=999_999))
    assert refused.value.code == "too_large"
