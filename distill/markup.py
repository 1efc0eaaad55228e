"""What the points of a landmark data set mean: which ones a mirror swaps, and by which length errors are divided.

Free of torch. The numbers of the known markups are those of their authors: Wu et al., CVPR 2018, for the 98 points of
WFLW; Sagonas et al., ICCV workshops 2013, for the 68 points of iBUG, with which 300W is marked, counted from 0 here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Self

Pair = tuple[int, int]
Normaliser = Pair | Literal["box"]


@dataclass(frozen=True, kw_only=True)
class Markup:
    """A set of numbered points.

    Attributes:
        num_points: L.
        flip_pairs: the points that change places when an image is mirrored; those not named stay what they are.
            None when it is not known, and then no image may be mirrored.
        normaliser: the two points whose distance an error is divided by (the outer corners of the eyes), or
            ``box``: the root of the area of the box about all points.

    Raises:
        ValueError: fewer than two points, a number that is no point, or a point in two pairs.
    """

    num_points: int
    flip_pairs: tuple[Pair, ...] | None = None
    normaliser: Normaliser = "box"

    def __post_init__(self) -> None:
        if self.num_points < 2:
            raise ValueError(f"{self.num_points} points; two are the least")
        if self.normaliser != "box":
            _check_pairs([self.normaliser], self.num_points)
        _check_pairs(self.flip_pairs or (), self.num_points)

    @property
    def mirrored(self) -> list[int] | None:
        """For every point the one that stands in its place in a mirrored image; None when it is not known."""
        if self.flip_pairs is None:
            return None
        return mirrored_order(self.flip_pairs, num_points=self.num_points)

    def as_json(self) -> dict[str, Any]:
        """``num_points``, ``flip_pairs`` and ``normaliser``."""
        pairs, normaliser = self.flip_pairs, self.normaliser
        return {
            "num_points": self.num_points,
            "flip_pairs": None if pairs is None else [list(pair) for pair in pairs],
            "normaliser": normaliser if normaliser == "box" else list(normaliser),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of :meth:`as_json`.

        Raises:
            ValueError, TypeError, KeyError: it is nothing of the kind.
        """
        pairs, normaliser = data["flip_pairs"], data["normaliser"]
        return cls(
            num_points=int(data["num_points"]),
            flip_pairs=None if pairs is None else tuple(_pair(pair) for pair in pairs),
            normaliser="box" if normaliser == "box" else _pair(normaliser),
        )


def mirrored_order(flip_pairs: Iterable[Pair], *, num_points: int) -> list[int]:
    """For each of ``num_points`` points the one that a mirror puts in its place."""
    order = list(range(num_points))
    for left, right in flip_pairs:
        order[left], order[right] = right, left
    return order


def known_markup(num_points: int) -> Markup:
    """The markup of faces with 68 or 98 points; for other counts one without pairs, measured by the box."""
    return _KNOWN.get(num_points) or Markup(num_points=num_points)


def _pair(values: Iterable[Any]) -> Pair:
    first, second = values
    if type(first) is not int or type(second) is not int:
        raise ValueError(f"{first!r}, {second!r} are no two points")
    return first, second


def _check_pairs(pairs: Iterable[Pair], num_points: int) -> None:
    named = [point for pair in pairs for point in pair]
    if len(set(named)) != len(named):
        raise ValueError("a point is in two pairs")
    if any(not 0 <= point < num_points for point in named):
        raise ValueError(f"pairs name points {min(named)} to {max(named)}; there are 0 to {num_points - 1}")


def _facing(first: int, other: int, count: int) -> list[Pair]:
    """Two runs that meet a mirror from both sides: ``first`` with ``other``, the next with the one before it, ..."""
    return [(first + i, other - i) for i in range(count)]


WFLW_98 = Markup(
    num_points=98,
    flip_pairs=(
        *_facing(0, 32, 16),  # contour, without the chin's 16
        *_facing(33, 46, 5),  # upper edges of the brows
        *_facing(38, 50, 4),  # and lower edges
        *_facing(55, 59, 2),  # nostrils; 51 to 54 are the bridge
        *_facing(60, 72, 5),  # upper lids, corners included
        *_facing(65, 75, 3),  # lower lids
        *_facing(76, 82, 3),  # outer lips, above
        *_facing(83, 87, 2),  # and below
        *_facing(88, 92, 2),  # inner lips, above
        *_facing(93, 95, 1),  # and below
        (96, 97),  # pupils
    ),
    normaliser=(60, 72),
)

IBUG_68 = Markup(
    num_points=68,
    flip_pairs=(
        *_facing(0, 16, 8),  # contour, without the chin's 8
        *_facing(17, 26, 5),  # brows
        *_facing(31, 35, 2),  # nostrils; 27 to 30 are the bridge
        *_facing(36, 45, 4),  # upper lids, corners included
        *_facing(40, 47, 2),  # lower lids
        *_facing(48, 54, 3),  # outer lips, above
        *_facing(55, 59, 2),  # and below
        *_facing(60, 64, 2),  # inner lips, above
        *_facing(65, 67, 1),  # and below
    ),
    normaliser=(36, 45),
)

_KNOWN = {markup.num_points: markup for markup in (WFLW_98, IBUG_68)}
