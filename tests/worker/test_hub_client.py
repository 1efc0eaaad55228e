"""Fetching from a hub, against a real server that speaks as one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.errors import InputError
from tests.fixtures.hub import COMMIT, Hub, hub_of
from tests.fixtures.model_folders import resnet_folder
from worker.hub_client import HubClient

FILES = {**resnet_folder(), "preprocessor_config.json": b"{}", "README.md": b"# a network", "model.py": b"import os"}
WEIGHTS = FILES["model.safetensors"]
INDEX = json.dumps({"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}).encode()
SHARDED = {
    "config.json": FILES["config.json"],
    "model.safetensors.index.json": INDEX,
    "m-1.safetensors": WEIGHTS,
    "m-2.safetensors": WEIGHTS[:100],
}
REPOSITORIES = {
    "owner/net": FILES,
    "owner/sharded": SHARDED,
    "owner/unknown": {**FILES, "config.json": b'{"architectures": ["LlamaForCausalLM"]}'},
    "owner/pickled": {"config.json": FILES["config.json"], "pytorch_model.bin": b"PK"},
    "owner/torn": {name: data for name, data in SHARDED.items() if name != "m-2.safetensors"},
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_of(REPOSITORIES) as running:
        yield running


def fetched(hub: Hub, folder: Path, repository: str = "owner/net", **settings: Any) -> dict[str, Any]:
    limits = {"max_bytes": 2**30, "pause": 0.001} | {k: v for k, v in settings.items() if k != "revision"}
    with HubClient(settings.get("url", hub.url), **{k: v for k, v in limits.items() if k != "url"}) as client:
        return client.fetch(repository, revision=settings.get("revision", "main"), folder=folder)


@pytest.mark.parametrize("revision", ["main", "v1", COMMIT])
def test_configs_and_weights_come_and_nothing_else(hub: Hub, tmp_path: Path, revision: str) -> None:
    told = fetched(hub, tmp_path, revision=revision)

    wanted = ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: FILES[name] for name in wanted}
    assert told["commit"] == COMMIT
    assert told["files"] == [
        {"name": name, "bytes": len(FILES[name]), "sha256": hashlib.sha256(FILES[name]).hexdigest()} for name in wanted
    ]
    assert told["bytes"] == sum(len(FILES[name]) for name in wanted)
    # The first answer says which commit it is of; all others are asked for by that.
    assert [path.split("/resolve/")[1] for path, _ in hub.seen if "resolve" in path] == [
        f"{revision}/config.json",
        f"{COMMIT}/model.safetensors",
        f"{COMMIT}/preprocessor_config.json",
    ]


def test_weights_in_several_files(hub: Hub, tmp_path: Path) -> None:
    told = fetched(hub, tmp_path, "owner/sharded")

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == SHARDED
    assert {file["name"] for file in told["files"]} == set(SHARDED)


def test_a_broken_line_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.cut_after = 1000

    fetched(hub, tmp_path)

    assert (tmp_path / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [asked for path, asked in hub.seen if path.endswith("/resolve/" + COMMIT + "/model.safetensors")]
    assert ranges == [None, "bytes=1000-"]


def test_a_busy_hub_is_asked_again_and_a_dead_one_not_forever(hub: Hub, tmp_path: Path) -> None:
    hub.busy = 4
    fetched(hub, tmp_path)
    assert (tmp_path / "model.safetensors").exists()

    hub.busy = 1000
    hub.seen.clear()
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match="503") as caught:
        fetched(hub, tmp_path / "again")
    assert caught.value.code == "unavailable"
    assert len(hub.seen) == 5


def test_where_nobody_listens_is_unavailable(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        fetched(hub, tmp_path, url="http://127.0.0.1:9")

    assert (caught.value.code, bool(caught.value.hint)) == ("unavailable", True)


REFUSED: dict[str, tuple[str, Callable[[Hub], dict[str, Any]], str, str]] = {
    "wrong hash": ("owner/net", lambda hub: vars(hub).update(wrong_hash=True) or {}, "upload_corrupt", "SHA-256"),
    "gated": ("owner/net", lambda hub: vars(hub).update(gated=True) or {}, "invalid_value", "401"),
    "no such repository": ("owner/nothing", lambda _: {}, "invalid_value", "owner/nothing at main"),
    "no such revision": ("owner/net", lambda _: {"revision": "v2"}, "invalid_value", "owner/net at v2"),
    "a network that is not read": ("owner/unknown", lambda _: {}, "architecture_unknown", "LlamaForCausalLM"),
    "pickles alone": ("owner/pickled", lambda _: {}, "unsupported_format", "no safetensors"),
    "a file that its index names": ("owner/torn", lambda _: {}, "upload_corrupt", "m-2.safetensors"),
    "more than may be fetched": ("owner/net", lambda _: {"max_bytes": 1000}, "quota_exceeded", "1,000|bytes"),
    "plain http elsewhere": (
        "owner/net",
        lambda hub: vars(hub).update(redirect_to="http://192.0.2.1/weights") or {},
        "unsafe_file",
        "http://192.0.2.1",
    ),
    "a password in an address": (
        "owner/net",
        lambda hub: vars(hub).update(redirect_to="https://user:word@example.org/weights") or {},
        "unsafe_file",
        "https://example.org",
    ),
    "another kind of server": (
        "owner/net",
        lambda hub: vars(hub).update(no_commit=True) or {},
        "invalid_value",
        "which commit",
    ),
    "a hub over plain http elsewhere": (
        "owner/net",
        lambda _: {"url": "http://example.org"},
        "unsafe_file",
        "http://example.org",
    ),
}


@pytest.mark.parametrize(("repository", "prepare", "code", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_fetched(
    hub: Hub, tmp_path: Path, repository: str, prepare: Callable[[Hub], dict[str, Any]], code: str, said: str
) -> None:
    settings = prepare(hub)

    with pytest.raises(InputError, match=said) as caught:
        fetched(hub, tmp_path, repository, **settings)

    assert caught.value.code == code
    assert caught.value.hint
    assert not (tmp_path / "model.safetensors").exists()


def test_weights_of_a_network_that_is_not_read_are_not_even_asked_for(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        fetched(hub, tmp_path, "owner/unknown")

    assert [path for path, _ in hub.seen] == ["/owner/unknown/resolve/main/config.json"]


def test_redirects_that_never_end(hub: Hub, tmp_path: Path) -> None:
    hub.redirect_to = f"{hub.url}/owner/net/resolve/{COMMIT}/model.safetensors"

    with pytest.raises(InputError, match="nowhere") as caught:
        fetched(hub, tmp_path)

    assert caught.value.code == "unavailable"
    assert len(hub.seen) == 1 + 6
