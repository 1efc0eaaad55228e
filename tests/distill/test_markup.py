from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from distill.markup import IBUG_68, WFLW_98, Markup, known_markup
from tests.fixtures.face_files import ibug_points, wflw_points
from tests.fixtures.faces import Build, Floats, draw_faces

# As public code lists them (HRNet's facial landmark detection): WFLW counted from 0, iBUG from 1.
WFLW_PAIRS = """
0-32 1-31 2-30 3-29 4-28 5-27 6-26 7-25 8-24 9-23 10-22 11-21 12-20 13-19 14-18 15-17 33-46 34-45 35-44 36-43 37-42
38-50 39-49 40-48 41-47 60-72 61-71 62-70 63-69 64-68 65-75 66-74 67-73 55-59 56-58 76-82 77-81 78-80 87-83 86-84 88-92
89-91 95-93 96-97
"""
IBUG_PAIRS = """
1-17 2-16 3-15 4-14 5-13 6-12 7-11 8-10 18-27 19-26 20-25 21-24 22-23 32-36 33-35 37-46 38-45 39-44 40-43 41-48 42-47
49-55 50-54 51-53 62-64 61-65 68-66 59-57 60-56
"""


def listed(text: str, *, first: int) -> set[frozenset[int]]:
    return {frozenset(int(number) - first for number in pair.split("-")) for pair in text.split()}


@pytest.mark.parametrize(("markup", "text", "first"), [(WFLW_98, WFLW_PAIRS, 0), (IBUG_68, IBUG_PAIRS, 1)])
def test_the_known_pairs_are_those_of_public_code(markup: Markup, text: str, first: int) -> None:
    assert markup.flip_pairs is not None
    assert {frozenset(pair) for pair in markup.flip_pairs} == listed(text, first=first)


@pytest.mark.parametrize("markup", [WFLW_98, IBUG_68])
def test_the_corners_of_the_eyes_are_a_pair(markup: Markup) -> None:
    assert markup.flip_pairs is not None
    assert markup.normaliser in markup.flip_pairs
    order = markup.mirrored
    assert order is not None
    assert [order[i] for i in order] == list(range(markup.num_points))


def test_markups_are_known_by_their_count() -> None:
    assert known_markup(98) is WFLW_98
    assert known_markup(68) is IBUG_68
    other = known_markup(19)
    assert (other.num_points, other.flip_pairs, other.mirrored, other.normaliser) == (19, None, None, "box")


@pytest.mark.parametrize("markup", [WFLW_98, Markup(num_points=5), Markup(num_points=3, flip_pairs=())])
def test_json_leads_back(markup: Markup) -> None:
    assert Markup.from_json(json.loads(json.dumps(markup.as_json()))) == markup


@pytest.mark.parametrize(
    "fields",
    [
        {"num_points": 1},
        {"num_points": 4, "normaliser": (0, 4)},
        {"num_points": 4, "normaliser": (2, 2)},
        {"num_points": 4, "flip_pairs": ((0, 1), (1, 2))},
        {"num_points": 4, "flip_pairs": ((-1, 1),)},
        {"num_points": 4, "flip_pairs": ((3, 3),)},
    ],
)
def test_pairs_of_what_is_no_point_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="point"):
        Markup(**fields)


@pytest.mark.parametrize(
    "data",
    [
        {"num_points": 4, "flip_pairs": None},
        {"num_points": 4, "flip_pairs": None, "normaliser": "eyes"},
        {"num_points": 4, "flip_pairs": [[0, 1, 2]], "normaliser": "box"},
        {"num_points": 4, "flip_pairs": [[0, 1.0]], "normaliser": "box"},
        {"num_points": 4, "flip_pairs": 7, "normaliser": "box"},
        {"num_points": [], "flip_pairs": None, "normaliser": "box"},
    ],
)
def test_json_that_is_no_markup_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, KeyError)):
        Markup.from_json(data)


@pytest.mark.parametrize(("markup", "points_of"), [(WFLW_98, wflw_points), (IBUG_68, ibug_points)])
def test_a_mirrored_face_is_the_face_with_its_pairs_exchanged(
    markup: Markup, points_of: Callable[[Build], Floats]
) -> None:
    """Drawn faces are symmetric in their own frame, and their points run as the pictures of the markup show."""
    points = points_of(draw_faces(5, seed=0).build)
    assert points.shape == (5, markup.num_points, 2)
    np.testing.assert_allclose((points * (-1, 1))[:, markup.mirrored], points, atol=1e-12)
    first, second = markup.normaliser
    # The outer corners of the eyes: as far from the middle as any point of the eyes.
    assert (points[:, first, 0] < 0).all()
    np.testing.assert_allclose(points[:, second] - points[:, first], points[:, [second]][:, 0] * (2, 0), atol=1e-12)
