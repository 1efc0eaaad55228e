"""From a data set that was read to its packed form, the files beside that, and the whole report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill.data.beside import PREVIEW, SKIPPED, write_skipped
from distill.data.duplicates import find_duplicates
from distill.data.packed import pack
from distill.data.packed_rows import PackedRows
from distill.data.preview import draw_preview
from distill.data.raw import RawDataset
from distill.data.raw_landmarks import RawLandmarks

NOTABLE = 0.01
"""The share of a split from which its duplicates are noted."""


def pack_and_describe(raw: RawDataset | RawLandmarks, path: Path) -> dict[str, Any]:
    """Write the packed form, and beside it the preview and the list of what was skipped, where anything was.

    Returns:
        The report of :func:`distill.data.packed.pack`, with ``preview``
        (:func:`distill.data.preview.draw_preview`) and ``duplicates``
        (:func:`distill.data.duplicates.find_duplicates`), of which ``notes`` says what is notable.
    """
    report = pack(raw, path)
    if raw.skipped:
        write_skipped(path.with_suffix(SKIPPED), raw.skipped)
    del raw  # its images: the file has them now, and is read piece by piece
    with PackedRows(path) as file:
        preview = draw_preview(file, path.with_suffix(PREVIEW))
        duplicates = find_duplicates(file)
        num_train, num_test = (file.shapes[f"{split}_images"][0] for split in ("train", "test"))
    notes = [*report["notes"], *_notes(duplicates, num_train=num_train, num_test=num_test)]
    return {**report, "notes": notes, "preview": preview, "duplicates": duplicates}


def _notes(duplicates: dict[str, Any], *, num_train: int, num_test: int) -> list[str]:
    train, test = duplicates["train"], duplicates["test"]
    notes = []
    if test["share"] >= NOTABLE:
        notes.append(
            f"{test['near']:,} of {test['searched']:,} test images ({test['share']:.1%}) are in train too, equal or "
            "nearly so: what is measured on the test split flatters."
        )
    if test["searched"] < num_test:
        notes.append(f"For {test['searched']:,} of {num_test:,} test images it was looked whether train has them.")
    if train["exact"] >= NOTABLE * num_train:
        notes.append(f"{train['exact']:,} of {num_train:,} train images are equal to earlier ones.")
    if train["conflicting"]:
        notes.append(f"{train['conflicting']:,} train images have equals with another label.")
    return notes
