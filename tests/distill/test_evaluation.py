from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distill import evaluation, events
from distill.evaluation import Answers

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
N, K = 173, 7


def double(tensor: Tensor) -> Array:
    return tensor.double().numpy()


def softmax(logits: Array) -> Array:
    rows = [[math.exp(value - max(row)) for value in row] for row in logits]
    return np.array([[value / sum(row) for value in row] for row in rows])


def top_k_by_loops(logits: Array, labels: Labels, k: int) -> float:
    """Right when fewer than k classes answer more than the label's own."""
    ranks = [sum(bool(value > row[label]) for value in row) for row, label in zip(logits, labels, strict=True)]
    return sum(rank < k for rank in ranks) / len(ranks)


def calibration_error_by_loops(logits: Array, labels: Labels, num_bins: int) -> float:
    """Guo et al., ICML 2017, Eq. 3: bin m holds confidences in ((m - 1) / M, m / M]."""
    probabilities = softmax(logits)
    total = 0.0
    for number in range(num_bins):
        low, high = number / num_bins, (number + 1) / num_bins
        inside = [i for i, row in enumerate(probabilities) if low < max(row) <= high]
        if inside:
            accuracy = sum(int(np.argmax(probabilities[i]) == labels[i]) for i in inside) / len(inside)
            confidence = sum(max(probabilities[i]) for i in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.fixture
def labels() -> Tensor:
    return torch.randint(K, (N,), generator=torch.Generator().manual_seed(3))


@pytest.fixture
def student(labels: Tensor) -> Answers:
    """Right more often than not, unsure to very sure."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(N, K, generator=generator) * 2
    logits[torch.arange(N), labels] += 2 * torch.rand(N, generator=generator)
    return Answers(logits, torch.randn(N, 5, generator=generator) + 3)


@pytest.fixture
def teacher(student: Answers) -> Answers:
    generator = torch.Generator().manual_seed(2)
    pooled = student.pooled_NC @ torch.randn(5, 9, generator=generator) + torch.randn(N, 9, generator=generator)
    return Answers(student.logits_NK * 1.5 + torch.randn(N, K, generator=generator), pooled.relu())


@pytest.mark.parametrize("k", [1, 2, 5, K])
def test_top_k(student: Answers, labels: Tensor, k: int) -> None:
    expected = top_k_by_loops(double(student.logits_NK), labels.numpy(), k)
    assert evaluation.top_k(student.logits_NK, labels, k=k) == pytest.approx(expected, abs=1e-6)


def test_top_k_of_fewer_classes_than_k_is_all() -> None:
    assert evaluation.top_k(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), k=5) == 1.0


@pytest.mark.parametrize("num_bins", [1, 10, 15])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_expected_calibration_error(student: Answers, labels: Tensor, num_bins: int, scale: float) -> None:
    logits = student.logits_NK * scale
    expected = calibration_error_by_loops(double(logits), labels.numpy(), num_bins)
    assert evaluation.expected_calibration_error(logits, labels, num_bins=num_bins) == pytest.approx(expected, abs=1e-6)


def test_calibration_error_of_sure_answers() -> None:
    sure = torch.eye(4) * 1000  # probabilities of exactly 1 and 0
    assert evaluation.expected_calibration_error(sure, torch.arange(4)) == 0.0
    assert evaluation.expected_calibration_error(sure, torch.tensor([0, 1, 3, 2])) == 0.5


def test_calibration_error_neither_cancels_between_bins_nor_mixes_a_bins_upper_edge_with_the_next() -> None:
    unsure_and_wrong, likely_and_right = [0.0, 0.0], [math.log(0.55 / 0.45), 0.0]
    logits = torch.tensor([unsure_and_wrong, likely_and_right])
    found = evaluation.expected_calibration_error(logits, torch.tensor([1, 0]), num_bins=10)
    assert found == pytest.approx((0.5 - 0.0) / 2 + (1.0 - 0.55) / 2)


def test_accuracy_figures(student: Answers, labels: Tensor) -> None:
    figures = evaluation.accuracy_figures(student, labels, num_classes=K)

    logits = double(student.logits_NK)
    for label, accuracy in enumerate(figures["per_class"]):
        own = [i for i in range(N) if labels[i] == label]
        assert accuracy == pytest.approx(sum(np.argmax(logits[i]) == label for i in own) / len(own), abs=1e-12)
    assert figures["top1"] == pytest.approx(top_k_by_loops(logits, labels.numpy(), 1), abs=1e-6)
    assert figures["top5"] == pytest.approx(top_k_by_loops(logits, labels.numpy(), 5), abs=1e-6)
    assert figures["ece"] == pytest.approx(calibration_error_by_loops(logits, labels.numpy(), 15), abs=1e-6)


def test_class_without_images_has_no_accuracy() -> None:
    given = Answers(torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]]), torch.zeros(2, 1))
    figures = evaluation.accuracy_figures(given, torch.tensor([0, 0]), num_classes=3)
    assert figures["per_class"] == [0.5, None, None]


def test_worst_disagreements(student: Answers, teacher: Answers, labels: Tensor) -> None:
    p, q = softmax(double(teacher.logits_NK)), softmax(double(student.logits_NK))
    differing = [i for i in range(N) if np.argmax(p[i]) != np.argmax(q[i])]
    assert len(differing) > 6

    found = evaluation.worst_disagreements(student, teacher, labels, limit=6)

    expected = sorted(differing, key=lambda i: -p[i].max() * q[i].max())[:6]
    assert [entry["index"] for entry in found] == expected
    for entry in found:
        i = entry["index"]
        assert entry["label"] == labels[i]
        for side, probabilities in (("teacher", p), ("student", q)):
            assert entry[side]["class"] == np.argmax(probabilities[i])
            assert entry[side]["probability"] == pytest.approx(probabilities[i].max(), rel=1e-5)
    assert len(evaluation.worst_disagreements(student, teacher, labels, limit=1000)) == len(differing)


def test_no_disagreement_with_oneself(teacher: Answers, labels: Tensor) -> None:
    assert evaluation.worst_disagreements(teacher, teacher, labels) == []


@pytest.mark.parametrize("count", [1, 1000, 2003])
def test_answers_come_for_every_image_in_order_without_gradient(count: int) -> None:
    images = torch.randint(256, (count, 1, 2, 2), dtype=torch.uint8)
    layer = nn.Linear(4, 3)
    sizes = []

    def look(batch: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(len(batch))
        pooled = batch.flatten(1).bfloat16()
        return layer(pooled.float()), pooled

    found: Any = events.result(evaluation.answers(look, images, device=torch.device("cpu")))

    assert max(sizes) <= 1000
    assert found.pooled_NC.dtype == found.logits_NK.dtype == torch.float32
    torch.testing.assert_close(found.pooled_NC, images.flatten(1).float(), rtol=0.01, atol=0)
    torch.testing.assert_close(found.logits_NK, layer(found.pooled_NC).detach())
    assert not found.logits_NK.requires_grad


def test_latency_is_that_of_single_images() -> None:
    shapes = set()

    class Seen(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            shapes.add((tuple(image.shape), image.dtype, image.requires_grad, torch.is_grad_enabled()))
            return image

    assert 0.0 < evaluation.cpu_latency_ms(Seen(), image_shape=(3, 8, 6)) < 1000.0
    assert shapes == {((1, 3, 8, 6), torch.float32, False, False)}
