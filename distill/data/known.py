"""What is known of public data sets: the normalisation that papers use for them, and the names of their classes."""

from __future__ import annotations

import string
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """Mean and standard deviation per channel of values in 0..1, as the papers on a data set print them."""

    of: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


CIFAR_10 = Normalisation(of="CIFAR-10", mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
CIFAR_100 = Normalisation(of="CIFAR-100", mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761))
IMAGENET = Normalisation(of="ImageNet", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

DIGITS = tuple(string.digits)
FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

# The merged splits join upper and lower case where both are written alike (Cohen et al., 2017, arXiv 1702.05373).
_MERGED = (*string.digits, *string.ascii_uppercase, *"abdefghnqrt")
EMNIST: dict[str, tuple[str, ...]] = {
    "balanced": _MERGED,
    "bymerge": _MERGED,
    "byclass": (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase),
    "digits": DIGITS,
    "letters": tuple(string.ascii_uppercase),
    "mnist": DIGITS,
}
"""Names of the classes of EMNIST's splits, in the order of their labels."""
