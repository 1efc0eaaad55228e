from __future__ import annotations

import pytest

from distill.headlines import HEADLINES, Headline, headline_of
from distill.method_names import METHOD_NAMES, method_title, student_title
from distill.method_specs import METHODS, method_schemas


@pytest.mark.parametrize(
    ("figures", "name"),
    [
        ({"top1": 0.9, "agreement": 0.95, "parameters": 3}, "top1"),
        ({"agreement": 0.95}, "agreement"),
        ({"nme": 1.2, "nme_to_teacher": 0.9, "cka": 0.7}, "nme"),
        ({"top1": 0.0}, "top1"),
        ({"top1": None, "nme": 0.1}, "nme"),
        ({"parameters": 3}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_network_is_judged_by_what_was_measured(figures: dict[str, float] | None, name: str | None) -> None:
    found = headline_of(figures)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(("name", "better", "worse"), [("top1", 0.9, 0.8), ("agreement", 0.9, 0.8), ("nme", 0.1, 1.2)])
def test_goodness_points_the_right_way(name: str, better: float, worse: float) -> None:
    assert HEADLINES[name].goodness(better) > HEADLINES[name].goodness(worse)


def test_the_metrics_of_the_three_networks() -> None:
    found = [HEADLINES["nme"].metric(side) for side in ("student", "baseline", "teacher")]
    assert found == ["val/nme", "baseline/val/nme", "teacher/val/nme"]


@pytest.mark.parametrize("headline", HEADLINES.values(), ids=HEADLINES)
def test_the_words_take_one_percentage(headline: Headline) -> None:
    assert headline.clause.format("12 %").count("12 %") == 1


def test_every_method_has_a_name_as_people_write_it() -> None:
    assert len(METHOD_NAMES) == len(METHODS)
    assert set(METHOD_NAMES) == {schema["type"] for schema in method_schemas()}
    assert all(name.lower() == key for key, name in METHOD_NAMES.items())


@pytest.mark.parametrize(
    ("method", "title", "column"),
    [
        ("srrl", "SRRL", "Student by SRRL"),
        ("srrl + kd", "SRRL + KD", "Student by SRRL + KD"),
        ("reviewkd + fitnet + simkd", "ReviewKD + FitNet + SimKD", "Student by ReviewKD + FitNet + SimKD"),
        ("of tomorrow", "of tomorrow", "Student by of tomorrow"),
        ("ce", "CE", "Student, labels alone"),
    ],
)
def test_methods_are_called_as_people_write_them(method: str, title: str, column: str) -> None:
    assert (method_title(method), student_title(method)) == (title, column)


def test_a_student_of_no_known_method_is_just_a_student() -> None:
    assert student_title(None) == student_title("") == "Student"
