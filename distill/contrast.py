"""Noise-contrastive estimation over a memory of all images: what is drawn, how it is compared, what it costs.

Shapes: B batch, M negatives of an image, E length of an embedding, N images of the training split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_EPS = 1e-7
"""Of the CRD benchmark."""


class Negatives(nn.Module):
    """Draws images of other classes, on the device and without waiting for it.

    The images are kept in the order of their classes, so that those of other classes are all but one block of
    neighbours. For an image without a label, or labelled with points, the block is the image itself.

    Args:
        labels_N: of all training images: classes (N,), -1 where there is none; or points (N, L, 2).

    Raises:
        ValueError: an image has no image of another class.
    """

    order_N: Tensor
    start_N: Tensor
    size_N: Tensor

    def __init__(self, labels_N: Tensor) -> None:
        super().__init__()
        if labels_N.is_floating_point():
            labels_N = labels_N.new_full((len(labels_N),), -1, dtype=torch.int64)
        _, blocks_N, sizes = torch.unique(labels_N, return_inverse=True, return_counts=True)
        order_N = blocks_N.argsort(stable=True)
        position_N = torch.empty_like(order_N).scatter_(0, order_N, torch.arange(len(order_N), device=order_N.device))
        labelled_N = labels_N >= 0
        starts = sizes.cumsum(0) - sizes
        size_N = torch.where(labelled_N, sizes[blocks_N], 1)
        if int(size_N.max()) == len(labels_N):
            raise ValueError("there are no images of other classes")
        # Made from the labels again at every start: not part of the state.
        self.register_buffer("order_N", order_N, persistent=False)
        self.register_buffer("start_N", torch.where(labelled_N, starts[blocks_N], position_N), persistent=False)
        self.register_buffer("size_N", size_N, persistent=False)

    def draw(self, indices_B: Tensor, *, count: int) -> Tensor:
        """``count`` images for each of these, uniform and with replacement: indices (B, count).

        A remainder of 62 random bits strays from uniform by less than N / 2**62, where a float of 24 bits
        would miss images. Reads the device's global random numbers.
        """
        start_B1, size_B1 = self.start_N[indices_B, None], self.size_N[indices_B, None]
        bits_BM = torch.randint(2**62, (len(indices_B), count), device=self.order_N.device)
        place_BM = bits_BM % (len(self.order_N) - size_B1)
        return self.order_N[place_BM + (place_BM >= start_B1) * size_B1]


@dataclass(frozen=True)
class Scores:
    """How alike embeddings are, over the temperature.

    Attributes:
        positive_B: with the same image's embedding of the other side.
        negative_BM: with others'.
        counts_BM: how often each of these was drawn, 0 included; None is once each.
    """

    positive_B: Tensor
    negative_BM: Tensor
    counts_BM: Tensor | None


def occurrences(drawn_BM: Tensor, *, num_images: int) -> Tensor:
    """How often each image was drawn, (B, N) in float32; exact, and the same in whatever order it is added up."""
    ones = torch.ones((), device=drawn_BM.device).expand_as(drawn_BM)
    return torch.zeros(len(drawn_BM), num_images, device=drawn_BM.device).scatter_add_(1, drawn_BM, ones)


def compare_all(
    anchor_BE: Tensor, bank_NE: Tensor, indices_B: Tensor, *, counts_BN: Tensor, temperature: float
) -> Scores:
    """Scores by one product with the whole bank; right where images are few beside what is drawn.

    The gradient keeps a copy of the bank, which may be written to afterwards. It needs no scattered addition,
    so that it is the same in every run on a GPU, too.
    """
    positive_B = (anchor_BE * bank_NE[indices_B]).sum(dim=1)
    return Scores(positive_B / temperature, anchor_BE @ bank_NE.clone().T / temperature, counts_BN)


def compare_drawn(
    anchor_BE: Tensor, bank_NE: Tensor, indices_B: Tensor, *, drawn_BM: Tensor, temperature: float
) -> Scores:
    """The same from the drawn rows alone, B x M x E numbers; right where images are many beside them."""
    positive_B = (anchor_BE * bank_NE[indices_B]).sum(dim=1)
    negative_BM = (bank_NE[drawn_BM] @ anchor_BE[:, :, None]).squeeze(2)
    return Scores(positive_B / temperature, negative_BM / temperature, None)


@torch.no_grad()
def log_constant(scores: Scores, *, num_negatives: int, num_images: int) -> Tensor:
    """``log Z``, Z being N times the mean of exp(score) over positives and negatives: 0-d."""
    negative_BM = scores.negative_BM
    if scores.counts_BM is not None:
        negative_BM = negative_BM + scores.counts_BM.to(negative_BM.dtype).log()
    total = torch.cat([scores.positive_B, negative_BM.flatten()]).logsumexp(dim=0)
    num_scores = len(scores.positive_B) * (1 + num_negatives)
    return total + math.log(num_images / num_scores)


def noise_contrast(scores: Scores, log_constant: Tensor, *, num_negatives: int, num_images: int) -> Tensor:
    """``-[log P+ / (P+ + M/N + e) + sum log (M/N) / (P- + M/N + e)]``, mean over the batch; P is exp(score) / Z.

    Tian, Krishnan, Isola, ICLR 2020, Eq. 18, as the CRD benchmark's code has it, with its e = 1e-7. Both fractions
    are logistic functions of log P, so that nothing overflows at low temperatures.
    """
    noise = num_negatives / num_images
    log_noise = math.log(noise + _EPS)
    log_positive_B = F.logsigmoid(scores.positive_B - log_constant - log_noise)
    log_negative_BM = F.logsigmoid(log_noise + log_constant - scores.negative_BM)
    if scores.counts_BM is not None:
        log_negative_BM = log_negative_BM * scores.counts_BM
    per_image = num_negatives * (math.log(noise) - log_noise)
    return -(log_positive_B.sum() + log_negative_BM.sum()) / len(scores.positive_B) - per_image
