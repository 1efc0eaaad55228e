from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import checkpoint
from distill.checkpoint import load_latest

ROOT = Path(checkpoint.__file__).parents[1]


def state(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "runs": {"student": {"network": {"w": torch.full((400,), float(step))}, "best": 0.5, "name": "student"}},
        "history": [{"step": step, "values": {"lr": 0.1}}],
        "random": torch.arange(10, dtype=torch.uint8),
        "none": None,
    }


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint.save(folder, state(step), step=step)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def loaded_step(folder: Path) -> int | None:
    found, _ = load_latest(folder)
    return None if found is None else found["step"]


def flip(path: Path, position: float) -> None:
    """Turn one bit over; the position is a share of the file."""
    content = bytearray(path.read_bytes())
    content[min(len(content) - 1, int(len(content) * position))] ^= 0x10
    path.write_bytes(content)


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path / "new" / "folder", state(7), step=7)

    found, refused = load_latest(tmp_path / "new" / "folder")

    assert refused == []
    assert path.name == "step-000000000007"
    assert found is not None
    before = state(7)
    weights = (found["runs"]["student"]["network"].pop("w"), before["runs"]["student"]["network"].pop("w"))
    assert torch.equal(*weights)
    assert torch.equal(found.pop("random"), before.pop("random"))
    assert found == before


def test_manifest_holds_the_hash_of_the_state(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, state(7), step=7)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest == {"sha256": hashlib.sha256((path / "state.pt").read_bytes()).hexdigest(), "step": 7}


def test_the_newest_is_loaded_and_two_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 8, 9, 10, 100)
    assert loaded_step(tmp_path) == 100
    assert names(tmp_path) == ["step-000000000010", "step-000000000100"]


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_are_kept_as_asked_for(tmp_path: Path, keep: int) -> None:
    for step in range(1, 6):
        checkpoint.save(tmp_path, state(step), step=step, keep=keep)
    assert names(tmp_path) == [f"step-{step:012d}" for step in range(6 - keep, 6)]


def test_named_steps_are_kept_beside_the_last_two(tmp_path: Path) -> None:
    for step in range(1, 7):
        checkpoint.save(tmp_path, state(step), step=step, also_keep={2, 99})
    assert names(tmp_path) == [f"step-{step:012d}" for step in (2, 5, 6)]


def test_the_newest_up_to_a_step_is_loaded(tmp_path: Path) -> None:
    for step in (3, 5, 8):
        checkpoint.save(tmp_path, state(step), step=step, keep=3)
    found = [load_latest(tmp_path, up_to=step)[0] for step in (2, 3, 7, 8)]
    assert [None if each is None else each["step"] for each in found] == [None, 3, 5, 8]


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    checkpoint.save(tmp_path, {"step": 2, "again": True}, step=2)
    assert load_latest(tmp_path) == ({"step": 2, "again": True}, [])
    assert names(tmp_path) == ["step-000000000001", "step-000000000002"]


def test_no_folder_and_an_empty_one_hold_no_checkpoint(tmp_path: Path) -> None:
    assert load_latest(tmp_path / "nowhere") == (None, [])
    assert load_latest(tmp_path) == (None, [])


@pytest.mark.parametrize("position", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_a_flipped_bit_is_found_and_the_one_before_used(tmp_path: Path, position: float) -> None:
    save(tmp_path, 1, 2)
    flip(tmp_path / "step-000000000002" / "state.pt", position)

    found, refused = load_latest(tmp_path)

    assert found is not None
    assert found["step"] == 1
    assert refused == ["step-000000000002: its bytes have changed"]


@pytest.mark.parametrize("position", [0.0, 0.05, 0.3, 0.6, 0.99])
def test_a_flipped_bit_in_the_manifest_never_gives_another_state(tmp_path: Path, position: float) -> None:
    save(tmp_path, 1, 2)
    flip(tmp_path / "step-000000000002" / "manifest.json", position)
    assert loaded_step(tmp_path) in (1, 2)


def test_every_cut_is_found(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    whole = (tmp_path / "step-000000000002" / "state.pt").read_bytes()
    for size in range(0, len(whole), 97):
        (tmp_path / "step-000000000002" / "state.pt").write_bytes(whole[:size])
        assert loaded_step(tmp_path) == 1


@pytest.mark.parametrize(
    "manifest", [None, "", "{", "null", "[]", '"text"', "{}", '{"sha256": null}', '{"sha256": "0"}']
)
def test_without_a_sound_manifest_the_one_before_is_used(tmp_path: Path, manifest: str | None) -> None:
    save(tmp_path, 1, 2)
    place = tmp_path / "step-000000000002" / "manifest.json"
    if manifest is None:
        place.unlink()
    else:
        place.write_text(manifest)

    found, refused = load_latest(tmp_path)

    assert found is not None
    assert found["step"] == 1
    (reason,) = refused
    assert reason.startswith("step-000000000002: ")


def test_bytes_that_carry_code_are_not_run_even_with_a_fitting_hash(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    folder = tmp_path / "step-000000000002"
    torch.save({"path": Path("x")}, folder / "state.pt")  # any class of Python's; the manifest is made to fit
    digest = hashlib.sha256((folder / "state.pt").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({"sha256": digest, "step": 2}))
    assert loaded_step(tmp_path) == 1


def test_when_none_is_sound_each_is_named(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for name in names(tmp_path):
        flip(tmp_path / name / "state.pt", 0.5)
    found, refused = load_latest(tmp_path)
    assert found is None
    assert [reason.split(":")[0] for reason in refused] == ["step-000000000002", "step-000000000001"]


def test_spoilt_newer_ones_do_not_push_out_what_is_saved_after_going_back(tmp_path: Path) -> None:
    save(tmp_path, 10, 20)
    for step in (30, 40):
        shutil.copytree(tmp_path / "step-000000000020", tmp_path / f"step-{step:012d}")
        flip(tmp_path / f"step-{step:012d}" / "state.pt", 0.5)
    assert loaded_step(tmp_path) == 20

    save(tmp_path, 25)

    assert names(tmp_path) == ["step-000000000020", "step-000000000025"]
    assert load_latest(tmp_path)[1] == []
    assert loaded_step(tmp_path) == 25


def test_what_a_killed_process_left_is_ignored_and_cleared_away(tmp_path: Path) -> None:
    save(tmp_path, 1)
    left = tmp_path / ".tmp-4194304-2"
    shutil.copytree(tmp_path / "step-000000000001", left)
    assert load_latest(tmp_path)[1] == []

    save(tmp_path, 2)

    assert names(tmp_path) == ["step-000000000001", "step-000000000002"]


def test_state_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    save(tmp_path, 1)
    with pytest.raises(AttributeError):  # of pickle: a local function has no name to find it by
        checkpoint.save(tmp_path, {"f": lambda: None}, step=2)
    assert names(tmp_path) == ["step-000000000001"]


CRASHES = """
import json, os, sys, torch
from pathlib import Path
from distill import checkpoint

torch.set_num_threads(1)
WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "shutil.rmtree")

def crash_at(number):
    seen = [0]
    def hook(event, arguments):
        if event in WATCHED:
            seen[0] += 1
            if seen[0] == number:
                os._exit(9)
    sys.addaudithook(hook)

def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

for scene in ("new", "again", "first"):
    number, status = 0, 9
    while status == 9:
        number += 1
        folder = Path(sys.argv[1]) / f"{scene}-{number}"
        for step in () if scene == "first" else (1, 2):
            checkpoint.save(folder, {"step": step, "w": torch.full((9,), step)}, step=step)
        step = {"new": 3, "again": 2, "first": 1}[scene]
        child = os.fork()
        if child == 0:
            crash_at(number)
            checkpoint.save(folder, {"step": step, "w": torch.full((9,), step)}, step=step)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found, _ = checkpoint.load_latest(folder)
        sound = found is None or bool((found["w"] == found["step"]).all())
        left = tree(folder)
        checkpoint.save(folder, {"step": 4, "w": torch.full((9,), 4)}, step=4)
        after, refused = checkpoint.load_latest(folder)
        print(json.dumps({
            "scene": scene, "number": number, "status": status, "found": found and found["step"], "sound": sound,
            "left": left, "after": after["step"], "refused": refused,
            "temporary": [path.name for path in folder.glob(".tmp*")],
        }))
"""

FULL_DISK = """
import json, resource, signal, sys, torch
from pathlib import Path
from distill import checkpoint

torch.set_num_threads(1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
state = {"step": 3, "w": torch.zeros(50_000), "runs": [torch.zeros(100) for _ in range(50)]}
for step in (1, 2):
    checkpoint.save(folder, {"step": step}, step=step)
results = []
for limit in (0, 10, 1000, 20_000, 150_000, 205_000, 10**9):
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        checkpoint.save(folder, state, step=3)
        raised = None
    except Exception as error:
        raised = type(error).__name__, isinstance(error, OSError)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    found, refused = checkpoint.load_latest(folder)
    names = sorted(path.name for path in folder.iterdir())
    results.append({"limit": limit, "raised": raised, "found": found["step"], "refused": refused, "names": names})
print(json.dumps(results))
"""


def run_script(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_crash_at_any_step_of_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """A process is ended before each thing that it does to the file system, one after the other."""
    outcomes = [json.loads(line) for line in run_script(CRASHES, str(tmp_path)).splitlines()]

    for scene, allowed, end in (("new", {2, 3}, 3), ("again", {1, 2}, 2), ("first", {None, 1}, 1)):
        played = [outcome for outcome in outcomes if outcome["scene"] == scene]
        assert len(played) > 8
        assert {outcome["found"] for outcome in played} == allowed
        assert played[-1]["status"] == 0
        assert played[-1]["found"] == end
    assert len({tuple(outcome["left"]) for outcome in outcomes}) > 10  # the crashes did fall into different states
    for outcome in outcomes:
        assert outcome["sound"], outcome
        assert (outcome["after"], outcome["refused"], outcome["temporary"]) == (4, [], []), outcome


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files as POSIX does")
def test_a_full_disk_is_an_os_error_and_costs_nothing(tmp_path: Path) -> None:
    *failed, succeeded = json.loads(run_script(FULL_DISK, str(tmp_path)))

    for outcome in failed:
        assert outcome["raised"] is not None, outcome
        assert outcome["raised"][1], outcome
        assert (outcome["found"], outcome["refused"]) == (2, []), outcome
        assert outcome["names"] == ["step-000000000001", "step-000000000002"], outcome
    assert (succeeded["raised"], succeeded["found"]) == (None, 3)
