"""What the report of a data set costs: the preview, and the search for duplicates, beside reading and packing.

    python benchmarks/data_report.py --presets DIR [--preset fashion-mnist]
    python benchmarks/data_report.py --synthetic 180000 20000 [--alike]

DIR is what LIMBECK_PRESETS_DIR names. ``--synthetic`` makes so many train and test images of 28 x 28 pixels, blurred
noise, or with ``--alike`` one pattern under noise, which is the worst there is. Prints seconds of one thread's work
and the highest memory of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from distill.data.duplicates import find_duplicates
from distill.data.images import Images
from distill.data.packed import pack
from distill.data.packed_rows import PackedRows, Pixels
from distill.data.preview import draw_preview
from distill.data.raw import RawDataset
from distill.data.readers import read_preset

T = TypeVar("T")


def main() -> None:
    """Pack, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", type=Path)
    parser.add_argument("--preset", default="fashion-mnist")
    parser.add_argument("--synthetic", type=int, nargs=2, metavar=("TRAIN", "TEST"))
    parser.add_argument("--alike", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.safetensors"
        _packed(options, path)
        before = peak()
        with PackedRows(path) as file:
            timed("preview", lambda: draw_preview(file, path.with_suffix(".webp")))
            found = timed("duplicates", lambda: find_duplicates(file))
        print(f"memory: {before:.0f} MB at most before, {peak():.0f} MB with preview and duplicates")
    print(json.dumps({split: {k: v for k, v in facts.items() if k != "pairs"} for split, facts in found.items()}))


def _packed(options: argparse.Namespace, path: Path) -> None:
    if options.synthetic:
        raw = timed("making", lambda: synthetic(*options.synthetic, alike=options.alike))
    else:
        raw = timed("reading", lambda: read_preset(options.presets, name=options.preset))
    timed("packing", lambda: pack(raw, path))


def synthetic(num_train: int, num_test: int, *, alike: bool) -> RawDataset:
    """Images of which no two are near."""
    return RawDataset(
        train_images=Images.of(_images(num_train, seed=0, alike=alike)),
        train_labels=np.arange(num_train) % 10,
        test_images=Images.of(_images(num_test, seed=1, alike=alike)),
        test_labels=np.arange(num_test) % 10,
        classes=[str(number) for number in range(10)],
    )


def _images(count: int, *, seed: int, alike: bool) -> Pixels:
    random = np.random.default_rng(seed)
    images = np.empty((count, 1, 28, 28), dtype=np.uint8)
    pattern = np.random.default_rng(2).integers(0, 256, (1, 1, 7, 7))
    for start in range(0, count, 4096):
        piece = images[start : start + 4096]
        coarse = np.repeat(pattern, len(piece), axis=0) if alike else random.integers(0, 256, (len(piece), 1, 7, 7))
        fine = np.kron(coarse, np.ones((4, 4), dtype=np.int64)) + random.integers(-12, 13, piece.shape)
        piece[:] = fine.clip(0, 255)
    return images


def timed(what: str, act: Callable[[], T]) -> T:
    """What it answers; how long it worked is printed."""
    started = time.process_time()
    answer = act()
    print(f"{what}: {time.process_time() - started:.2f} s")
    return answer


def peak() -> float:
    """Megabytes."""
    kilobytes: Any = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(kilobytes) / 1024


if __name__ == "__main__":
    main()
