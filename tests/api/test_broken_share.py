"""Which share of broken images a data set may have: asked for, kept, told and held to, over HTTP and by a worker."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from service import settings as settings_module
from tests.fixtures.archives import zipped
from worker.preparer import prepare_next


def picture(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("L", (6, 6), value).save(data, "PNG")
    return data.getvalue()


def images(*, broken: int, sound: int = 30) -> bytes:
    members = {f"{'ab'[n % 2]}/{n:02}.png": picture(80 * (1 + n % 2)) for n in range(sound)}
    return zipped(members | {f"a/broken-{n}.png": b"no image" for n in range(broken)})


def prepared(client: httpx.Client, dataset: dict[str, Any]) -> dict[str, Any]:
    while prepare_next("tester", stopping=threading.Event()):
        pass
    found: dict[str, Any] = client.get(f"/datasets/{dataset['id']}").json()
    return found


def test_it_is_kept_told_and_held_to(client: httpx.Client, upload: Callable[..., str]) -> None:
    upload_id = upload(images(broken=10), "dataset")
    strict, mild = (
        client.post("/datasets", json={"upload_id": upload_id, **asked}).raise_for_status().json()
        for asked in ({}, {"max_broken_share": 0.25})
    )
    assert strict["report"] == {"max_broken_share": 0.05}
    assert mild["report"] == {"max_broken_share": 0.25}

    mild, strict = prepared(client, mild), prepared(client, strict)

    assert (mild["status"], mild["report"]["skipped_count"], mild["report"]["max_broken_share"]) == ("ready", 10, 0.25)
    assert mild["report"]["skipped"][0]["reason"] == "not a JPEG, PNG, WebP or BMP image"
    assert (strict["status"], strict["error"]["code"]) == ("error", "dataset_unreadable")
    assert strict["error"]["details"]["skipped_count"] == 10
    assert strict["error"]["details"]["count"] == 40
    assert strict["error"]["details"]["max_broken_share"] == 0.05


def test_the_operator_sets_it_for_all_others(
    client: httpx.Client, upload: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMBECK_MAX_BROKEN_SHARE", "0.5")
    settings_module.settings.cache_clear()
    upload_id = upload(images(broken=1), "dataset")

    answers = [client.post("/datasets", json={"upload_id": upload_id} | asked).json() for asked in ({}, NONE)]

    assert [answer["report"]["max_broken_share"] for answer in answers] == [0.5, 0.0]


NONE = {"max_broken_share": 0}


@pytest.mark.parametrize("share", [-0.01, 1.01, "half"])
def test_it_is_a_share(client: httpx.Client, upload: Callable[..., str], share: Any) -> None:
    answer = client.post(
        "/datasets", json={"upload_id": upload(images(broken=0), "dataset"), "max_broken_share": share}
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/max_broken_share"


def test_a_job_asks_for_it_inline(client: httpx.Client, upload: Callable[..., str], teacher_id: str) -> None:
    body = {
        "teacher": {"id": teacher_id},
        "dataset": {"upload_id": upload(images(broken=1), "dataset"), "max_broken_share": 0.5},
        "student": {"architecture": "resnet8", "options": {"width": 0.5}},
    }
    job = client.post("/distill", json=body).raise_for_status().json()
    found = client.get(f"/datasets/{job['dataset']['id']}").json()
    assert found["report"]["max_broken_share"] == 0.5

    body["dataset"] = {"id": found["id"], "max_broken_share": 0.5}
    refused = client.post("/distill", json=body)
    assert refused.status_code == 422
    assert "max_broken_share" in refused.text


def test_a_preset_is_registered_once_for_each_share(client: httpx.Client, tmp_path: Path) -> None:
    for label in "ab":
        for split, count in (("train", 6), ("val", 2)):
            folder = tmp_path / "data" / "presets" / "imagenet" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.JPEG").write_bytes(picture(60 * "ab".index(label) + 60))
    asked = [{}, {"max_broken_share": 0.05}, {"max_broken_share": 0.2}, {}, {"max_broken_share": 0.2}]

    answers = [client.post("/datasets", json={"preset": "imagenet", **share}) for share in asked]

    assert [answer.status_code for answer in answers] == [202, 200, 202, 200, 200]
    assert len({answer.json()["id"] for answer in answers}) == 2
