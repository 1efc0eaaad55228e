"""How near a student is to its teacher: answers, guesses, and the geometry of penultimate features.

The third ablation of the SRRL paper: students are closer to the teacher in the KL of their outputs, and
their features cluster more as the teacher's do.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.evaluation import Answers

_MAX_CLUSTERED = 10_000
_RESTARTS, _ITERATIONS = 4, 25


def linear_cka(a_NC: Tensor, b_ND: Tensor) -> float:
    """Linear centred kernel alignment of two feature sets, 0 to 1 (Kornblith et al., ICML 2019)."""
    a, b = (x.double() - x.double().mean(dim=0) for x in (a_NC, b_ND))
    cross = (a.T @ b).square().sum()
    return float(cross / ((a.T @ a).norm() * (b.T @ b).norm()).clamp_min(1e-30))


def nmi(a_N: Tensor, b_N: Tensor) -> float:
    """Normalised mutual information of two labellings, 0 to 1: 2 I(a; b) / (H(a) + H(b)); 1 when both are constant."""
    classes = int(b_N.max()) + 1
    joint = torch.bincount(a_N * classes + b_N, minlength=(int(a_N.max()) + 1) * classes).double()
    joint_AB = joint.view(-1, classes) / len(a_N)
    entropy_a, entropy_b, entropy = (_entropy(p) for p in (joint_AB.sum(dim=1), joint_AB.sum(dim=0), joint_AB))
    if entropy_a + entropy_b == 0:
        return 1.0
    return max(0.0, float(2 * (entropy_a + entropy_b - entropy) / (entropy_a + entropy_b)))


def clusters(features_NC: Tensor, *, num_clusters: int, seed: int = 0) -> Tensor:
    """k-means: the cluster (N,) of each feature; the best of a few starts by k-means++, always the same ones.

    Features are compared at unit length, so that the width and scale of a network do not count.
    """
    points_NC = F.normalize(features_NC.float(), dim=1)
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[float, Tensor]] = [
        _lloyd(points_NC, _spread(points_NC, num_clusters, generator)) for _ in range(_RESTARTS)
    ]
    return min(found, key=lambda result: result[0])[1]


def cluster_figures(given: Answers, labels_N: Tensor, *, num_clusters: int) -> dict[str, float]:
    """``nmi_to_labels``: how well the clusters of the penultimate features are the classes."""
    chosen = _some(len(labels_N))
    return {"nmi_to_labels": nmi(clusters(given.pooled_NC[chosen], num_clusters=num_clusters), labels_N[chosen])}


def likeness_figures(student: Answers, teacher: Answers) -> dict[str, float]:
    """How near a student is to its teacher.

    ``agreement``: share of equal guesses; ``kl_to_teacher``: mean KL(teacher || student) of the class
    probabilities, in nats; ``cka`` of the penultimate features; ``nmi_to_teacher`` of their clusters, as many as
    there are classes.
    """
    log_p, log_q = (F.log_softmax(a.logits_NK.double(), dim=1) for a in (teacher, student))
    same = student.logits_NK.argmax(dim=1) == teacher.logits_NK.argmax(dim=1)
    return {
        "agreement": float(same.double().mean()),
        "kl_to_teacher": float((log_p.exp() * (log_p - log_q)).sum(dim=1).mean()),
        **feature_likeness(student, teacher, num_clusters=teacher.logits_NK.shape[1]),
    }


def feature_likeness(student: Answers, teacher: Answers, *, num_clusters: int) -> dict[str, float]:
    """``cka`` and ``nmi_to_teacher`` of the penultimate features alone."""
    chosen = _some(len(student.pooled_NC))
    ours, theirs = (clusters(a.pooled_NC[chosen], num_clusters=num_clusters) for a in (student, teacher))
    return {"cka": linear_cka(student.pooled_NC, teacher.pooled_NC), "nmi_to_teacher": nmi(ours, theirs)}


def _some(count: int) -> Tensor:
    """At most so many places, evenly spread."""
    return torch.arange(count)[:: max(1, -(-count // _MAX_CLUSTERED))]


def _entropy(p: Tensor) -> Tensor:
    entropy: Tensor = -torch.special.xlogy(p, p).sum()
    return entropy


def _spread(points_NC: Tensor, num_clusters: int, generator: torch.Generator) -> Tensor:
    """k-means++ (Arthur and Vassilvitskii 2007): each centre drawn by its squared distance to those before."""
    first = int(torch.randint(len(points_NC), (), generator=generator))
    chosen = [first]
    distances_N = (points_NC - points_NC[first]).square().sum(dim=1)
    for _ in range(min(num_clusters, len(points_NC)) - 1):
        if not bool(distances_N.any()):
            break
        drawn = int(torch.multinomial(distances_N, 1, generator=generator))
        chosen.append(drawn)
        distances_N = torch.minimum(distances_N, (points_NC - points_NC[drawn]).square().sum(dim=1))
    centres_KC: Tensor = points_NC[chosen].clone()
    return centres_KC


def _lloyd(points_NC: Tensor, centres_KC: Tensor) -> tuple[float, Tensor]:
    """Sum of squared distances, and the cluster of each point; an emptied cluster stays where it was."""
    nearest = torch.full((len(points_NC),), -1)
    for _ in range(_ITERATIONS):
        distances_NK = torch.cdist(points_NC, centres_KC)
        before, nearest = nearest, distances_NK.argmin(dim=1)
        if torch.equal(before, nearest):
            break
        sums_KC = torch.zeros_like(centres_KC).index_add_(0, nearest, points_NC)
        counts_K = torch.bincount(nearest, minlength=len(centres_KC))
        filled = counts_K > 0
        centres_KC[filled] = sums_KC[filled] / counts_K[filled, None]
    return float(torch.cdist(points_NC, centres_KC).min(dim=1).values.square().sum()), nearest
