"""Fetching a model folder from a hub: pinned to a commit, resumed where a line breaks, held to hash and limits.

Paths and headers are those of the Hugging Face Hub and its mirrors: ``/{repository}/resolve/{revision}/{file}`` answers
the file or a redirect to where it is stored, with ``X-Repo-Commit``, and for large files ``X-Linked-Size`` and
``X-Linked-Etag``, its SHA-256. Source: https://huggingface.co/docs/hub/api and huggingface_hub/file_download.py.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import httpx

from distill.errors import InputError
from distill.files import sha256_of
from distill.model_folders import CONFIG, IMAGES, INDEX, MAX_BYTES, SINGLE, check_config, parse_json, shards_of

_TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_MAX_SECONDS = 6 * 3600.0
_MAX_REDIRECTS = 5
_TRIES = 5  # in a row without a byte
_LONGEST_PAUSE = 30.0
_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
_BY_HAND = "Download the repository, and send its folder as a zip."


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file as the hub's answer describes it."""

    commit: str
    size: int | None
    sha256: str | None


class _TryAgain(Exception):
    """The hub cannot answer now, and may be able to later."""


class HubClient:
    """One repository's files, into a folder.

    Args:
        url: of the hub; https, or http on this machine.
        max_bytes: of all files together.
        pause: seconds before the second try of what fails; doubled each time.
    """

    def __init__(self, url: str, *, max_bytes: int, pause: float = 0.5) -> None:
        self._base = httpx.URL(url.rstrip("/"))
        self._is_local = self._base.scheme == "http" and _is_loopback(self._base.host)
        self._check(self._base)
        self._max_bytes, self._pause = max_bytes, pause
        self._bytes = 0
        self._end = time.monotonic() + _MAX_SECONDS
        # Its compression would hide how long a file is, and where to go on in it.
        self._client = httpx.Client(
            timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"}, trust_env=not self._is_local
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def fetch(self, repository: str, *, revision: str, folder: Path) -> dict[str, Any]:
        """Fetch a repository's configs and safetensors; nothing else of it is asked for.

        The config is looked at first: weights of a network that is not read are not fetched.

        Returns:
            ``commit``, ``bytes``, and ``files``: ``name``, ``bytes`` and ``sha256`` of each.

        Raises:
            InputError: ``invalid_value``, there is no such repository or revision, or it is not open to all;
                ``architecture_unknown``; ``unsupported_format``, it has no safetensors; ``upload_corrupt``, a file is
                not the one that the hub promises; ``quota_exceeded``; ``unsafe_file``; ``unavailable``.
        """
        first = self._download(repository, revision, CONFIG, folder)
        if first is None:
            message = f"There is no {CONFIG} in {repository} at {revision}, or no such repository."
            raise InputError("invalid_value", message, hint="Look at the name and the revision.", param="/hub")
        check_config(parse_json((folder / CONFIG).read_bytes(), name=CONFIG))
        names = [CONFIG, *self._weights(repository, first.commit, folder)]
        if self._download(repository, first.commit, IMAGES, folder) is not None:
            names.append(IMAGES)
        files = [
            {"name": name, "bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
            for name in names
        ]
        return {"commit": first.commit, "bytes": self._bytes, "files": files}

    def _weights(self, repository: str, commit: str, folder: Path) -> list[str]:
        if self._download(repository, commit, SINGLE, folder) is not None:
            return [SINGLE]
        if self._download(repository, commit, INDEX, folder) is None:
            message = f"{repository} has no safetensors: neither {SINGLE} nor {INDEX}."
            hint = "Load it, save it with save_pretrained, and send the folder as a zip."
            raise InputError("unsupported_format", message, hint=hint, param="/hub")
        shards = shards_of(parse_json((folder / INDEX).read_bytes(), name=INDEX))
        for name in shards:
            if self._download(repository, commit, name, folder) is None:
                message = f"{repository} has no {name}, which its index names."
                raise InputError("upload_corrupt", message, hint="Ask its author.", param="/hub")
        return [INDEX, *shards]

    def _download(self, repository: str, revision: str, name: str, folder: Path) -> Remote | None:
        """One file, tried again where it breaks off; None where there is none."""
        url = self._base.copy_with(path=f"{self._base.path.rstrip('/')}/{repository}/resolve/{revision}/{name}")
        part = folder / f"{name}.part"
        part.touch()
        failures = 0
        while True:
            before = part.stat().st_size
            try:
                remote = self._continue(url, part, limit=MAX_BYTES.get(name))
                break
            except (httpx.TransportError, _TryAgain) as error:
                failures = 1 if part.stat().st_size > before else failures + 1
                if failures >= _TRIES or time.monotonic() > self._end:
                    message = (
                        f"The hub did not send {name} of {repository}: {str(error)[:200] or type(error).__name__}."
                    )
                    raise InputError("unavailable", message, hint="Post it again later.", param="/hub") from error
                time.sleep(min(_LONGEST_PAUSE, self._pause * 2 ** (failures - 1)))
        if remote is None:
            part.unlink()
            return None
        if remote.sha256 is not None and (found := sha256_of(part)) != remote.sha256:
            message = f"{name} of {repository} has the SHA-256 {found}; the hub promises {remote.sha256}."
            raise InputError("upload_corrupt", message, hint="Post it again, or ask its author.", param="/hub")
        self._bytes += part.stat().st_size
        part.rename(folder / name)
        return remote

    def _continue(self, url: httpx.URL, part: Path, *, limit: int | None) -> Remote | None:
        """Append what is missing of a file, as far as the line holds."""
        held = part.stat().st_size
        with self._open(url, held) as (response, remote):
            if response is None:
                return None
            if response.status_code == 416:  # all bytes are there, or more: only another copy can tell
                part.write_bytes(b"")
                raise _TryAgain("it has no more bytes")
            if response.status_code == 206 and not response.headers.get("Content-Range", "").startswith(
                f"bytes {held}-"
            ):
                raise _TryAgain("another range than the one asked for")
            with part.open("ab" if response.status_code == 206 else "wb") as file:
                room = min(self._max_bytes - self._bytes, limit or self._max_bytes)
                if remote.size is not None and remote.size > room:
                    _refuse_size(remote.size, room)
                for chunk in response.iter_raw():
                    file.write(chunk)
                    if file.tell() > room:
                        _refuse_size(file.tell(), room)
                    if time.monotonic() > self._end:
                        raise _TryAgain("it takes too long")
        if remote.size is not None and part.stat().st_size != remote.size:
            raise _TryAgain(f"{part.stat().st_size} of {remote.size} bytes came")
        return remote

    @contextlib.contextmanager
    def _open(self, url: httpx.URL, held: int) -> Iterator[tuple[httpx.Response | None, Remote]]:
        """The answer behind the hub's redirects, and what they said of the file; None where there is no file."""
        said: dict[str, str] = {}
        for _ in range(_MAX_REDIRECTS + 1):
            headers = {"Range": f"bytes={held}-"} if held else {}
            response = self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
            try:
                said = {**dict(response.headers), **said}  # the hub's own word before that of its storage
                if response.next_request is not None:
                    url = response.next_request.url
                    self._check(url)
                    continue
                if response.status_code == 404:
                    yield None, Remote(commit="", size=None, sha256=None)
                else:
                    _check_status(response)
                    yield response, _remote(said, response)
                return
            finally:
                response.close()
        raise InputError("unavailable", "The hub's redirects lead nowhere.", hint=_BY_HAND, param="/hub")

    def _check(self, url: httpx.URL) -> None:
        """Only https, without a name and a password; plain http only between a hub on this machine and itself.

        Raises:
            InputError: ``unsafe_file``.
        """
        is_ours = self._is_local and url.scheme == "http" and _is_loopback(url.host)
        if url.userinfo or not (url.scheme == "https" or is_ours):
            message = (
                f"The hub leads to {url.scheme}://{url.host}, where nothing is fetched from: only https is followed."
            )
            raise InputError("unsafe_file", message, hint=_BY_HAND, param="/hub")


def _remote(said: dict[str, str], response: httpx.Response) -> Remote:
    commit = said.get("x-repo-commit", "")
    if response.status_code != 416 and not _COMMIT.fullmatch(commit):
        message = "The hub does not say which commit its answer is of."
        raise InputError(
            "invalid_value", message, hint="LIMBECK_HUB_URL must be a hub of Hugging Face's kind.", param="/hub"
        )
    _, _, total = response.headers.get("Content-Range", "").rpartition("/")
    size = said.get("x-linked-size") or (
        total if response.status_code == 206 else response.headers.get("Content-Length")
    )
    tag = said.get("x-linked-etag", "").removeprefix("W/").strip('"')
    return Remote(
        commit=commit,
        size=int(size) if size and size.isdigit() else None,
        sha256=tag if _SHA256.fullmatch(tag) else None,
    )


def _check_status(response: httpx.Response) -> None:
    """Whether a file comes; raises InputError where none ever will."""
    status = response.status_code
    if status in (200, 206, 416):
        return
    if status in (401, 403):
        message = f"The hub does not give it to everybody ({status}): it is private, gated or not there."
        hint = f"Accept its terms there and download it yourself: {_BY_HAND}"
        raise InputError("invalid_value", message, hint=hint, param="/hub")
    if status in (408, 429) or status >= 500:
        raise _TryAgain(f"it answers {status}")
    raise InputError("unavailable", f"The hub answers {status}.", hint=_BY_HAND, param="/hub")


def _refuse_size(size: int, room: int) -> NoReturn:
    message = f"A file has {size:,} bytes, and {room:,} are left of what may be fetched."
    hint = "The operator sets LIMBECK_MAX_UPLOAD_BYTES."
    raise InputError("quota_exceeded", message, hint=hint, param="/hub")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
