"""How a data set shall be read: what was asked for, in one piece for all readers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MAX_BROKEN_SHARE = 0.05
"""Unless asked otherwise."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a reader is asked for.

    Attributes:
        folder: on whose disk pixels, and what must be unpacked, are put aside in files without a name.
        seed: of the held-out split, where the upload has none.
        image_size: side in pixels that images in folders, or faces, are brought to; None chooses.
        max_broken_share: up to which images that cannot be read are left out, in 0..1; more refuse the data set.
    """

    folder: Path
    seed: int = 0
    image_size: int | None = None
    max_broken_share: float = MAX_BROKEN_SHARE
