"""A save, cut off after each of its system calls in turn: by the end of the process, and by that of the power."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distill import checkpoint
from tests.fixtures import system_calls

ROOT = Path(checkpoint.__file__).parents[1]
pytestmark = pytest.mark.skipif(not system_calls.is_available, reason="traces system calls as Linux does")

# In a process of its own: one that forks must have no threads. Two saves before, of which one is to go.
SCRIPT = """
import json, sys, torch
from pathlib import Path
from distill import checkpoint
from tests.fixtures.system_calls import calls_of

torch.set_num_threads(1)

def save(folder, step):
    checkpoint.save(folder, {"step": step, "w": torch.full((20_000,), step)}, step=step)

def trial(name, end_after=None):
    folder = Path(sys.argv[1]) / name
    for step in (1, 2):
        save(folder, step)
    try:
        calls = calls_of(lambda: save(folder, 3), end_after=end_after)
    except PermissionError:
        sys.exit(77)
    found, refused = checkpoint.load_latest(folder)
    whole = bool((found["w"] == found["step"]).all())
    return folder, calls, {"found": found["step"], "whole": whole, "refused": refused}

folder, calls, outcome = trial("whole")
print(json.dumps({**outcome, "calls": [[call.kind, call.path.removeprefix(str(folder))] for call in calls]}))
for number in range(len(calls) + 1):
    folder, done, outcome = trial(f"cut-{number}", end_after=number)
    save(folder, 4)
    after, refused = checkpoint.load_latest(folder)
    names = sorted(path.name for path in folder.iterdir())
    print(json.dumps({**outcome, "calls": len(done), "after": after["step"], "refused_after": refused, "names": names}))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Of the whole save, and of one cut off after 0, 1, 2, ... calls."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path_factory.mktemp("saves"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode == 77:
        pytest.skip("no process may be traced here")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_after_each_system_call_a_whole_checkpoint_loads(outcomes: list[dict[str, Any]]) -> None:
    whole, *cut = outcomes

    assert whole["found"] == 3
    assert [outcome["calls"] for outcome in cut] == list(range(len(whole["calls"]) + 1))
    found = [outcome["found"] for outcome in cut]
    assert set(found) == {2, 3}
    assert found == sorted(found)
    for outcome in cut:
        assert outcome["whole"], outcome
        assert outcome["refused"] == [], outcome  # what is not whole does not look as if it were


def test_after_each_system_call_the_next_save_succeeds_and_clears_up(outcomes: list[dict[str, Any]]) -> None:
    for outcome in outcomes[1:]:
        assert (outcome["after"], outcome["refused_after"]) == (4, []), outcome
        assert outcome["names"] == [f"step-{outcome['found']:012d}", "step-000000000004"], outcome


def test_what_the_power_may_take_is_on_the_disk_before_anything_relies_on_it(outcomes: list[dict[str, Any]]) -> None:
    """A kill keeps what was written but not synced; a power cut does not. So the order of calls is what counts."""
    calls = [(kind, path) for kind, path in outcomes[0]["calls"] if kind != "open"]
    kinds = [kind for kind, _ in calls]
    assert kinds.count("rename") == 1
    renamed = kinds.index("rename")
    written = {path for kind, path in calls if kind == "write"}
    assert {Path(path).name for path in written} == {"state.pt", "manifest.json"}
    for path in written:
        last_write = max(i for i, call in enumerate(calls) if call == ("write", path))
        assert last_write < calls.index(("fsync", path)) < renamed
    (temporary,) = {str(Path(path).parent) for path in written}
    assert calls.index(("fsync", temporary)) < renamed
    assert renamed < calls.index(("fsync", "")) < kinds.index("remove")  # the folder itself, before the oldest goes
