"""The one figure by which a job's students are followed: which it is, which way is better, in what words. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Side = Literal["student", "baseline", "teacher"]
_PREFIXES: dict[Side, str] = {"student": "", "baseline": "baseline/", "teacher": "teacher/"}


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A figure, as a share of 1, and how to speak of it.

    Attributes:
        name: its key in metrics and reports.
        title: what heads a row or a chart.
        noun: as in "the student's mean error".
        clause: what a network does by it, to follow the network's name; ``{}`` stands for the percentage.
        verdict: what follows a percentage of the student.
        mark: what precedes a bare percentage where there is little room; accuracy needs none.
        decimals: how many of a percentage tell epochs apart.
        falls: whether less is better.
        against_teacher: whether it is taken against the teacher, whose own value then says nothing.
    """

    name: str
    title: str
    noun: str
    clause: str
    verdict: str
    mark: str = ""
    decimals: int = 1
    falls: bool = False
    against_teacher: bool = False

    def goodness(self, value: float) -> float:
        """Higher is better."""
        return -value if self.falls else value

    def metric(self, side: Side) -> str:
        """Its name among a job's metrics, such as ``baseline/val/top1``."""
        return f"{_PREFIXES[side]}val/{self.name}"


_ALL = (
    Headline(
        name="top1",
        title="Accuracy",
        noun="accuracy",
        clause="is right on {} of the test images",
        verdict="correct",
    ),
    Headline(
        name="nme",
        title="Mean error of points",
        noun="mean error",
        clause="misses the points by {} on average",
        verdict="mean error",
        mark="error ",
        decimals=2,
        falls=True,
    ),
    Headline(
        name="agreement",
        title="Agreement with the teacher",
        noun="agreement with the teacher",
        clause="guesses as the teacher does on {} of the test images",
        verdict="agreement with the teacher",
        mark="agrees ",
        against_teacher=True,
    ),
)
HEADLINES = {headline.name: headline for headline in _ALL}
"""Accuracy; the normalised mean error of landmarks; agreement with the teacher, where nothing is labelled."""


def headline_of(figures: Mapping[str, Any] | None) -> Headline | None:
    """By which of these figures a network is judged; agreement stands beside accuracy too, and is the last choice."""
    return next((headline for headline in _ALL if (figures or {}).get(headline.name) is not None), None)
