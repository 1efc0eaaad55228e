"""Points on images: the losses that train them and the measures that judge them.

Shapes: B batch, N images, L points, K = 2 L a network's outputs; the last axis is x to the right, y down.

Two units. A **share** is a coordinate in 0..1 of the image's width or height, from the left or upper edge to the
right or lower one (the centre of pixel i is (i + 0.5) / width): what data sets hold and networks answer, whatever the
size of the image. A **pixel** is one of the image that the network sees. Losses and measures take pixels, since
their constants are lengths (wing's w and epsilon, the knee of smooth L1) and since the distances of an image that is
not square would be bent in shares. :func:`to_pixels` leads from one to the other.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distill.markup import Normaliser

LandmarkLoss = Literal["l1", "l2", "smooth_l1", "wing"]

FAILURE = 0.1
"""The normalised error from which on an image counts as failed, and up to which the AUC is taken."""


def as_points(outputs_BK: Tensor) -> Tensor:
    """A network's outputs x, y, x, y, ... as points (B, L, 2), in float32."""
    return outputs_BK.float().reshape(len(outputs_BK), -1, 2)


def to_pixels(points_BLD: Tensor, *, image_size: tuple[int, int]) -> Tensor:
    """Shares as pixels.

    Args:
        points_BLD: (B, L, 2) in shares.
        image_size: (height, width) of the image in pixels.
    """
    height, width = image_size
    # Column by column: a tensor of the two factors would have to be sent to the device at every step.
    return torch.stack((points_BLD[..., 0] * width, points_BLD[..., 1] * height), dim=-1)


def landmark_loss(points_BLD: Tensor, targets_BLD: Tensor, *, kind: LandmarkLoss) -> Tensor:
    """One of the four losses below, by name, with its usual constants; both arguments in pixels."""
    match kind:
        case "l1":
            return l1(points_BLD, targets_BLD)
        case "l2":
            return l2(points_BLD, targets_BLD)
        case "smooth_l1":
            return smooth_l1(points_BLD, targets_BLD)
        case "wing":
            return wing(points_BLD, targets_BLD)


def l1(points_BLD: Tensor, targets_BLD: Tensor) -> Tensor:
    """Mean of |x| over all coordinates x of the difference, in pixels."""
    return F.l1_loss(points_BLD.float(), targets_BLD.float())


def l2(points_BLD: Tensor, targets_BLD: Tensor) -> Tensor:
    """Mean of x² over all coordinates x of the difference, in pixels²."""
    return F.mse_loss(points_BLD.float(), targets_BLD.float())


def smooth_l1(points_BLD: Tensor, targets_BLD: Tensor) -> Tensor:
    """Mean of x² / 2 up to one pixel and |x| - 1/2 beyond it (Girshick, ICCV 2015), in pixels."""
    return F.smooth_l1_loss(points_BLD.float(), targets_BLD.float())


def wing(points_BLD: Tensor, targets_BLD: Tensor, *, width: float = 10.0, epsilon: float = 2.0) -> Tensor:
    """Wing loss (Feng et al., CVPR 2018, Eq. 5): small errors weigh more than in L1, large ones as much.

    ``w ln(1 + |x| / epsilon)`` where |x| < w, else ``|x| - C`` with ``C = w - w ln(1 + w / epsilon)``, which joins
    the two; the mean over all coordinates x of the difference. The authors' w = 10 and epsilon = 2 are pixels of
    the image that the network sees, and so the points have to be in pixels: in shares every error would be far
    below epsilon, where the loss is a straight line like L1.

    Args:
        points_BLD: (B, L, 2) in pixels.
        targets_BLD: the same.
        width: w, in pixels.
        epsilon: how strongly the curve bends, in pixels.
    """
    distances = (points_BLD.float() - targets_BLD.float()).abs()
    offset = width - width * math.log1p(width / epsilon)
    return torch.where(distances < width, width * torch.log1p(distances / epsilon), distances - offset).mean()


def normalised_errors(points_NLD: Tensor, targets_NLD: Tensor, *, normaliser: Normaliser) -> Tensor:
    """The NME of each image, float64 (N,): the mean distance of its points from the truth, by a length of the face.

    Infinite where an answer is not finite, so that such an image counts as failed.

    Args:
        points_NLD: answers (N, L, 2) in pixels.
        targets_NLD: the truth, likewise.
        normaliser: two points, whose true distance is the length (the outer corners of the eyes: inter-ocular), or
            ``box``: the root of the area of the box about the true points.
    """
    distances_NL = torch.linalg.vector_norm(points_NLD.double() - targets_NLD.double(), dim=2)
    errors_N = distances_NL.mean(dim=1) / face_lengths(targets_NLD, normaliser=normaliser)
    return torch.nan_to_num(errors_N, nan=math.inf, posinf=math.inf)


def face_lengths(targets_NLD: Tensor, *, normaliser: Normaliser) -> Tensor:
    """By what the errors of each face are divided, float64 (N,); arguments as of :func:`normalised_errors`."""
    truth = targets_NLD.double()
    if normaliser == "box":
        return (truth.amax(dim=1) - truth.amin(dim=1)).prod(dim=1).sqrt()
    first, second = normaliser
    lengths_N: Tensor = torch.linalg.vector_norm(truth[:, first] - truth[:, second], dim=1)
    return lengths_N


def failure_rate(errors_N: Tensor, *, threshold: float = FAILURE) -> float:
    """Share of images whose normalised error is above the threshold."""
    return float((errors_N > threshold).double().mean())


def area_under_curve(errors_N: Tensor, *, threshold: float = FAILURE) -> float:
    """Area under the cumulative error distribution from 0 to the threshold, as a share of the threshold: 0 to 1.

    The curve CED(t) is the share of images with an error of at most t. An image with the error e adds its share to
    the curve from e on, so that the integral is exactly the mean of max(0, threshold - e); no grid is laid.
    """
    return float((1.0 - errors_N.double() / threshold).clamp_min(0.0).mean())


def landmark_figures(points_NLD: Tensor, targets_NLD: Tensor, *, normaliser: Normaliser) -> dict[str, float]:
    """``nme`` (mean over the images), ``failure_rate`` and ``auc``, both at 10 %; arguments in pixels."""
    errors_N = normalised_errors(points_NLD, targets_NLD, normaliser=normaliser)
    return {
        "nme": float(errors_N.mean()),
        "failure_rate": failure_rate(errors_N),
        "auc": area_under_curve(errors_N),
    }
