"""What is read of a job's report."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from api.catalog_schemas import PublishedFigures
from api.schemas import Schema


class FiguresSchema(Schema):
    """One network, measured; shares of 1, counts, bytes, milliseconds. What does not apply to it is missing or null."""

    model_config = ConfigDict(extra="allow")

    top1: float | None = None
    """Share of images of which the first guess is right; with labels."""
    top5: float | None = None
    """Share of images whose class is among the five first guesses."""
    ece: float | None = None
    """Expected calibration error, over fifteen bins of confidence."""
    per_class: list[float | None] | None = None
    """Accuracy by class; null for a class without test images."""
    nmi_to_labels: float | None = None
    """How well the clusters of penultimate features are the classes: normalised mutual information, 0 to 1."""
    nme: float | None = None
    """Of landmarks: the mean distance of a point from the truth, as a share of its image's normalising length; less is
    better, and more than 1 is possible."""
    failure_rate: float | None = None
    """Of landmarks: share of images whose mean error is above 10 %."""
    auc: float | None = None
    """Of landmarks: area under the cumulative distribution of images' errors up to 10 %, 0 to 1."""
    nme_to_teacher: float | None = None
    """Of landmarks: as `nme`, with the teacher's points in the place of the truth."""
    agreement: float | None = None
    """Share of images on which it guesses as the teacher does."""
    kl_to_teacher: float | None = None
    """Mean KL(teacher || network) of the class probabilities, in nats."""
    cka: float | None = None
    """Linear CKA of penultimate features with the teacher's, 0 to 1."""
    nmi_to_teacher: float | None = None
    """How well the clusters of penultimate features are those of the teacher's: the same, 0 to 1."""
    parameters: int | None = None
    binary_parameters: int | None = None
    """How many of the parameters take one bit each."""
    macs: int | None = None
    """Multiply-adds of real numbers for one image, in convolutions and linear layers."""
    binary_macs: int | None = None
    """Multiply-adds of signs for one image."""
    operations: int | None = None
    """`macs`, and `binary_macs` at 64 an operation."""
    bytes: int | None = None
    """Of its file."""
    latency_ms: float | None = None
    """Of one image on the CPU, the median."""


class PublishedSchema(PublishedFigures):
    """What the job's recipe was published with."""

    recipe: str
    title: str
    departures: list[str]
    """JSON pointers to what was otherwise in this job; with any, the figures are no target but a landmark."""


class ReportSchema(Schema):
    """Teacher, student and, with `baseline`, the same student trained on labels alone, side by side."""

    model_config = ConfigDict(extra="allow")

    teacher: FiguresSchema
    student: FiguresSchema
    baseline: FiguresSchema | None = None
    """Null where it was not asked for, where no image is labelled, and for plain training, which is its own."""
    published: PublishedSchema | None = None
    """Null without a recipe."""
    task: str | None = None
    """What the images are labelled with: `classification`, also where none is labelled, or `landmarks`."""
    method: str | None = None
    """Types from GET /methods, such as `srrl`, or `srrl + kd` where methods are combined."""
    head: str | None = None
    """What answers in the student: `own`, its own layer, or `teacher`, the connector and the teacher's last layer."""
    classes: list[str] | None = None
    images: dict[str, int] | None = None
    """How many were trained on, and how many measured on."""
    disagreements: list[dict[str, Any]] | None = None
    """Test images on which student and teacher differ: where they guess otherwise, the surest contradictions first; of
    landmarks the most distant answers first."""
