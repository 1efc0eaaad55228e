"""What a network can do and what it costs: the numbers of the report."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.data.placing import per_batch
from distill.events import Alive

_LATENCY_RUNS = 200
_BATCH = 1000


@dataclass(frozen=True)
class Answers:
    """A network's answers to the evaluation split, on the CPU in float32.

    Attributes:
        logits_NK: what it answers.
        pooled_NC: its penultimate features.
    """

    logits_NK: Tensor
    pooled_NC: Tensor


@torch.no_grad()
def answers(
    look: Callable[[Tensor], tuple[Tensor, Tensor]], images_NCHW: Tensor, *, device: torch.device
) -> Generator[Alive, None, Answers]:
    """Ask about every image, in batches, with a sign of life after each.

    Args:
        look: uint8 images (B, C, H, W) on the device to logits (B, K) and penultimate features (B, C).
        images_NCHW: uint8.
    """
    pairs = []
    for batch in torch.split(images_NCHW, per_batch(images_NCHW, at_most=_BATCH)):
        pairs.append(look(batch.to(device, non_blocking=True)))
        yield Alive()
    logits, pooled = zip(*pairs, strict=True)
    return Answers(torch.cat(logits).float().cpu(), torch.cat(pooled).float().cpu())


def top_k(logits_NK: Tensor, labels_N: Tensor, *, k: int = 1) -> float:
    """Share of images whose label is among the k highest answers."""
    k = min(k, logits_NK.shape[1])
    return float((logits_NK.topk(k, dim=1).indices == labels_N[:, None]).any(dim=1).float().mean())


def expected_calibration_error(logits_NK: Tensor, labels_N: Tensor, *, num_bins: int = 15) -> float:
    """Mean gap of confidence and accuracy over equal-width bins, weighted by their share (Guo et al., ICML 2017)."""
    confidence, guesses = logits_NK.softmax(dim=1).max(dim=1)
    right = (guesses == labels_N).double()
    bins = (confidence * num_bins).ceil().clamp(1, num_bins).long() - 1
    gap = torch.zeros(num_bins, dtype=torch.float64)
    gap.index_add_(0, bins, confidence.double() - right)
    return float(gap.abs().sum() / len(labels_N))


def accuracy_figures(given: Answers, labels_N: Tensor, *, num_classes: int) -> dict[str, Any]:
    """``top1``, ``top5``, ``ece`` and ``per_class`` accuracy (None for a class without images)."""
    right = (given.logits_NK.argmax(dim=1) == labels_N).double()
    counts = torch.bincount(labels_N, minlength=num_classes)
    hits = torch.bincount(labels_N, weights=right, minlength=num_classes)
    return {
        "top1": top_k(given.logits_NK, labels_N),
        "top5": top_k(given.logits_NK, labels_N, k=5),
        "ece": expected_calibration_error(given.logits_NK, labels_N),
        "per_class": [float(h / n) if n else None for h, n in zip(hits, counts, strict=True)],
    }


def worst_disagreements(
    student: Answers, teacher: Answers, labels_N: Tensor, *, limit: int = 20
) -> list[dict[str, Any]]:
    """Images on which the two guess differently, the most confident contradictions first."""
    p, q = teacher.logits_NK.softmax(dim=1), student.logits_NK.softmax(dim=1)
    teacher_sure, teacher_guess = p.max(dim=1)
    student_sure, student_guess = q.max(dim=1)
    contradiction = (teacher_sure * student_sure) * (teacher_guess != student_guess)
    return [
        {
            "index": i,
            "label": int(labels_N[i]),
            "teacher": {"class": int(teacher_guess[i]), "probability": float(teacher_sure[i])},
            "student": {"class": int(student_guess[i]), "probability": float(student_sure[i])},
        }
        for i in contradiction.argsort(descending=True)[:limit].tolist()
        if contradiction[i] > 0
    ]


@torch.no_grad()
def cpu_latency_ms(network: nn.Module, *, image_shape: tuple[int, int, int]) -> float:
    """Median milliseconds of one image (C, H, W) through a network on the CPU in float32."""
    image = torch.zeros(1, *image_shape)
    for _ in range(20):
        network(image)
    times = []
    for _ in range(_LATENCY_RUNS):
        start = time.perf_counter()
        network(image)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000.0
