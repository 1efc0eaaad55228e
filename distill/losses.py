"""The losses of logits and penultimate features, as pure functions of tensors, in float32.

Shapes: B batch, C channels of a penultimate feature, E length of an embedding, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

Reduction = Literal["mean", "sum"]
RegressionLoss = Literal["l2", "ce", "kl"]

_PAIRS_AT_ONCE = 256 * 256


def feature_matching(connected_BC: Tensor, teacher_BC: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """L_FM: squared distance of the student's connected, pooled feature from the teacher's.

    ``mean`` averages over channels as the authors' code does, ``sum`` adds them as the paper writes;
    the batch is averaged in both. Yang et al., ICLR 2021, Eq. 3.
    """
    return _squared(connected_BC, teacher_BC, reduction)


def softmax_regression(
    student_BK: Tensor,
    teacher_BK: Tensor,
    *,
    kind: RegressionLoss = "l2",
    reduction: Reduction = "mean",
) -> Tensor:
    """L_SR: how far the teacher's classifier tells the student's feature from the teacher's own.

    Both arguments are logits of the teacher's frozen classifier: of the student's connected feature, and
    of the teacher's feature. ``l2`` compares the logits themselves, without softmax or temperature (Eq. 7,
    the paper's choice); ``ce`` and ``kl`` compare the probabilities, summed over classes by definition
    (Eq. 4), so that ``reduction`` concerns ``l2`` alone.
    """
    if kind == "l2":
        return _squared(student_BK, teacher_BK, reduction)
    log_q = F.log_softmax(student_BK.float(), dim=1)
    p = F.softmax(teacher_BK.float(), dim=1)
    if kind == "ce":
        return -(p * log_q).sum(dim=1).mean()
    return F.kl_div(log_q, p, reduction="batchmean")


def label_cross_entropy(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Mean cross-entropy over the images that have a label, those with one of 0 or more; 0 when none has."""
    labelled_B = labels_B >= 0
    losses_B = F.cross_entropy(logits_BK.float(), labels_B, ignore_index=-1, reduction="none")
    return losses_B.sum() / labelled_B.sum().clamp(min=1)


def softened_divergence(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float) -> Tensor:
    """``T² KL(softmax(z_T / T) || softmax(z_S / T))``, mean over the batch; Hinton, Vinyals, Dean 2015.

    T² keeps the size of the gradient when T changes.
    """
    divergences_B = _divergences(promoted(student_BK) / temperature, promoted(teacher_BK) / temperature)
    return temperature**2 * divergences_B.mean()


def decoupled_divergences(
    student_BK: Tensor, teacher_BK: Tensor, labels_B: Tensor, *, temperature: float
) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of Zhao et al., CVPR 2022, each ``T² KL``: the target against the rest, and within the rest.

    Means over the images that have a label, those with one of 0 or more; 0 when none has.
    """
    student_BK, teacher_BK = promoted(student_BK) / temperature, promoted(teacher_BK) / temperature
    student, teacher = _without_target(student_BK, labels_B), _without_target(teacher_BK, labels_B)
    target_B = _divergences(
        _recomputedst_rest(student_BK, student, labels_B), _recomputedst_rest(teacher_BK, teacher, labels_B)
    )
    nontarget_B = _divergences(student, teacher)
    labelled_B = labels_B >= 0
    scale = temperature**2 / labelled_B.sum().clamp(min=1)
    return (target_B * labelled_B).sum() * scale, (nontarget_B * labelled_B).sum() * scale


def probability_correlation(student_BK: Tensor, teacher_BK: Tensor, *, temperature: float, dim: int) -> Tensor:
    """``T² (1 - r)`` of softened probabilities, r the mean Pearson correlation; Huang et al., NeurIPS 2022.

    Along ``dim`` 1 over the classes of each image (the paper's inter-class relation, Eq. 9), along 0 over the
    images of each class (intra-class, Eq. 10). The denominator has the authors' 1e-8.
    """
    student = F.softmax(promoted(student_BK) / temperature, dim=1)
    teacher = F.softmax(promoted(teacher_BK) / temperature, dim=1)
    student = student - student.mean(dim=dim, keepdim=True)
    teacher = teacher - teacher.mean(dim=dim, keepdim=True)
    lengths = torch.linalg.vector_norm(student, dim=dim) * torch.linalg.vector_norm(teacher, dim=dim)
    correlations = (student * teacher).sum(dim=dim) / (lengths + 1e-8)
    gap: Tensor = temperature**2 * (1.0 - correlations.mean())
    return gap


def relative_distances(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """RKD-D of Park et al., CVPR 2019: Huber loss of all B² distances, each over the mean of those above 0."""
    return F.smooth_l1_loss(_relative_distances(promoted(student_BC)), _relative_distances(promoted(teacher_BC)))


def triplet_angles(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """RKD-A of Park et al., CVPR 2019: Huber loss of the cosines of the angles of all B³ triplets.

    The differences take B² C numbers and the cosines B³. Beyond 256 images they are made for some corners at a
    time, and again for the gradient, so that memory grows with B² alone.
    """
    student_BC, teacher_BC = promoted(student_BC), promoted(teacher_BC)
    num_corners = max(1, _PAIRS_AT_ONCE // len(student_BC))
    corners = list(zip(torch.split(student_BC, num_corners), torch.split(teacher_BC, num_corners), strict=True))
    with outside_autocast(student_BC):
        if len(corners) == 1:
            total = _angle_loss(student_BC, student_BC, teacher_BC, teacher_BC)
        else:
            total = torch.stack([_recomputed(_angle_loss, s, student_BC, t, teacher_BC) for s, t in corners]).sum()
    return total / len(student_BC) ** 3


def affinity_divergence(student_BC: Tensor, teacher_BC: Tensor) -> Tensor:
    """PKT of Passalis and Tefas, ECCV 2018: mean over B x B of ``p_T log((p_T + e) / (p_S + e))``, e = 1e-7.

    A row of p is ``(cos + 1) / 2`` of one image with all, over its sum.
    """
    with outside_autocast(student_BC):
        student_BB, teacher_BB = _affinities(promoted(student_BC)), _affinities(promoted(teacher_BC))
    return (teacher_BB * torch.log((teacher_BB + 1e-7) / (student_BB + 1e-7))).mean()


def correlation_congruence(student_BE: Tensor, teacher_BE: Tensor) -> Tensor:
    """CC of Peng et al., ICCV 2019, as the CRD benchmark has it: ``sum_d |D_i||D_i+1|``, mean over the rows' pairs.

    D is the difference of the two embeddings of an image, i and i + 1 are consecutive in the batch; 0 for one image.
    """
    gaps_BE = (promoted(student_BE) - promoted(teacher_BE)).abs()
    return (gaps_BE[:-1] * gaps_BE[1:]).sum() / max(1, len(gaps_BE) - 1)


def promoted(tensor: Tensor) -> Tensor:
    """In float32; what is float64 stays so."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def outside_autocast(tensor: Tensor) -> torch.autocast:
    """A context in which products of matrices keep their type: small differences are too small for bf16."""
    return torch.autocast(tensor.device.type, enabled=False)


def _squared(a: Tensor, b: Tensor, reduction: Reduction) -> Tensor:
    squares = torch.square(a.float() - b.float())
    return squares.mean() if reduction == "mean" else squares.sum(dim=1).mean()


def _divergences(student_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    """KL(teacher || student) of each row's softmax, (B,)."""
    log_q, log_p = F.log_softmax(student_BK, dim=1), F.log_softmax(teacher_BK, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)


def _without_target(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """All logits but the label's, (B, K - 1); which one goes where there is no label does not matter."""
    columns = torch.arange(logits_BK.shape[1] - 1, device=logits_BK.device)
    return logits_BK.gather(1, columns + (columns >= labels_B[:, None]))


def _recomputedst_rest(logits_BK: Tensor, others_BJ: Tensor, labels_B: Tensor) -> Tensor:
    """Two logits whose softmax is the probability of the label and of all others together, (B, 2)."""
    target_B = logits_BK.gather(1, labels_B.clamp(min=0)[:, None]).squeeze(1)
    return torch.stack([target_B, others_BJ.logsumexp(dim=1)], dim=1)


def _relative_distances(points_BC: Tensor) -> Tensor:
    # From differences, not from |a|² + |b|² - 2ab: near points would lose their digits.
    distances_BB = torch.cdist(points_BC, points_BC, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distances_BB.sum() / (distances_BB > 0).sum().clamp(min=1)
    return distances_BB / mean.clamp(min=1e-12)


def _angle_loss(student_AC: Tensor, student_BC: Tensor, teacher_AC: Tensor, teacher_BC: Tensor) -> Tensor:
    angles = _angles(student_AC, student_BC), _angles(teacher_AC, teacher_BC)
    return F.smooth_l1_loss(*angles, reduction="sum")


def _angles(corners_AC: Tensor, points_BC: Tensor) -> Tensor:
    """Cosine of the angle at corner a between points b and c, (A, B, B); 0 where one of them is the corner."""
    differences_ABC = points_BC[None] - corners_AC[:, None]
    lengths = torch.linalg.vector_norm(differences_ABC, dim=2, keepdim=True)
    # Not a tiny number instead: two equal features would get a gradient of its inverse.
    directions_ABC = differences_ABC / torch.where(lengths > 0, lengths, 1.0)
    return directions_ABC @ directions_ABC.transpose(1, 2)


def _recomputed(function: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """A function's value, computed once more for the gradient instead of kept."""
    value: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return value


def _affinities(points_BC: Tensor) -> Tensor:
    lengths_B = torch.linalg.vector_norm(points_BC, dim=1, keepdim=True)
    directions_BC = points_BC / (lengths_B + 1e-7)
    similarities_BB = (directions_BC @ directions_BC.T + 1.0) / 2.0
    rows: Tensor = similarities_BB / similarities_BB.sum(dim=1, keepdim=True)
    return rows
