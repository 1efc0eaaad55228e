"""What is wrong with a sweep, told of the place in its body that brought it; and then nothing is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

Body = dict[str, Any]
METHODS = {"path": "/method", "values": [{"type": "srrl"}, {"type": "ce"}]}
SEEDS = {"path": "/training/seed", "values": [0, 1, 2]}


def nothing_is_stored(client: httpx.Client) -> bool:
    return not any(client.get(path).json()["data"] for path in ("/distill/sweep", "/distill"))


def refused(answer: httpx.Response) -> dict[str, Any]:
    """The first flaw of each pointer."""
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    return {flaw["pointer"]: flaw for flaw in reversed(problem["errors"])}


def test_a_value_is_blamed_for_what_it_brings(client: httpx.Client, sweep: Body) -> None:
    wrong = {"type": "srrl", "srrl": {"feature_wieght": 1}}
    sweep["axes"] = [{"path": "/method", "values": [{"type": "ce"}, {"type": "srl"}, wrong]}, SEEDS]
    flaws = refused(client.post("/distill/sweep", json=sweep))
    assert set(flaws) == {"/axes/0/values/1", "/axes/0/values/2"}
    flaw = flaws["/axes/0/values/2"]
    assert (flaw["code"], flaw["did_you_mean"][0]) == ("unknown_field", "feature_weight")
    assert flaw["detail"].startswith("/srrl/feature_wieght: ")
    assert flaw["details"]["pointer"] == "/method/srrl/feature_wieght"
    assert flaw["details"]["point"]["/training/seed"] == "0"
    assert nothing_is_stored(client)


def test_everything_wrong_comes_at_once_and_once(client: httpx.Client, sweep: Body) -> None:
    sweep["base"]["training"] |= {"epochs": 0}
    sweep["base"]["teacher"] = {"id": "tch_none"}
    sweep["base"]["nmae"] = 1
    students = [{"architecture": "resnet8"}, {"architecture": "resnet9000"}]
    sweep["axes"] = [
        {"path": "/student", "values": students},
        {"path": "/training/epochs", "values": [1, -1]},
        {"path": "/training/seed", "values": [0, "x"]},
    ]
    answer = client.post("/distill/sweep", json=sweep)
    assert set(refused(answer)) == {"/base/nmae", "/axes/1/values/1", "/axes/2/values/1"}
    assert len(answer.json()["errors"]) == 3
    del sweep["base"]["nmae"]
    answer = client.post("/distill/sweep", json=sweep)
    assert {p: f["code"] for p, f in refused(answer).items()} == {
        "/axes/1/values/1": "invalid_value",
        "/axes/2/values/1": "invalid_value",
        "/base/teacher/id": "not_found",
        "/axes/0/values/1": "architecture_unknown",
    }
    assert len(answer.json()["errors"]) == 4
    assert nothing_is_stored(client)


def test_every_job_is_held_against_its_inputs(
    client: httpx.Client,
    sweep: Body,
    upload: Callable[..., str],
    dataset_bytes: Callable[..., bytes],
    prepare: Callable[[], None],
) -> None:
    other = upload(dataset_bytes(num_classes=2), "dataset")
    other_id = client.post("/datasets", json={"upload_id": other}).json()["id"]
    prepare()
    sweep["axes"] = [{"path": "/dataset/id", "values": [sweep["base"]["dataset"]["id"], other_id]}, METHODS]
    (flaw,) = refused(client.post("/distill/sweep", json=sweep)).values()
    assert (flaw["pointer"], flaw["code"]) == ("/base/teacher/id", "teacher_head_mismatch")
    assert flaw["details"]["point"]["/dataset/id"] == other_id
    assert nothing_is_stored(client)


def test_an_upload_that_is_none_is_told_once(client: httpx.Client, sweep: Body) -> None:
    sweep["base"]["teacher"] = {"upload_id": "up_none", "architecture": "resnet8"}
    answer = client.post("/distill/sweep", json=sweep)
    assert list(refused(answer)) == ["/base/teacher/upload_id"]
    assert len(answer.json()["errors"]) == 1


def test_what_neither_base_nor_axis_says_is_missing_in_the_base(client: httpx.Client, sweep: Body) -> None:
    del sweep["base"]["student"]
    (flaw,) = refused(client.post("/distill/sweep", json=sweep)).values()
    assert (flaw["pointer"], flaw["code"]) == ("/base/student", "missing_field")


@pytest.mark.parametrize(
    ("axes", "pointer", "words"),
    [
        ([], "/axes", "at least 1"),
        ([{"path": "method", "values": [1]}], "/axes/0/path", "pattern"),
        ([{"path": "/method", "values": []}], "/axes/0/values", "at least 1"),
        ([{"path": "/method", "value": [1]}], "/axes/0/value", "no field"),
        ([{"path": "/name", "values": ["a"]}], "/axes/0/path", "named by its axes"),
        ([SEEDS, SEEDS], "/axes/0/path", "replaced by the later axis"),
        ([SEEDS, {"path": "/training", "values": [{}]}], "/axes/0/path", "replaced by the later axis"),
        ([SEEDS | {"values": [1, 2, 1]}], "/axes/0/values/2", "same as number 0"),
        ([SEEDS | {"labels": ["a", "b"]}], "/axes/0/labels", "2 labels for 3 values"),
        ([SEEDS | {"labels": ["a", "b", "b"]}], "/axes/0/labels/2", "same as number 1"),
        ([SEEDS | {"values": ["x" * 5000]}], "/axes/0/values", "4096"),
        ([{"path": "/name/first", "values": [1]}], "/axes/0/path", "has no parts"),
        ([{"path": "/outputs/3", "values": ["connector"]}], "/axes/0/path", "no such place"),
    ],
)
def test_axes_of_no_sense(client: httpx.Client, sweep: Body, axes: list[Body], pointer: str, words: str) -> None:
    sweep["base"]["outputs"] = ["safetensors"]
    flaws = refused(client.post("/distill/sweep", json=sweep | {"axes": axes}))
    assert words in flaws[pointer]["detail"]
    assert nothing_is_stored(client)


@pytest.mark.parametrize(
    "text", ['{"x": NaN}', '{"x": "\\ud800"}', '{"\\ud800": 1}', '{"x": ' + "[" * 40 + "]" * 40 + "}"]
)
def test_what_no_database_would_give_back_is_refused(client: httpx.Client, text: str) -> None:
    content = '{"base": ' + text + ', "axes": [{"path": "/x", "values": [1]}]}'
    answer = client.post("/distill/sweep", content=content, headers={"Content-Type": "application/json"})
    assert list(refused(answer)) == ["/base"]
