"""The whole corpus, by kind. As a script it writes every file into a folder: ``python -m tests.hostile.corpus FOLDER``.

The list beside the files, ``corpus.json``, tells of each how it is sent and with which code it must be refused.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tests.hostile.arrays import ARRAYS
from tests.hostile.case import Hostile
from tests.hostile.graphs import GRAPHS
from tests.hostile.idx import IDX
from tests.hostile.images import IMAGES
from tests.hostile.parquets import PARQUETS
from tests.hostile.pickles import PICKLES
from tests.hostile.tars import TARS
from tests.hostile.weights import WEIGHTS
from tests.hostile.zips import ZIPS

CORPUS: dict[str, dict[str, Hostile]] = {
    "zip": ZIPS,
    "tar": TARS,
    "image": IMAGES,
    "npz": ARRAYS,
    "idx": IDX,
    "parquet": PARQUETS,
    "safetensors": WEIGHTS,
    "pickle": PICKLES,
    "onnx": GRAPHS,
}


def write(folder: Path) -> None:
    """Write all files, and ``corpus.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    told = {}
    for kind, cases in CORPUS.items():
        for number, (name, hostile) in enumerate(cases.items()):
            suffix = "".join(Path(hostile.filename).suffixes)
            target = folder / f"{kind}-{number:02}-{re.sub('[^A-Za-z0-9]+', '-', name)}{suffix}"
            target.write_bytes(hostile.build())
            told[target.name] = {
                "is": name,
                "purpose": hostile.purpose,
                "asked": dict(hostile.asked),
                "code": hostile.code,
                "found_by": "worker" if hostile.by_worker else "API",
            }
    (folder / "corpus.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
