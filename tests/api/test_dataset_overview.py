"""What is shown of a data set: report, preview, everything that was skipped, and its page."""

from __future__ import annotations

import csv
import io
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models import Dataset
from service import database as database_module
from tests.api.test_pages import text_of
from tests.fixtures.archives import gzipped
from worker.preparer import prepare_next

NAMES = ["<b>ox", "bee"]
NUM_NOTES = 130


def png(seed: int) -> bytes:
    """A grey image of 16 x 16 pixels, each other than the others."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def folders() -> dict[str, bytes]:
    """Two classes with five train images and two test images each, and much beside them.

    The second test image of each class is its first train image, and the last train image of the second class is the
    last of the first one.
    """
    files: dict[str, bytes] = {}
    for number, name in enumerate(NAMES):
        seeds = {f"train/{name}/{i}.png": 10 * number + i for i in range(4)}
        seeds |= {f"train/{name}/9.png": 99, f"test/{name}/0.png": 50 + number, f"test/{name}/1.png": 10 * number}
        files |= {path: png(seed) for path, seed in seeds.items()}
    files |= {f"train/bee/note {i:03}.txt": b"x" for i in range(NUM_NOTES)}
    files["=HYPERLINK(1).txt"] = b"x"
    return files | {"__MACOSX/a.png": b"x", "train/bee/.DS_Store": b"x"}


@pytest.fixture
def made(client: httpx.Client, upload: Callable[..., str]) -> dict[str, Any]:
    """A data set of folders that no worker has read yet."""
    upload_id = upload(gzipped(folders()), "dataset", "<i>photos.tgz")
    made: dict[str, Any] = client.post("/datasets", json={"upload_id": upload_id}).raise_for_status().json()
    return made


@pytest.fixture
def ready(client: httpx.Client, made: dict[str, Any], prepare: Callable[[], None]) -> dict[str, Any]:
    prepare()
    ready: dict[str, Any] = client.get(f"/datasets/{made['id']}").json()
    assert ready["status"] == "ready", ready["error"]
    return ready


class TestBeforeItIsReady:
    @pytest.mark.parametrize("part", ["preview", "skipped"])
    def test_what_is_not_there_yet_says_when_it_comes(
        self, client: httpx.Client, made: dict[str, Any], part: str
    ) -> None:
        problem = client.get(f"/datasets/{made['id']}/{part}").json()
        assert (problem["status"], problem["code"]) == (404, "not_found")
        assert made["id"] in problem["detail"]
        assert "worker" in problem["hint"]
        assert made["links"]["preview"] is None
        assert made["links"]["skipped"] is None

    @pytest.mark.parametrize("part", ["preview", "skipped", "page", "state.json"])
    def test_no_such_data_set(self, client: httpx.Client, part: str) -> None:
        assert client.get(f"/datasets/ds_none/{part}").json()["code"] == "not_found"

    def test_its_page_follows_it(self, client: httpx.Client, made: dict[str, Any], prepare: Callable[[], None]) -> None:
        page = client.get(made["links"]["web"])
        assert "Waiting until a worker has read every image" in text_of(page)
        assert "data-done" not in page.text
        before = client.get(f"/datasets/{made['id']}/state.json").json()
        prepare()
        after = client.get(f"/datasets/{made['id']}/state.json").json()
        assert (before["status"], after["status"]) == ("processing", "ready")
        assert before["layout"] != after["layout"]

    def test_of_one_that_failed_the_page_says_why(self, client: httpx.Client, upload: Callable[..., str]) -> None:
        files = {f"{name}/{i}.png": b"no image" for name in NAMES for i in range(3)}
        body = {"upload_id": upload(gzipped(files), "dataset")}
        made = client.post("/datasets", json=body).raise_for_status().json()
        assert prepare_next("tester", stopping=threading.Event())
        page = client.get(made["links"]["web"])
        assert "It cannot be used: 6 of 6 images cannot be read" in text_of(page)
        assert "data-done" in page.text
        for part in ("preview", "skipped"):
            problem = client.get(f"/datasets/{made['id']}/{part}").json()
            assert (problem["status"], problem["hint"]) == (404, "Its error says what is wrong with the file.")


class TestPreview:
    def test_it_is_an_image_that_is_kept_by_its_hash(self, client: httpx.Client, ready: dict[str, Any]) -> None:
        facts = ready["report"]["preview"]
        answer = client.get(ready["links"]["preview"])
        assert answer.headers["content-type"] == facts["content_type"] == "image/webp"
        assert answer.headers["etag"] == f'"{facts["sha256"]}"'
        assert answer.headers["cache-control"] == "private, max-age=3600"
        assert len(answer.content) == facts["bytes"]
        with Image.open(io.BytesIO(answer.content)) as sheet:
            sheet.load()
            assert (sheet.format, sheet.size) == ("WEBP", (facts["width"], facts["height"]))
        again = client.get(ready["links"]["preview"], headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    def test_a_worker_makes_it_in_its_confined_process(self, client: httpx.Client, made: dict[str, Any]) -> None:
        assert prepare_next("tester", stopping=threading.Event())
        ready = client.get(f"/datasets/{made['id']}").json()
        assert client.get(ready["links"]["preview"]).content.startswith(b"RIFF")
        assert ready["report"]["duplicates"]["test"]["exact"] == 2
        assert len(client.get(f"{ready['links']['skipped']}?limit=1000").json()["data"]) == NUM_NOTES + 1

    def test_it_goes_with_the_data_set(self, client: httpx.Client, ready: dict[str, Any], tmp_path: Path) -> None:
        kept = [path.name for path in (tmp_path / "data" / "artifacts" / "inputs").iterdir()]
        assert {name.partition(".")[2] for name in kept} == {"safetensors", "preview.webp", "skipped.jsonl"}
        assert client.delete(f"/datasets/{ready['id']}").status_code == 204
        assert [path for path in (tmp_path / "data" / "artifacts").rglob("*") if path.is_file()] == []
        assert client.get(ready["links"]["preview"]).status_code == 404

    def test_a_data_set_of_an_earlier_version_has_none(
        self, client: httpx.Client, ready: dict[str, Any], tmp_path: Path
    ) -> None:
        for path in (tmp_path / "data" / "artifacts" / "inputs").glob("*.*.*"):
            path.unlink()
        with database_module.begin() as session:
            row = session.get_one(Dataset, ready["id"])
            row.report = {name: value for name, value in row.report.items() if name not in ("preview", "duplicates")}
        problem = client.get(ready["links"]["preview"]).json()
        assert (problem["status"], problem["hint"]) == (404, "Register the upload again.")
        assert client.get(f"/datasets/{ready['id']}").json()["links"]["preview"] is None
        assert len(client.get(f"{ready['links']['skipped']}?limit=1000").json()["data"]) == 100
        page = client.get(ready["links"]["web"])
        assert "Duplicates" not in text_of(page)
        assert '<img src="/datasets' not in page.text


class TestSkipped:
    def test_page_by_page_it_is_the_whole_list(self, client: httpx.Client, ready: dict[str, Any]) -> None:
        assert (len(ready["report"]["skipped"]), ready["report"]["skipped_count"]) == (100, NUM_NOTES + 1)
        assert ready["report"]["ignored"] == 2
        assert ready["report"]["ignored_kinds"] == {".DS_Store": 1, "__MACOSX": 1}
        lines: list[dict[str, str]] = []
        after, pages = "0", 0
        while True:
            page = client.get(ready["links"]["skipped"], params={"limit": 60, "after": after}).json()
            lines, after, pages = lines + page["data"], page["last_id"], pages + 1
            if not page["has_more"]:
                break
        assert pages == 3
        assert [line["id"] for line in lines] == [str(number) for number in range(1, NUM_NOTES + 2)]
        assert {line["path"] for line in lines} == {name for name in folders() if name.endswith(".txt")}
        assert {line["reason"] for line in lines} == {"not a JPEG, PNG, WebP or BMP"}
        assert [{"path": line["path"], "reason": line["reason"]} for line in lines[:100]] == ready["report"]["skipped"]

    def test_as_a_table_it_is_the_whole_list_and_no_formula(self, client: httpx.Client, ready: dict[str, Any]) -> None:
        answer = client.get(ready["links"]["skipped"], headers={"Accept": "text/csv"})
        assert answer.headers["content-type"].startswith("text/csv")
        header, *rows = list(csv.reader(io.StringIO(answer.text)))
        assert header == ["path", "reason"]
        assert len(rows) == NUM_NOTES + 1
        assert ["'=HYPERLINK(1).txt", "not a JPEG, PNG, WebP or BMP"] in rows

    def test_behind_the_end_there_is_nothing(self, client: httpx.Client, ready: dict[str, Any]) -> None:
        page = client.get(ready["links"]["skipped"], params={"after": 5000}).json()
        assert (page["data"], page["has_more"], page["last_id"]) == ([], False, None)

    def test_nothing_was_skipped(self, client: httpx.Client, dataset_id: str, prepare: Callable[[], None]) -> None:
        prepare()
        assert client.get(f"/datasets/{dataset_id}/skipped").json()["data"] == []
        answer = client.get(f"/datasets/{dataset_id}/skipped", headers={"Accept": "text/csv"})
        assert answer.text == "path,reason\r\n"

    @pytest.mark.parametrize("query", ["limit=0", "limit=1001", "after=-1", "after=x"])
    def test_other_pages_are_refused(self, client: httpx.Client, ready: dict[str, Any], query: str) -> None:
        assert client.get(f"{ready['links']['skipped']}?{query}").json()["code"] == "invalid_value"


def test_duplicates_are_told_with_their_classes_and_noted(client: httpx.Client, ready: dict[str, Any]) -> None:
    train, test = (ready["report"]["duplicates"][split] for split in ("train", "test"))
    assert ready["report"]["classes"] == NAMES
    assert train == {"exact": 1, "conflicting": 2, "pairs": [{"train": 9, "earlier": 4, "labels": [1, 0]}]}
    assert (test["searched"], test["exact"], test["near"], test["share"]) == (4, 2, 2, 0.5)
    assert test["pairs"] == [
        {"test": 1, "train": 0, "distance": 0.0, "labels": [0, 0]},
        {"test": 3, "train": 5, "distance": 0.0, "labels": [1, 1]},
    ]
    said = " ".join(ready["report"]["notes"])
    assert "2 of 4 test images (50.0%) are in train too" in said
    assert "1 of 10 train images are equal to earlier ones" in said
    assert "2 train images have equals with another label" in said


def test_the_page_shows_it_all_as_text(client: httpx.Client, ready: dict[str, Any]) -> None:
    page = client.get(ready["links"]["web"])
    text = text_of(page)
    assert "10 images to train on and 4 to test with, 16 × 16 pixels, grey" in text
    assert "2 of 4 test images (50.00 %) are in train too, 2 of them equal, the others nearly so." in text
    assert "0 <b>ox 5 2 1 bee 5 2" in text
    assert "3 5 1.0000 bee" in text
    assert "9 4 bee / <b>ox" in text
    assert "131 files were left out" in text
    assert "train/bee/note 007.txt not a JPEG, PNG, WebP or BMP" in text
    assert "And 31 more" in text
    assert "The files' own pixels 16 to 16 × 16 to 16, median 16 × 16 Their modes L 14" in text
    assert "what systems leave behind 2: .DS_Store 1, __MACOSX 1" in text
    facts = ready["report"]["preview"]
    assert f'<img src="{ready["links"]["preview"]}" width="{facts["width"]}" height="{facts["height"]}"' in page.text
    for markup in ("<b>ox", "<i>photos"):
        assert markup not in page.text
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", page.text)


def test_pages_of_points_and_of_images_without_labels(
    client: httpx.Client, upload: Callable[..., str], prepare: Callable[[], None]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 20, 20), dtype=np.uint8)
    points = np.random.default_rng(1).uniform(0, 19, (6, 4, 2))
    pages = []
    for arrays in (
        {"landmarks_train": points, "landmarks_test": points[:3], "x_train": images, "x_test": images[:3]},
        {"x_train": images, "x_test": images[:3]},
    ):
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        body = {"upload_id": upload(buffer.getvalue(), "dataset", "faces.npz")}
        made = client.post("/datasets", json=body).raise_for_status().json()
        prepare()
        pages.append(client.get(made["links"]["web"]))
        assert client.get(f"/datasets/{made['id']}/preview").status_code == 200
    for page in pages:
        assert "6 images to train on and 3 to test with, 20 × 20 pixels, in colour" in text_of(page)
        assert "3 of 3 test images (100.00 %) are in train too" in text_of(page)
    assert "Points 4" in text_of(pages[0])


def test_a_jobs_page_leads_to_its_data_set(client: httpx.Client, job_id: str, dataset_id: str) -> None:
    page = client.get(f"/jobs/{job_id}").text
    assert f'href="/datasets/{dataset_id}/page"' in page
    assert client.get(f"/datasets/{dataset_id}/page").status_code == 200
