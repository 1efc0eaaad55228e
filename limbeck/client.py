"""A small client for the service: httpx, no torch."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast
from urllib.parse import quote

import httpx

from limbeck import sse
from limbeck.download import OnProgress, download
from limbeck.errors import ApiError, InputRejected, Unreachable
from limbeck.results import Input, Job, JobEvent, Report, Sweep, Upload
from limbeck.transport import WORTH_WAITING, Transport, backoff
from limbeck.upload import Purpose, upload

DEFAULT_URL = "http://127.0.0.1:8000"
Kind = Literal["teachers", "datasets"]
_COMMENT_SECONDS = 15.0  # the service says at least so often that a stream is alive


class Client:
    """One service.

    Args:
        url: where it answers; else the variable ``LIMBECK_URL``, else this machine.

    Every method raises :class:`ApiError` when the service refuses and :class:`Unreachable` when it does not answer.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = (url or os.environ.get("LIMBECK_URL") or DEFAULT_URL).rstrip("/")
        self._transport = Transport(self.url)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def version(self) -> dict[str, Any]:
        """What runs there."""
        return cast(dict[str, Any], self._transport.json("GET", "/version"))

    def methods(self) -> list[dict[str, Any]]:
        """Ways to distil: their type, summary and the schema of their settings."""
        return cast(list[dict[str, Any]], self._transport.json("GET", "/methods")["data"])

    # Inputs

    def upload(self, path: Path, *, purpose: Purpose, on_progress: OnProgress | None = None) -> Upload:
        """Send a file, going on where an earlier call broke off; checked by length and sha256 at the other end."""
        return upload(self._transport, path, purpose=purpose, on_progress=on_progress)

    def create_teacher(self, upload_id: str, architecture: str = "auto", **traits: Any) -> Input:
        """Make a teacher of an upload; it is checked in the background.

        Args:
            architecture: left out for a folder, whose config says it.
            traits: ``options``, ``classes`` and ``preprocessing``, as POST /teachers takes them.
        """
        body = {"upload_id": upload_id, "architecture": architecture, **traits}
        return cast(Input, self._transport.json("POST", "/teachers", body=body))

    def create_dataset(self, upload_id: str, format: str = "auto", *, max_broken_share: float | None = None) -> Input:
        """Make a data set of an upload; it is checked in the background.

        Args:
            max_broken_share: up to which images that cannot be read are left out, in 0..1; None: the server's.
        """
        body = {"upload_id": upload_id, "format": format, "max_broken_share": max_broken_share}
        return cast(Input, self._transport.json("POST", "/datasets", body=body))

    def inputs(self, kind: Kind) -> Iterator[Input]:
        """All teachers or data sets, newest first."""
        return cast(Iterator[Input], self._pages(f"/{kind}"))

    def wait_ready(self, kind: Kind, id: str, *, timeout: float = 600.0) -> Input:
        """Wait until the checks of a teacher or a data set are through.

        Raises:
            InputRejected: they found an error.
            TimeoutError: they take longer than ``timeout`` seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            found = cast(Input, self._transport.json("GET", f"/{kind}/{quote(id)}"))
            if found["status"] == "ready":
                return found
            if found["status"] == "error":
                raise InputRejected(kind.removesuffix("s"), id, found.get("error") or {})
            if time.monotonic() > deadline:
                raise TimeoutError(f"{id} is still {found['status']} after {timeout:.0f} s; does a worker run?")
            time.sleep(0.2)

    # Jobs

    def distill(self, body: Mapping[str, Any], *, dry_run: bool = False, idempotency_key: str | None = None) -> Job:
        """Submit a job, or with ``dry_run`` only have it checked and its plan resolved.

        Sent again after a broken connection it is still one job, by its idempotency key.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        params = {"dry_run": "true"} if dry_run else None
        return cast(Job, self._transport.json("POST", "/distill", body=body, headers=headers, params=params))

    def estimate(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """What a job would come to: the student, or the best three within a budget, with figures; steps and memory."""
        return cast(dict[str, Any], self._transport.json("POST", "/distill/estimate", body=body))

    def job(self, id: str) -> Job:
        return cast(Job, self._transport.json("GET", _job_path(id)))

    def jobs(self) -> Iterator[Job]:
        """All jobs, newest first."""
        return cast(Iterator[Job], self._pages("/distill"))

    def cancel(self, id: str) -> Job:
        """Ask for a job to end; the student so far is kept."""
        return cast(Job, self._transport.json("POST", f"{_job_path(id)}/cancel"))

    # Sweeps

    def sweep(self, body: Mapping[str, Any], *, dry_run: bool = False, idempotency_key: str | None = None) -> Sweep:
        """Submit a job for every combination of values, or with ``dry_run`` only have them checked and counted.

        Sent again under the same key it is still one sweep.
        """
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        params = {"dry_run": "true"} if dry_run else None
        return cast(Sweep, self._transport.json("POST", "/distill/sweep", body=body, headers=headers, params=params))

    def get_sweep(self, id: str) -> Sweep:
        """How it stands, its jobs, and the table over seeds."""
        return cast(Sweep, self._transport.json("GET", _sweep_path(id)))

    def sweeps(self) -> Iterator[Sweep]:
        """All sweeps, newest first, without their jobs."""
        return cast(Iterator[Sweep], self._pages("/distill/sweep"))

    def cancel_sweep(self, id: str) -> Sweep:
        """Ask for all its jobs to end that have not ended."""
        return cast(Sweep, self._transport.json("POST", f"{_sweep_path(id)}/cancel"))

    # Results

    def metrics(self, id: str, **params: str | int) -> dict[str, Any]:
        """The series of a job; ``names``, ``from_step``, ``to_step``, ``max_points`` narrow them."""
        return cast(dict[str, Any], self._transport.json("GET", f"{_job_path(id)}/metrics", params=params))

    def report(self, id: str) -> Report:
        """Teacher, student and plainly trained student side by side."""
        return cast(Report, self._transport.json("GET", f"{_job_path(id)}/report"))

    def artifacts(self, id: str) -> list[dict[str, Any]]:
        """What can be downloaded."""
        answer = self._transport.json("GET", f"{_job_path(id)}/artifacts")
        return cast(list[dict[str, Any]], answer["data"])

    def download(self, job_id: str, artifact: str, *, path: Path, on_progress: OnProgress | None = None) -> str:
        """Fetch an artifact into ``path``, going on where an earlier call broke off; its sha256.

        Raises:
            DownloadError: what arrived differs from what the service has; then nothing is kept.
        """
        url = f"{_job_path(job_id)}/artifacts/{quote(artifact)}"
        return download(self._transport, url, path=path, on_progress=on_progress)

    def past_events(self, id: str, *, after: int = 0) -> Iterator[JobEvent]:
        """What has happened to a job so far, behind the event ``after``."""
        while True:
            params: dict[str, str | int] = {"after": after, "limit": 1000}
            page = self._transport.json("GET", f"{_job_path(id)}/events", params=params)
            for event in page["data"]:
                after = event["id"]
                yield JobEvent(after, event["type"], event["data"])
            if not page.get("has_more"):
                return

    def events(self, id: str, *, after: int = 0, patience: float = 60.0) -> Iterator[JobEvent]:
        """A job's events as they come, each once, until ``end``, which is the last one.

        Args:
            after: skip events up to this id.
            patience: seconds that the service may be away, before Unreachable.
        """
        away_since, failures = None, 0
        while True:
            asked = time.monotonic()
            try:
                for event in self._stream(id, after):
                    away_since, failures = None, 0
                    if event.id > after or event.type == "end":
                        after = event.id
                        yield event
                    if event.type == "end":
                        return
                reason: Exception = httpx.RemoteProtocolError("the event stream ends without its end event")
            except httpx.TransportError as error:
                reason = error
            except ApiError as error:
                if error.status not in WORTH_WAITING:
                    raise
                reason = error
            now = time.monotonic()
            if away_since is None or now - asked > _COMMENT_SECONDS:  # it was there, only quiet
                away_since = now
            if now - away_since > patience:
                raise Unreachable(self.url, str(reason)) from reason
            time.sleep(backoff(failures))
            failures += 1

    def _stream(self, id: str, after: int) -> Iterator[JobEvent]:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if after:
            headers["Last-Event-ID"] = str(after)
        path = f"{_job_path(id)}/events"
        with self._transport.stream(path, headers=headers, read_seconds=3 * _COMMENT_SECONDS) as answer:
            if answer.status_code == httpx.codes.NO_CONTENT:  # the end has been read already
                yield JobEvent(after, "end", {})
                return
            for message in sse.messages(answer.iter_raw()):
                seen = int(message.id) if message.id.isdigit() else after
                yield JobEvent(seen, message.event, json.loads(message.data))

    def _pages(self, path: str) -> Iterator[Any]:
        params: dict[str, str | int] = {"limit": 100}
        while True:
            page = self._transport.json("GET", path, params=params)
            yield from page["data"]
            if not page.get("has_more"):
                return
            params["after"] = page["last_id"]


def _job_path(id: str) -> str:
    return f"/distill/{quote(id, safe='')}"


def _sweep_path(id: str) -> str:
    return f"/distill/sweep/{quote(id, safe='')}"
