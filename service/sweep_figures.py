"""The figures of a comparison: where they stand in a job's report, and how they are shown. Imports nothing of ours."""

from __future__ import annotations

from dataclasses import dataclass

SEED_PATH = "/training/seed"
"""The axis that is averaged over."""
REPORTED = {
    "student_top1": ("student", "top1"),
    "teacher_top1": ("teacher", "top1"),
    "baseline_top1": ("baseline", "top1"),
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
    Column(figure="gain", title="gain", scale=_PERCENT, signed=True),
    Column(figure="agreement", title="agreement %", scale=_PERCENT),
    Column(figure="kl_to_teacher", title="KL to teacher", digits=3),
    Column(figure="cka", title="CKA", digits=3),
    Column(figure="seconds", title="minutes", scale=_PER_MINUTE),
)
"""In the order of the table. ``gain``: top-1 of the student less the baseline's; ``seconds``: a job's, start to end."""
FIGURES = tuple(column.figure for column in COLUMNS)
