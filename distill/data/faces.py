"""Faces with landmarks, cut out of their photographs to one square size: WFLW, and 300W and its kin.

The piece that is cut out is a square about the face's box, with a side 1.25 times the box's longer one, as in the
public evaluations of WFLW and 300W (HRNet's, for one): forehead and chin stay in it, and so do the points at the edge
when an augmentation shifts the picture by an eighth of its side. Beyond the photograph it is black. WFLW gives the
boxes; for 300W, which has none, it is the box about the points.

A point at x pixels (the centre of the first pixel being 0) is x + 1/2 from the photograph's left edge, and so it is
held in 0..1 between the edges of the piece: a mirror is 1 - x, and the size of the picture does not matter.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from distill.data.archive import shown
from distill.data.decoding import MAX_PIXELS, ImageReader, check_broken, check_room, eight_bits, is_grey, quiet_pillow
from distill.data.face_layout import Face, FaceLayout, Rect
from distill.data.images import ImageFile, Images, Rows
from distill.data.pts_layout import parse_pts, pts_layout
from distill.data.raw_landmarks import PointSplit, RawLandmarks, assemble_landmarks, fault
from distill.data.reading import Reading
from distill.data.source import Source
from distill.data.wflw_layout import parse_wflw, wflw_layout
from distill.errors import InputError
from distill.markup import Markup, known_markup

MARGIN = 1.25
"""The side of what is cut out, in longer sides of the face's box."""
_SIDES = (64, 112)
_STEP = 16
_FARTHEST = 1_000_000
_NO_FACE = "Send photographs whose points lie on a face within them, each with the same number of points."

Parse = Callable[[Face], tuple[list[float], Rect | None]]


def read_wflw(source: Source, how: Reading) -> RawLandmarks:
    """The faces of WFLW's lists, each cut out of its photograph.

    Args:
        source: as :func:`distill.data.wflw_layout.wflw_layout` describes it.
        how: without a size, it is the median side of the pieces, in steps of 16 from 64 to 112.

    Raises:
        InputError: as the layout, ``dataset_unreadable`` when a line is no face or when too many cannot be read,
            ``unsafe_file`` or ``storage_full`` when the whole takes too much room.
    """
    return _read(source, wflw_layout(source), parse_wflw, how)


def read_300w(source: Source, how: Reading) -> RawLandmarks:
    """The faces of images with ``.pts`` files beside them; as :func:`read_wflw`, with the box about the points.

    Raises:
        InputError: likewise; a ``.pts`` file that is damaged counts as a face that cannot be read, and one with
            another number of points than the first is refused.
    """
    layout = pts_layout(source)

    def parse(face: Face) -> tuple[list[float], None]:
        return parse_pts(source, face), None

    return _read(source, layout, parse, how)


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A face and the square that is cut out for it, in whole pixels of the photograph."""

    face: Face
    left: int
    top: int
    side: int
    points_LD: NDArray[np.float64]
    """In 0..1 of the square."""


def _read(source: Source, layout: FaceLayout, parse: Parse, how: Reading) -> RawLandmarks:
    markup = known_markup(layout.num_points)
    skipped = list(layout.missing)
    num_faces = len(layout.train) + len(layout.test or []) + len(skipped)
    train = _place_all(layout.train, parse, markup, skipped)
    test = None if layout.test is None else _place_all(layout.test, parse, markup, skipped)
    check_broken(skipped, of=num_faces, max_share=how.max_broken_share, what="faces")
    side = how.image_size or _usual_side([*train, *(test or [])])
    check_room(len(train) + len(test or []), channels=3, height=side, width=side, folder=how.folder)
    cutter = _Cutter(source, side, how.folder)
    with quiet_pillow():
        splits = [cutter.cut(pieces, skipped) for pieces in (train, test) if pieces is not None]
    check_broken(skipped, of=num_faces, max_share=how.max_broken_share, what="faces")
    if cutter.all_grey:
        splits = [replace(split, images=split.images.first_channel()) for split in splits]
    return assemble_landmarks(
        splits[0],
        test=splits[1] if test is not None else None,
        markup=markup,
        seed=how.seed,
        skipped=skipped + layout.skipped,
        ignored=layout.ignored,
        notes=[
            f"Faces were cut out as squares of {MARGIN:g} times the longer side of {layout.box} "
            f"and scaled to {side}x{side} pixels."
        ],
    )


def _usual_side(pieces: Sequence[_Piece]) -> int:
    if not pieces:
        raise InputError("dataset_empty", "there is no sound face", hint=_NO_FACE)
    steps = round(statistics.median(piece.side for piece in pieces) / _STEP)
    return max(_SIDES[0], min(_SIDES[1], steps * _STEP))


def _place_all(faces: Sequence[Face], parse: Parse, markup: Markup, skipped: list[dict[str, str]]) -> list[_Piece]:
    pieces = []
    for face in faces:
        try:
            pieces.append(_place(face, parse, markup))
        except ValueError as error:
            skipped.append({"path": shown(face.image), "reason": f"{face.place}: {shown(str(error))}"})
    return pieces


def _place(face: Face, parse: Parse, markup: Markup) -> _Piece:
    numbers, rect = parse(face)
    points_LD = np.array(numbers).reshape(-1, 2)
    if len(points_LD) != markup.num_points:
        raise InputError(
            "dataset_unreadable",
            f"{face.place} has {len(points_LD)} points, others have {markup.num_points}",
            hint="Send faces with equal numbers of points.",
        )
    corners = np.array(rect).reshape(2, 2) if rect else np.stack([points_LD.min(axis=0), points_LD.max(axis=0)])
    if not np.abs(np.concatenate([points_LD, corners])).max() <= _FARTHEST:  # also when one is NaN
        raise ValueError(f"a number is not finite, or beyond {_FARTHEST:,} pixels")
    extent = float((corners[1] - corners[0]).max())
    if not 1 <= MARGIN * extent <= math.sqrt(MAX_PIXELS) or (corners[1] < corners[0]).any():
        raise ValueError(f"its box is {', '.join(f'{value:g}' for value in corners.flatten())}")
    side = math.ceil(MARGIN * extent)
    left, top = (round(float(middle) + 0.5 - side / 2) for middle in corners.mean(axis=0))
    points_LD = (points_LD + 0.5 - (left, top)) / side
    if wrong := fault(points_LD, markup, image_size=(side, side)):
        raise ValueError(wrong)
    return _Piece(face=face, left=left, top=top, side=side, points_LD=points_LD)


class _Cutter:
    """Opens each photograph once, and cuts out all its faces."""

    def __init__(self, source: Source, side: int, folder: Path) -> None:
        self._reader = ImageReader(source)
        self._side = side
        self._folder = folder
        self.all_grey = True

    def cut(self, pieces: Sequence[_Piece], skipped: list[dict[str, str]]) -> PointSplit:
        """The pieces that can be cut out, in their order; the others are added to ``skipped``."""
        with ImageFile(self._folder, (3, self._side, self._side)) as file:
            rows, groups = self._cut_all(pieces, skipped, file)
            array = file.array()
        is_sound = rows >= 0
        points = np.array([piece.points_LD for piece in pieces], dtype=np.float32)
        return PointSplit(images=Images([(array, rows[is_sound])]), points=points[is_sound], groups=groups[is_sound])

    def _cut_all(self, pieces: Sequence[_Piece], skipped: list[dict[str, str]], file: ImageFile) -> tuple[Rows, Rows]:
        """The row in the file of each piece, -1 for what cannot be cut out, and the number of its photograph."""
        rows = np.full(len(pieces), -1, dtype=np.int64)
        by_photograph: dict[str, list[int]] = {}
        for index, piece in enumerate(pieces):
            by_photograph.setdefault(piece.face.image, []).append(index)
        groups = np.empty(len(pieces), dtype=np.int64)
        for number, (member, indices) in enumerate(by_photograph.items()):
            groups[indices] = number
            photograph = self._reader.attempt(member, self._decode)
            for index in indices:
                pixels = "" if photograph is None else _cut(photograph, pieces[index], self._side)
                if isinstance(pixels, str):
                    reason = pixels or self._reader.broken[member]
                    skipped.append({"path": shown(member), "reason": f"{pieces[index].face.place}: {reason}"})
                else:
                    rows[index] = file.append(pixels)
        return rows, groups

    def _decode(self, image: Image.Image) -> Image.Image:
        self.all_grey &= is_grey(image)
        # Not turned upright: who marked the points saw the pixels as they are stored.
        return eight_bits(image).convert("RGB")


def _cut(photograph: Image.Image, piece: _Piece, side: int) -> NDArray[np.uint8] | str:
    """Pixels (3, side, side), or what is wrong."""
    right, bottom = piece.left + piece.side, piece.top + piece.side
    if min(right, bottom) <= 0 or piece.left >= photograph.width or piece.top >= photograph.height:
        return "its box lies outside of its photograph"
    square = photograph.crop((piece.left, piece.top, right, bottom))
    return np.asarray(square.resize((side, side), Image.Resampling.BILINEAR), dtype=np.uint8).transpose(2, 0, 1)
