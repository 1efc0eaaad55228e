"""A file in an S3 bucket, by the operator's own credentials. Needs the extra ``s3``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

from distill.errors import InputError
from service.egress import Unreachable
from worker.fetching import NoRest, Piece

_CHUNK = 2**18
_NOT_FOR_NOW = (408, 429, 500, 502, 503, 504)


class BucketFile:
    """See the module.

    Args:
        bucket: its name.
        key: of the object.
        endpoint: of a store that is not Amazon's; empty: Amazon's, or what AWS_ENDPOINT_URL_S3 says.
        idle_seconds: without a byte.
    """

    def __init__(self, bucket: str, key: str, *, endpoint: str, idle_seconds: float) -> None:
        self.bucket, self.key = bucket, key
        self._client = _client(endpoint, idle_seconds)

    @property
    def name(self) -> str:
        return f"s3://{self.bucket}"

    @contextlib.contextmanager
    def open(self, start: int, validator: str | None, *, seconds: float) -> Iterator[Piece]:
        """See :class:`worker.fetching.Remote`; boto3 knows no limit of a whole request, so whoever reads keeps it."""
        rest: dict[str, Any] = {"Range": f"bytes={start}-", "IfMatch": validator} if start and validator else {}
        with self._told():
            answer = self._client.get_object(Bucket=self.bucket, Key=self.key, **rest)
        etag, first = answer.get("ETag"), start if rest else 0
        with contextlib.closing(answer["Body"]) as body:
            total = first + answer["ContentLength"]
            yield Piece(start=first, total=total, etag=etag, validator=etag, body=self._chunks(body))

    def _chunks(self, body: Any) -> Iterator[bytes]:
        with self._told():
            yield from body.iter_chunks(_CHUNK)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """The library's errors in our words."""
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ClientError as error:
            self._refuse(error.response)
        except (BotoCoreError, HTTPError, OSError) as error:
            raise Unreachable(f"{self.name} is not reached ({type(error).__name__}).") from error

    def _refuse(self, response: dict[str, Any]) -> NoReturn:
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = str(response.get("Error", {}).get("Code", ""))[:64]
        if status in _NOT_FOR_NOW:
            raise Unreachable(f"{self.name} answered {status} ({code}).")
        if status in (412, 416):
            raise NoRest(f"The file in {self.name} changed while it was fetched.")
        hint = "Is the key right, and may the worker's credentials read it?"
        raise InputError("dataset_unreadable", f"{self.name} answered {status} ({code}).", hint=hint)


def _client(endpoint: str, idle_seconds: float) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        message = "This worker cannot read from S3: boto3 is not installed."
        raise InputError(
            "dataset_unreadable", message, hint="pip install 'limbeck[s3]', or upload the file."
        ) from error
    config = Config(
        connect_timeout=10, read_timeout=idle_seconds, retries={"mode": "standard", "total_max_attempts": 1}
    )
    return boto3.client("s3", endpoint_url=endpoint or None, config=config)
