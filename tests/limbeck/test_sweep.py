from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from api.sweep_body import read_children
from limbeck import Client
from limbeck import sweep as sweep_module
from limbeck.demo import EXAMPLE
from limbeck.errors import CommandError
from limbeck.submit import LocalFile
from limbeck.sweep import ending, read_sweep, send_sweep, sweep_table, watch_sweep
from service.sweep_spec import SweepSpec

SWEEP = {
    "name": "compare",
    "base": {
        "teacher_upload": {"file": "teacher.safetensors", "architecture": "resnet20"},
        "dataset": {"id": "ds_1"},
        "student": {"architecture": "resnet8"},
    },
    "axes": [
        {"path": "/method", "values": [{"type": "srrl"}, {"type": "ce"}]},
        {"path": "/training/seed", "values": [0, 1]},
    ],
}
NAMES = ("student_top1", "teacher_top1", "baseline_top1", "gain", "agreement", "kl_to_teacher", "cka", "seconds")


def child(number: int, status: str, top1: float | None = None) -> dict[str, Any]:
    figures: dict[str, float | None] = dict.fromkeys(NAMES)
    if top1 is not None:
        figures |= {"student_top1": top1, "seconds": 24.3}
    error = {"code": "x", "message": "The loss is not finite."} if status == "failed" else None
    ended = status in ("succeeded", "failed")
    name = f"compare · {('srrl', 'ce')[number // 2]} · seed {number % 2}"
    return {
        "id": f"dj_{number}",
        "name": name,
        "status": status,
        "is_terminal": ended,
        "figures": figures,
        "error": error,
    }


def row(label: str, finished: int, **figures: tuple[float, float | None]) -> dict[str, Any]:
    said = {name: figures.get(name, (None, None)) for name in NAMES}
    return {
        "point": [{"path": "/method", "label": label, "value": {}}],
        "num_jobs": 2,
        "num_finished": finished,
        "is_complete": finished == 2,
        "figures": {name: {"n": 0 if m is None else finished, "mean": m, "sd": sd} for name, (m, sd) in said.items()},
    }


def state(status: str, *children: dict[str, Any], table: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    found = [each["status"] for each in children]
    return {
        "id": "sw_1",
        "status": status,
        "is_terminal": status in ("succeeded", "failed"),
        "num_jobs": len(children),
        "counts": {each: found.count(each) for each in sorted(set(found))},
        "axes": SWEEP["axes"],
        "children": list(children),
        "table": table or [],
    }


TABLE = [
    row("srrl [a]", 2, student_top1=(0.8824, 0.0051), seconds=(24.0, 1.2), gain=(-0.0012, None)),
    row("ce", 1, student_top1=(0.85, None), seconds=(12.0, None)),
]


@pytest.fixture
def comparing(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service with a sweep of four jobs, of which one fails."""
    monkeypatch.setattr(sweep_module, "_POLL", 0.02)
    states = [
        state("queued", *(child(n, "queued") for n in range(4))),
        state("running", child(0, "succeeded", 0.8854), child(1, "running"), child(2, "queued"), child(3, "queued")),
        state(
            "failed",
            child(0, "succeeded", 0.8854),
            child(1, "succeeded", 0.8794),
            child(2, "succeeded", 0.85),
            child(3, "failed"),
            table=TABLE,
        ),
    ]
    busy = scripted.reply(503, {"detail": "restarting"}, Retry_After="0")
    answers = [scripted.reply(200, each) for each in states]
    scripted.on("GET", "/distill/sweep/sw_1", answers[0], busy, *answers[1:])
    scripted.on("POST", "/distill/sweep", scripted.reply(202, states[0]))
    return scripted


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.json"
    path.write_text(json.dumps(SWEEP))
    return path


@pytest.fixture
def client(scripted: Any) -> Iterator[Client]:
    with Client(scripted.url) as made:
        yield made


def test_the_base_names_local_files_as_a_job_does(file: Path) -> None:
    request = read_sweep(file)
    assert request.body == {"name": "compare", "axes": SWEEP["axes"]}
    assert request.base.body == {"dataset": {"id": "ds_1"}, "student": {"architecture": "resnet8"}}
    facts = {"architecture": "resnet20"}
    assert request.base.teacher == LocalFile(path=file.parent / "teacher.safetensors", facts=facts)


@pytest.mark.parametrize(
    ("figures", "shown"),
    [
        ({"student_top1": 0.8854, "agreement": 0.93}, "88.54% in 24 s"),
        ({"student_nme": 0.0512, "teacher_nme": 0.0431}, "error 5.12% in 24 s"),
        ({"student_top1": None, "agreement": 0.93}, "agrees 93.00% in 24 s"),
    ],
)
def test_each_kind_of_job_ends_with_its_own_figure(figures: dict[str, float | None], shown: str) -> None:
    ended: Any = child(0, "succeeded") | {"figures": {**figures, "seconds": 24.3}}
    assert ending(ended) == f"compare · srrl · seed 0: {shown}"


def test_the_shipped_sweep_is_one() -> None:
    request = read_sweep(EXAMPLE.with_name("sweep.json"))
    assert request.base.teacher is not None
    assert request.base.teacher.path.is_file()
    assert request.base.dataset is not None
    assert request.base.dataset.path.is_file()
    base = {**request.base.body, "teacher": {"id": "tch_1"}, "dataset": {"id": "ds_1"}}
    children, wrong = read_children(SweepSpec.model_validate({**request.body, "base": base}))
    assert (len(children), wrong) == (9, [])


@pytest.mark.parametrize("content", [{"axes": []}, {"base": {}}, {"base": 5, "axes": []}])
def test_a_file_that_is_no_sweep(tmp_path: Path, content: Any) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps(content))
    with pytest.raises(CommandError, match="is no sweep"):
        read_sweep(tmp_path / "sweep.json")


def test_uploads_are_sent_before_and_the_base_has_their_ids(scripted: Any, client: Client, file: Path) -> None:
    (file.parent / "teacher.safetensors").write_bytes(b"weights")
    scripted.on("GET", "/teachers", scripted.reply(200, {"data": []}))
    scripted.takes("up_9", size=len(b"weights"))
    scripted.on("POST", "/teachers", scripted.reply(202, {"id": "tch_9", "status": "processing"}))
    scripted.on("GET", "/teachers/tch_9", scripted.reply(200, {"id": "tch_9", "status": "ready"}))
    scripted.on("POST", "/distill/sweep", scripted.hang_up, scripted.reply(202, {"id": "sw_1"}))
    made = send_sweep(client, read_sweep(file), out=Console(quiet=True), idempotency_key="mine")
    assert made["id"] == "sw_1"
    posted = [asked for asked in scripted.asked if asked.path == "/distill/sweep"]
    assert [asked.headers["Idempotency-Key"] for asked in posted] == ["mine", "mine"]
    base = {"teacher": {"id": "tch_9"}, "dataset": {"id": "ds_1"}, "student": {"architecture": "resnet8"}}
    assert json.loads(posted[0].body) == {"name": "compare", "axes": SWEEP["axes"], "base": base}


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_for_each_job_that_ends(comparing: Any, client: Client, terminal: bool) -> None:
    out = Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
    assert watch_sweep(client, "sw_1", out=out)["status"] == "failed"
    text = out.file.getvalue()  # type: ignore[attr-defined]
    for line in (
        "[1/4] compare · srrl · seed 0: 88.54% in 24 s",
        "[3/4] compare · ce · seed 0: 85.00% in 24 s",
        "[4/4] compare · ce · seed 1: failed - The loss is not finite.",
    ):
        assert text.count(line) == 1
    assert ("4/4" in text.replace("[4/4]", "")) == terminal


def test_the_table_shows_what_was_measured_and_marks_what_lacks() -> None:
    out = Console(record=True, width=160, file=io.StringIO())
    ended: Any = state("failed", child(0, "succeeded", 0.88), table=TABLE)
    out.print(sweep_table(ended))
    text = out.export_text()
    head, srrl, ce = (
        [cell.strip() for cell in line.replace("┃", "│").split("│")]
        for line in text.splitlines()
        if line.count("│") + line.count("┃") == 6
    )
    assert head[1:6] == ["/method", "jobs", "student %", "gain", "minutes"]
    assert srrl[1:6] == ["srrl [a]", "2", "88.24 ± 0.51", "-0.12", "0.40 ± 0.02"]
    assert ce[1:6] == ["ce", "1 of 2 *", "85.00", "–", "0.20"]
    assert "not all of its jobs succeeded" in text


Limbeck = Callable[..., Any]


class TestCommand:
    @pytest.fixture
    def limbeck(self, limbeck: Limbeck, comparing: Any) -> Limbeck:
        return lambda *words: limbeck(*words, LIMBECK_URL=comparing.url)

    @pytest.fixture
    def bare(self, tmp_path: Path) -> str:
        base = {"teacher": {"id": "tch_1"}, "dataset": {"id": "ds_1"}}
        (tmp_path / "bare.json").write_text(json.dumps(SWEEP | {"base": base}))
        return str(tmp_path / "bare.json")

    def test_it_submits_and_says_how_to_follow(self, limbeck: Limbeck, bare: str) -> None:
        done = limbeck("sweep", bare)
        assert done.returncode == 0
        assert "sweep sw_1 has 4 jobs; follow them with: limbeck watch sw_1" in done.stdout

    def test_it_waits_and_a_failed_job_is_1(self, limbeck: Limbeck, bare: str) -> None:
        done = limbeck("sweep", bare, "--watch")
        assert done.returncode == 1
        assert "sweep sw_1 has 4 jobs" in done.stdout
        assert "[4/4] compare · ce · seed 1: failed" in done.stdout
        assert "88.24 ± 0.51" in done.stdout

    def test_json_is_the_sweep_as_it_ended(self, limbeck: Limbeck, bare: str) -> None:
        done = limbeck("sweep", bare, "--watch", "--json")
        assert json.loads(done.stdout)["status"] == "failed"
        assert "[4/4]" in done.stderr

    def test_watching_comes_back_to_a_sweep(self, limbeck: Limbeck) -> None:
        done = limbeck("watch", "sw_1")
        assert done.returncode == 1
        assert "88.24 ± 0.51" in done.stdout

    def test_a_dry_run_shows_the_plan(self, limbeck: Limbeck, comparing: Any, bare: str) -> None:
        comparing.on("POST", "/distill/sweep", comparing.reply(200, {"num_jobs": 4, "total_steps": 96}))
        done = limbeck("sweep", bare, "--dry-run")
        assert json.loads(done.stdout) == {"num_jobs": 4, "total_steps": 96}
        assert "dry_run=true" in comparing.asked[-1].path


def test_sweeps_are_listed_and_cancelled(scripted: Any, client: Client) -> None:
    scripted.on("GET", "/distill/sweep", scripted.reply(200, {"data": [{"id": "sw_2"}, {"id": "sw_1"}]}))
    scripted.on("POST", "/distill/sweep/sw_1/cancel", scripted.reply(202, {"id": "sw_1", "status": "cancelled"}))
    scripted.on("GET", "/methods", scripted.reply(200, {"data": [{"type": "ce"}]}))
    assert [each["id"] for each in client.sweeps()] == ["sw_2", "sw_1"]
    assert client.cancel_sweep("sw_1")["status"] == "cancelled"
    assert [method["type"] for method in client.methods()] == ["ce"]
