"""A data set at a glance: some images of each class on one sheet, train on the left, test on the right.

Names come from strangers. They are drawn as pixels, by the one font that Pillow carries in itself, so that a sheet
looks alike on all machines; what that font lacks is drawn without its accents, or as ``?`` behind the class's number.
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from distill.data.duplicates import Indices, labels_of
from distill.data.packed_rows import PackedRows, Pixels
from distill.files import sha256_of

SPLITS = {"train": 8, "test": 4}
"""Images of a class, or columns of a sheet without classes."""
CONTENT_TYPE = "image/webp"
_MAX_PIXELS = 4_000_000
_MAX_CLASSES = 100
_PLAIN_ROWS = 6
_MIN_SIDE, _MAX_SIDE, _MAX_POINTED = 56, 96, 160
_GAP, _GUTTER, _MARGIN, _HEAD, _LABEL = 4, 20, 12, 20, 170
_GROUND, _INK, _SOFT, _POINT = (250, 248, 245), (29, 27, 25), (106, 100, 93), (255, 64, 64)
_FONT_SIZE = 13

Cell = tuple[int, int]


def draw_preview(file: PackedRows, target: Path) -> dict[str, Any]:
    """Write the sheet of a packed data set as WebP.

    Returns:
        ``content_type``, ``bytes``, ``sha256``, ``width``, ``height`` (in pixels), and ``classes`` (rows with a
        class each; there may be more classes than rows).
    """
    sheet = _Sheet(file)
    image = sheet.drawn()
    image.save(target, "WEBP", quality=90, method=2)
    return {
        "content_type": CONTENT_TYPE,
        "bytes": target.stat().st_size,
        "sha256": sha256_of(target),
        "width": image.width,
        "height": image.height,
        "classes": sheet.num_classes,
    }


class _Sheet:
    def __init__(self, file: PackedRows) -> None:
        self._file = file
        self._font = ImageFont.load_default(_FONT_SIZE)
        _, _, height, width = file.shapes["train_images"]
        longer = max(height, width)
        most = _MAX_POINTED if "train_points" in file.shapes else _MAX_SIDE
        # Whole multiples keep small pixels square and sharp.
        factor = max(1, -(-_MIN_SIDE // longer)) if longer <= most else most / longer
        self._tile = max(1, round(width * factor)), max(1, round(height * factor))
        self._label = _LABEL if file.classes else 0
        columns = sum(SPLITS.values())
        self._width = 2 * _MARGIN + self._label + columns * (self._tile[0] + _GAP) + _GUTTER
        self._pitch = max(self._tile[1], _FONT_SIZE) + _GAP
        self.num_classes = min(len(file.classes), _MAX_CLASSES, max(1, _MAX_PIXELS // (self._width * self._pitch)))
        self._num_rows = self.num_classes or _PLAIN_ROWS
        self._has_more = len(file.classes) > self.num_classes
        self._height = 2 * _MARGIN + _HEAD + self._num_rows * self._pitch + (_HEAD if self._has_more else 0)

    def drawn(self) -> Image.Image:
        sheet = Image.new("RGB", (self._width, self._height), _GROUND)
        pen = ImageDraw.Draw(sheet)
        left = _MARGIN + self._label
        for split, columns in SPLITS.items():
            count = self._file.shapes[f"{split}_images"][0]
            pen.text((left, _MARGIN), f"{split}, {count:,} images", fill=_SOFT, font=self._font)
            self._paste(sheet, split, self._chosen(split, columns), left)
            left += columns * (self._tile[0] + _GAP) + _GUTTER
        for number, name in enumerate(self._file.classes[: self.num_classes]):
            middle = self._top(number) + self._tile[1] / 2
            text = self._fitted(f"{number}  {legible(name)}")
            pen.text((_MARGIN, middle), text, fill=_INK, font=self._font, anchor="lm")
        if self._has_more:
            more = f"and {len(self._file.classes) - self.num_classes:,} more classes"
            pen.text((_MARGIN, self._top(self._num_rows)), more, fill=_SOFT, font=self._font)
        return sheet

    def _top(self, row: int) -> int:
        return _MARGIN + _HEAD + row * self._pitch

    def _chosen(self, split: str, columns: int) -> dict[Cell, int]:
        """Which image stands where: (row, column) and its index."""
        labels = labels_of(self._file, split)
        if not self.num_classes:
            chosen = _spread(np.arange(len(labels)), self._num_rows * columns)
            return {(place // columns, place % columns): index for place, index in enumerate(chosen.tolist())}
        order = np.argsort(labels, kind="stable")
        edges = np.searchsorted(labels[order], np.arange(self.num_classes + 1))
        return {
            (row, column): index
            for row in range(self.num_classes)
            for column, index in enumerate(_spread(order[edges[row] : edges[row + 1]], columns).tolist())
        }

    def _paste(self, sheet: Image.Image, split: str, chosen: dict[Cell, int], left: int) -> None:
        indices = np.array(list(chosen.values()), dtype=np.int64)
        images = self._file.take(f"{split}_images", indices)
        points = self._file.take(f"{split}_points", indices) if f"{split}_points" in self._file.shapes else None
        resample = Image.Resampling.NEAREST if self._tile[0] >= images.shape[3] else Image.Resampling.BOX
        for place, (row, column) in enumerate(chosen):
            tile = Image.fromarray(_shown(images[place])).convert("RGB").resize(self._tile, resample)
            if points is not None:
                _mark(tile, points[place])
            sheet.paste(tile, (left + column * (self._tile[0] + _GAP), self._top(row)))

    def _fitted(self, text: str) -> str:
        """As much of the text as its column holds."""
        room = _LABEL - _MARGIN
        if self._font.getlength(text) <= room:
            return text
        while text and self._font.getlength(f"{text}…") > room:
            text = text[:-1]
        return f"{text}…"


def legible(name: str) -> str:
    """A name in the characters that Pillow's own font has: printable ASCII, ``?`` for what has no likeness there."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", name[:100]) if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in plain)


def _shown(image_CHW: Pixels) -> Pixels:
    """(H, W, 3), or (H, W) of what has one channel, or a number of channels that is no picture's."""
    if len(image_CHW) == 3:
        return np.ascontiguousarray(image_CHW.transpose(1, 2, 0))
    return np.ascontiguousarray(image_CHW[0])


def _mark(tile: Image.Image, points_L2: NDArray[np.float32]) -> None:
    pen = ImageDraw.Draw(tile)
    for x, y in (points_L2 * (tile.width, tile.height)).tolist():
        pen.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=_POINT)


def _spread(members: Indices, at_most: int) -> Indices:
    """Some of them, evenly spread."""
    if len(members) <= at_most:
        return members
    return members[np.linspace(0, len(members) - 1, at_most).astype(np.int64)]
