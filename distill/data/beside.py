"""What lies beside a packed data set: its preview, and the whole list of what was skipped. Standard library only."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

PREVIEW = ".preview.webp"
SKIPPED = ".skipped.jsonl"
SUFFIXES = (PREVIEW, SKIPPED)
"""In place of the packed file's own."""


def write_skipped(path: Path, skipped: Iterable[Mapping[str, str]]) -> None:
    """One JSON object with ``path`` and ``reason`` a line."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"path": each["path"], "reason": each["reason"]}) + "\n" for each in skipped)


def read_skipped(path: Path, *, after: int = 0, limit: int | None = None) -> Iterator[dict[str, str]]:
    """The lines behind the first ``after``, at most ``limit``."""
    with path.open(encoding="utf-8") as file:
        stop = None if limit is None else after + limit
        yield from map(json.loads, itertools.islice(file, after, stop))
