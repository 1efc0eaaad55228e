from __future__ import annotations

import html
import re
import statistics
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from distill import events


def text_of(answer: httpx.Response) -> str:
    """What a reader without script sees, in one line."""
    assert answer.status_code == 200
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


@pytest.fixture
def made(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    axes = [
        {"path": "/method", "values": [{"type": "srrl"}, {"type": "ce"}], "labels": ["<b>SRRL</b>", "control"]},
        {"path": "/training/seed", "values": [0, 1]},
    ]
    answer = client.post("/distill/sweep", json={"name": "<i>compare</i>", "base": body, "axes": axes})
    return dict(answer.raise_for_status().json())


@pytest.fixture
def workers(made: dict[str, Any], hire: Callable[..., Any]) -> list[Any]:
    return [hire(child["id"]) for child in made["children"]]


def finish(worker: Any, top1: float) -> None:
    worker.claim()
    worker.record(events.Report(report={"teacher": {"top1": 0.9}, "student": {"top1": top1, "cka": 0.71}}))
    worker.finish()


def test_the_page_shows_where_it_stands_and_the_table(
    client: httpx.Client, made: dict[str, Any], workers: list[Any]
) -> None:
    page = text_of(client.get(made["links"]["web"]))
    assert "<i>compare</i>" in page
    assert "0 of 4 jobs done, 4 waiting" in page
    assert "The first numbers come with the first job that is done." in page

    finish(workers[0], 0.88)
    finish(workers[1], 0.89)
    finish(workers[2], 0.85)
    workers[3].claim()
    workers[3].epoch(3, 0.5)
    page = text_of(client.get(made["links"]["web"]))
    assert "3 of 4 jobs done, 1 running" in page
    deviation = 100 * statistics.stdev([0.88, 0.89])
    assert f"<b>SRRL</b> 88.50 ± {deviation:.2f} 90.00 ± 0.00 0.710 ± 0.000 0.0" in page
    assert "2 of 2" in page
    assert "control 85.00 90.00 0.710 0.0" in page
    assert "1 of 2" in page
    assert "epoch 3 of 4, 50.00 %" in page
    assert "abels alone" not in page  # no job has a baseline to show


def test_the_page_follows_its_jobs_and_they_lead_to_it(
    client: httpx.Client, made: dict[str, Any], workers: list[Any], job_id: str
) -> None:
    workers[0].claim()
    workers[0].epoch(2, 0.5)
    page = client.get(made["links"]["web"]).text
    state = client.get(f"{made['links']['web']}/state.json").json()
    bound = dict(re.findall(r'data-bind="(\w+)"[^>]*>([^<]*)<', page))
    assert bound.pop("percent", "") == ""
    assert bound == {name: str(state[name]) for name in bound}
    assert {"status", "sentence", *(child["id"] for child in made["children"])} <= set(bound)
    assert state["percent"] == pytest.approx(100 * 6 / 24 / 4)
    before = state["layout"]
    workers[0].finish()
    assert client.get(f"{made['links']['web']}/state.json").json()["layout"] != before

    for child in made["children"]:
        assert f'href="/jobs/{child["id"]}"' in page
        assert f'href="{made["links"]["web"]}"' in client.get(f"/jobs/{child['id']}").text
    front = client.get("/").text
    assert front.count(f'href="{made["links"]["web"]}"') == 4
    assert "/sweeps/" not in client.get(f"/jobs/{job_id}").text
    rows = {row["id"]: row["sweep"] for row in client.get("/jobs.json").json()["jobs"]}
    assert (rows[job_id], rows[made["children"][0]["id"]]) == ("", made["links"]["web"])


def test_a_failed_job_says_why_and_what_users_write_stays_text(
    client: httpx.Client, made: dict[str, Any], workers: list[Any]
) -> None:
    workers[0].claim()
    workers[0].fail({"code": "loss_diverged", "message": "The loss is not finite.", "hint": ""})
    client.post(made["links"]["cancel"])
    page = client.get(made["links"]["web"])
    assert "The loss is not finite." in page.text
    assert "0 of 4 jobs done, 1 failed, 3 cancelled" in text_of(page)
    assert "data-done" in page.text
    for path in (made["links"]["web"], f"/jobs/{made['children'][0]['id']}"):
        text = client.get(path).text
        assert "<b>SRRL" not in text
        assert "<i>compare" not in text
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text)


def test_an_unknown_sweep_has_no_page(client: httpx.Client) -> None:
    assert client.get("/sweeps/sw_none").status_code == 404


def test_a_column_has_the_last_name_of_its_path_where_that_is_enough(
    client: httpx.Client, body: dict[str, Any], hire: Callable[..., Any]
) -> None:
    method = {"type": "kd", "kd": {"weight": 1.0}, "extra": [{"type": "sp", "sp": {"weight": 1.0}}]}
    paths = ("/method/kd/weight", "/method/extra/0/sp/weight", "/student/options/width")
    axes = [{"path": path, "values": [0.5]} for path in paths]
    for chosen, titles in ((axes[1:], "weight width"), (axes[:2], f"{paths[0]} {paths[1]}")):
        request = {"name": "x", "base": body | {"method": method}, "axes": chosen}
        made = client.post("/distill/sweep", json=request).raise_for_status().json()
        finish(hire(made["children"][0]["id"]), 0.8)
        assert f"Side by side {titles} Student" in text_of(client.get(made["links"]["web"]))
