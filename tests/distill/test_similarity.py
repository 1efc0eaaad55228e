from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from distill import similarity
from distill.evaluation import Answers

Array = NDArray[np.float64]
N, K = 173, 7


def double(tensor: Tensor) -> Array:
    return tensor.double().numpy()


def softmax(logits: Array) -> Array:
    rows = [[math.exp(value - max(row)) for value in row] for row in logits]
    return np.array([[value / sum(row) for value in row] for row in rows])


def cka_by_kernels(a: Array, b: Array) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with HSIC = tr(K H L H) / (n - 1)^2, Kornblith et al. 2019, Eq. 3."""
    n = len(a)
    centring = np.eye(n) - np.ones((n, n)) / n

    def hsic(k: Array, m: Array) -> float:
        return float(np.trace(k @ centring @ m @ centring)) / (n - 1) ** 2

    k, m = a @ a.T, b @ b.T
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def nmi_by_counting(a: list[int], b: list[int]) -> float:
    """2 I(A; B) / (H(A) + H(B)), every sum over the pairs that occur (Strehl and Ghosh 2002, arithmetic mean)."""
    n = len(a)
    count_a, count_b, both = Counter(a), Counter(b), Counter(zip(a, b, strict=True))
    information = sum(c / n * math.log(n * c / (count_a[x] * count_b[y])) for (x, y), c in both.items())
    entropies = [-sum(c / n * math.log(c / n) for c in counts.values()) for counts in (count_a, count_b)]
    return 2 * information / sum(entropies)


@pytest.fixture
def teacher() -> Answers:
    generator = torch.Generator().manual_seed(2)
    return Answers(torch.randn(N, K, generator=generator), torch.randn(N, 6, generator=generator))


@pytest.fixture
def student(teacher: Answers) -> Answers:
    generator = torch.Generator().manual_seed(1)
    features = teacher.pooled_NC[:, :5] + torch.randn(N, 5, generator=generator)
    return Answers(teacher.logits_NK + 2 * torch.randn(N, K, generator=generator), features)


def test_linear_cka(student: Answers, teacher: Answers) -> None:
    a, b = student.pooled_NC, teacher.pooled_NC
    expected = cka_by_kernels(double(a), double(b))
    assert 0.1 < expected < 0.95
    assert similarity.linear_cka(a, b) == pytest.approx(expected, rel=1e-9)
    assert similarity.linear_cka(b, a) == pytest.approx(expected, rel=1e-9)


def test_linear_cka_sees_no_rotation_scale_or_shift(student: Answers) -> None:
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    a = student.pooled_NC.double()
    assert similarity.linear_cka(a, 3 * (a @ rotation) + 7) == pytest.approx(1.0, abs=1e-9)


def test_linear_cka_of_constant_features_is_zero(student: Answers) -> None:
    assert similarity.linear_cka(student.pooled_NC, torch.ones(N, 4)) == 0.0


def test_likeness_figures(student: Answers, teacher: Answers) -> None:
    figures = similarity.likeness_figures(student, teacher)

    p, q = softmax(double(teacher.logits_NK)), softmax(double(student.logits_NK))
    divergence = sum(p[i, k] * math.log(p[i, k] / q[i, k]) for i in range(N) for k in range(K)) / N
    agreement = sum(np.argmax(p[i]) == np.argmax(q[i]) for i in range(N)) / N
    assert figures["kl_to_teacher"] == pytest.approx(divergence, rel=1e-9)
    assert figures["agreement"] == pytest.approx(agreement, abs=1e-12)
    assert figures["cka"] == pytest.approx(
        cka_by_kernels(double(student.pooled_NC), double(teacher.pooled_NC)), rel=1e-9
    )


def test_teacher_is_wholly_like_itself(teacher: Answers) -> None:
    assert similarity.likeness_figures(teacher, teacher) == pytest.approx(
        {"agreement": 1.0, "kl_to_teacher": 0.0, "cka": 1.0, "nmi_to_teacher": 1.0}
    )


def test_divergence_from_a_teacher_of_extreme_logits_is_finite() -> None:
    sure, unsure = (Answers(torch.tensor([[size, 0.0]]), torch.zeros(1, 1)) for size in (5000.0, 0.0))
    assert similarity.likeness_figures(unsure, sure)["kl_to_teacher"] == pytest.approx(math.log(2))
    assert similarity.likeness_figures(sure, unsure)["kl_to_teacher"] == pytest.approx(2500 - math.log(2))


def test_nmi_agrees_with_counting() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 6, N)
    b = np.where(random.random(N) < 0.6, a, random.integers(0, 4, N))

    found = similarity.nmi(torch.from_numpy(a), torch.from_numpy(b))

    assert 0.2 < found < 0.9
    assert found == pytest.approx(nmi_by_counting(a.tolist(), b.tolist()), rel=1e-9)
    assert similarity.nmi(torch.from_numpy(b), torch.from_numpy(a)) == pytest.approx(found, rel=1e-12)


def test_nmi_knows_renamed_labels_and_strangers() -> None:
    a = torch.arange(120) % 4
    assert similarity.nmi(a, 3 - a) == pytest.approx(1.0)
    assert similarity.nmi(a, torch.arange(120) // 4 % 5) == pytest.approx(0.0, abs=0.02)
    assert similarity.nmi(a, torch.zeros_like(a)) == 0.0


def test_clusters_find_groups_that_lie_apart_whatever_their_scale() -> None:
    generator = torch.Generator().manual_seed(4)
    groups = torch.arange(200) % 5
    centres = torch.eye(5, 12)
    features = (centres[groups] + 0.05 * torch.randn(200, 12, generator=generator)) * torch.rand(200, 1) * 9

    found = similarity.clusters(features, num_clusters=5)

    assert similarity.nmi(found, groups) == pytest.approx(1.0)
    assert torch.equal(found, similarity.clusters(features, num_clusters=5))


def test_clusters_of_fewer_distinct_points_than_asked_for_do_not_fail() -> None:
    found = similarity.clusters(torch.ones(9, 3), num_clusters=4)
    assert found.unique().numel() == 1


def test_features_that_cluster_by_class_tell_the_labels() -> None:
    labels = torch.arange(60) % 3
    tidy = Answers(torch.zeros(60, 3), torch.eye(3)[labels] + 0.01 * torch.rand(60, 3))
    messy = Answers(torch.zeros(60, 3), torch.rand(60, 3, generator=torch.Generator().manual_seed(0)))

    assert similarity.cluster_figures(tidy, labels, num_clusters=3) == {"nmi_to_labels": pytest.approx(1.0)}
    assert similarity.cluster_figures(messy, labels, num_clusters=3)["nmi_to_labels"] < 0.3
