"""The figures of a comparison: where they stand in a job's report, and how they are shown. Light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distill.headlines import HEADLINES, Headline

SEED_PATH = "/training/seed"
"""The axis that is averaged over."""
REPORTED = {
    "student_top1": ("student", "top1"),
    "teacher_top1": ("teacher", "top1"),
    "baseline_top1": ("baseline", "top1"),
    "student_nme": ("student", "nme"),
    "teacher_nme": ("teacher", "nme"),
    "baseline_nme": ("baseline", "nme"),
    "agreement": ("student", "agreement"),
    "kl_to_teacher": ("student", "kl_to_teacher"),
    "cka": ("student", "cka"),
}
"""Figures that stand in a job's report, and where."""
_PERCENT, _PER_MINUTE = 100.0, 1 / 60


@dataclass(frozen=True, kw_only=True)
class Column:
    """A figure, what its column is called, and how its mean and deviation are written."""

    figure: str
    title: str
    scale: float = 1.0
    digits: int = 2
    signed: bool = False

    def show(self, mean: float | None, sd: float | None) -> str:
        """88.24 ± 0.51; 88.24 of one measurement alone; a dash without any."""
        if mean is None:
            return "–"
        text = f"{mean * self.scale:{'+' if self.signed else ''}.{self.digits}f}"
        return text if sd is None else f"{text} ± {sd * self.scale:.{self.digits}f}"


COLUMNS = (
    Column(figure="student_top1", title="student %", scale=_PERCENT),
    Column(figure="teacher_top1", title="teacher %", scale=_PERCENT),
    Column(figure="baseline_top1", title="labels alone %", scale=_PERCENT),
    Column(figure="student_nme", title="student's error %", scale=_PERCENT),
    Column(figure="teacher_nme", title="teacher's error %", scale=_PERCENT),
    Column(figure="baseline_nme", title="error on labels alone %", scale=_PERCENT),
    Column(figure="gain", title="gain", scale=_PERCENT, signed=True),
    Column(figure="agreement", title="agreement %", scale=_PERCENT),
    Column(figure="kl_to_teacher", title="KL to teacher", digits=3),
    Column(figure="cka", title="CKA", digits=3),
    Column(figure="seconds", title="minutes", scale=_PER_MINUTE),
)
"""In the order of the table. ``gain``: how much better than the baseline the student is, by top-1 (student less
baseline) or by the error of points (baseline less student); ``seconds``: a job's, start to end."""
FIGURES = tuple(column.figure for column in COLUMNS)


def headline_in(figures: Mapping[str, float | None]) -> tuple[Headline, float] | None:
    """What a job of these figures is judged by, and its value."""
    for headline in HEADLINES.values():
        value = figures.get(headline.name if headline.against_teacher else f"student_{headline.name}")
        if value is not None:
            return headline, value
    return None


def gain(figures: Mapping[str, float | None]) -> float | None:
    """How much better than the baseline the student is."""
    judged = headline_in(figures)
    if judged is None:
        return None
    headline, student = judged
    baseline = figures.get(f"baseline_{headline.name}")
    return headline.goodness(student) - headline.goodness(baseline) if baseline is not None else None
