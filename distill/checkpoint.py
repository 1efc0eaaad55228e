"""Checkpoints that survive a crash at any instant, and are known by their hash.

A checkpoint is a folder ``step-000000000123`` with ``state.pt`` and ``manifest.json``. It is written
under a temporary name, every file synced, then renamed: what has the final name is whole. A flipped bit
loads silently from a torch file, so the manifest's SHA-256 is compared before anything is believed.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from distill.files import sha256_of, sync

_PREFIX = "step-"
_TEMPORARY = ".tmp-"


def save(folder: Path, state: dict[str, Any], *, step: int, keep: int = 2, also_keep: Collection[int] = ()) -> Path:
    """Write a state of tensors, numbers, strings and containers of them; keep it and the ``keep - 1`` before it.

    Args:
        also_keep: steps whose checkpoints stay, too.

    Raises:
        OSError: it cannot be written; the earlier checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = _path(folder, step)
    for left in folder.glob(f"{_TEMPORARY}*"):  # by a crash; a folder has one writer
        shutil.rmtree(left, ignore_errors=True)
    temporary = folder / f"{_TEMPORARY}{os.getpid()}-{step}"
    temporary.mkdir()
    try:
        _write(state, temporary / "state.pt")
        sync(temporary / "state.pt")
        manifest = {"sha256": sha256_of(temporary / "state.pt"), "step": step}
        (temporary / "manifest.json").write_text(json.dumps(manifest))
        sync(temporary / "manifest.json")
        sync(temporary)
        if final.exists():
            shutil.rmtree(final)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(folder)
    # What is newer was passed over when this run began; counted, it would push out the one just written.
    newer = [path for path in _all(folder) if path > final]
    older = [path for path in _all(folder) if path < final]
    spared = {_path(folder, step) for step in also_keep}
    for path in newer + [path for path in older[keep - 1 :] if path not in spared]:
        shutil.rmtree(path)
    return final


def load_latest(folder: Path, *, up_to: int | None = None) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest state whose bytes are the ones that were written, and why newer ones were passed over.

    Args:
        up_to: a step; later ones do not count.
    """
    refused: list[str] = []
    for candidate in _all(folder):
        if up_to is not None and candidate > _path(folder, up_to):
            continue
        try:
            manifest = json.loads((candidate / "manifest.json").read_text())
            if sha256_of(candidate / "state.pt") != manifest["sha256"]:
                refused.append(f"{candidate.name}: its bytes have changed")
                continue
            state: dict[str, Any] = torch.load(candidate / "state.pt", map_location="cpu", weights_only=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, pickle.UnpicklingError) as error:
            refused.append(f"{candidate.name}: {error}")
            continue
        return state, refused
    return None, refused


def _write(state: dict[str, Any], path: Path) -> None:
    try:
        with path.open("wb") as file:
            torch.save(state, file)
    except RuntimeError as error:
        # torch's writer ends its file even when that failed, and then tells of the file's wrong length instead.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from error
        raise OSError(f"checkpoint not written: {error}") from error


def _path(folder: Path, step: int) -> Path:
    return folder / f"{_PREFIX}{step:012d}"


def _all(folder: Path) -> list[Path]:
    """Newest first."""
    return sorted(folder.glob(f"{_PREFIX}*"), reverse=True)
