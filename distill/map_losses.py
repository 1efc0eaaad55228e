"""The losses that compare feature maps, as pure functions of tensors, in float32 or better.

Shapes: B batch, C channels, H and W places, D a whole feature in one row. Maps of unequal size are compared at the
smaller one, by adaptive average pooling, as in the CRD benchmark (github.com/HobbitLong/RepDistiller).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_LEVELS = (4, 2, 1)


def fit(student_BCHW: Tensor, teacher_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller of their heights and the smaller of their widths."""
    sides = zip(student_BCHW.shape[2:], teacher_BCHW.shape[2:], strict=True)
    height, width = (min(pair) for pair in sides)
    return pool(student_BCHW, size=(height, width)), pool(teacher_BCHW, size=(height, width))


def pool(map_BCHW: Tensor, *, size: tuple[int, int]) -> Tensor:
    """The map at another size (H, W): the mean of each of its fields."""
    return map_BCHW if map_BCHW.shape[2:] == size else F.adaptive_avg_pool2d(map_BCHW, size)


def map_distance(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Mean squared difference of two maps with the same channels; the measure of FitNets and SimKD."""
    student, teacher = fit(_full(student_BCHW), _full(teacher_BCHW))
    return F.mse_loss(student, teacher)


def attention_transfer(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Mean squared difference of the normalised spatial attentions; channels may differ.

    Attention is the mean over channels of the squared map, as one row of unit length an image.
    Zagoruyko and Komodakis, ICLR 2017, Eq. 2, with p = 2 and the mean instead of the sum, as in the CRD benchmark.
    """
    student, teacher = fit(_full(student_BCHW), _full(teacher_BCHW))
    return F.mse_loss(_attention(student), _attention(teacher))


def similarity_preserving(student_BD: Tensor, teacher_BE: Tensor) -> Tensor:
    """Squared Frobenius distance of the row-normalised Gram matrices of a batch, over B².

    Tung and Mori, ICCV 2019, Eq. 4.

    Args:
        student_BD: features of any shape behind the batch.
        teacher_BE: the teacher's, of another shape if need be.
    """
    # Outside autocast: the matrices' difference is small beside them, too small for bf16.
    with torch.autocast(student_BD.device.type, enabled=False):
        gap_BB = _similarity(student_BD) - _similarity(teacher_BE)
    return gap_BB.square().mean()


def gaussian_information(mean_BCHW: Tensor, teacher_BCHW: Tensor, *, variance_C: Tensor) -> Tensor:
    """Mean over all numbers of -log q(teacher | mean, variance) of a Gaussian, without its constant.

    Ahn et al., CVPR 2019, Eq. 5.
    """
    variance_C11 = _full(variance_C)[:, None, None]
    squares_BCHW = (_full(mean_BCHW) - _full(teacher_BCHW)).square()
    return 0.5 * (squares_BCHW / variance_C11 + variance_C11.log()).mean()


def neuron_selectivity(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of the channels' patterns, by the kernel (a·b)², averaged over the batch.

    A pattern is one channel as a row of unit length over its places. Huang and Wang 2017, Eq. 3 with the polynomial
    kernel of degree 2 and offset 0.
    """
    student, teacher = fit(_full(student_BCHW), _full(teacher_BCHW))
    a_BCP, b_BDP = (F.normalize(x.flatten(2), dim=2) for x in (student, teacher))
    with torch.autocast(a_BCP.device.type, enabled=False):
        if a_BCP.shape[2] <= min(a_BCP.shape[1], b_BDP.shape[1]):
            # The sum of (a·b)² over all pairs of rows is <AᵀA, BᵀB>: with few places the smaller matrices, and
            # a squared distance instead of a difference of large numbers.
            gap_BPP = _moments(a_BCP) - _moments(b_BDP)
            return gap_BPP.square().sum(dim=(1, 2)).mean()
        return _kernel(b_BDP, b_BDP) + _kernel(a_BCP, a_BCP) - 2.0 * _kernel(a_BCP, b_BDP)


def hierarchical_context(student_BCHW: Tensor, teacher_BCHW: Tensor) -> Tensor:
    """Mean squared difference of two maps of one shape, at full size and pooled to 4, 2 and 1 places a side.

    Levels that are not below the map's height are left out; the weights 1, 1/2, 1/4, 1/8 in their order are divided
    by their sum. Chen et al., CVPR 2021, section 3.4, with the weights of the authors' code.
    """
    student, teacher = _full(student_BCHW), _full(teacher_BCHW)
    loss, weight, total = F.mse_loss(student, teacher), 1.0, 1.0
    for side in _LEVELS:
        if side < student.shape[2]:
            weight, total = weight / 2, total + weight / 2
            loss = loss + weight * F.mse_loss(pool(student, size=(side, side)), pool(teacher, size=(side, side)))
    return loss / total


def _full(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _attention(map_BCHW: Tensor) -> Tensor:
    return F.normalize(map_BCHW.square().mean(dim=1).flatten(1), dim=1)


def _similarity(feature: Tensor) -> Tensor:
    rows_BD = _full(feature).flatten(1)
    return F.normalize(rows_BD @ rows_BD.T, dim=1)


def _moments(rows_BCP: Tensor) -> Tensor:
    return rows_BCP.transpose(1, 2).bmm(rows_BCP) / rows_BCP.shape[1]


def _kernel(a_BCP: Tensor, b_BDP: Tensor) -> Tensor:
    return a_BCP.bmm(b_BDP.transpose(1, 2)).square().mean()
