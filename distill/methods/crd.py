"""Contrastive representation distillation: Tian, Krishnan, Isola, ICLR 2020."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import POOLED, Batch
from distill.contrast import Negatives, Scores, compare_all, compare_drawn, log_constant, noise_contrast, occurrences
from distill.errors import InputError
from distill.losses import outside_autocast, promoted
from distill.method_specs import CRDSettings, negatives
from distill.pairs import Pair

_IMAGES_PER_NEGATIVE = 8
"""Up to so many images for each negative, a product with the whole bank is cheaper than gathering rows of it."""


class CRD(nn.Module):
    """``weight`` times noise contrast in both directions: student against the teacher's memory, and the reverse.

    Each side has a linear embedding, which is trained, and a bank of every image's embedding, which follows it
    with momentum. The normalising constants are those of the first batch. Banks and constants are part of the
    state; the negatives are drawn from the device's global random numbers.

    Raises:
        InputError: ``invalid_value``, all images are of one class.
    """

    teacher_needs = frozenset({POOLED})
    student_maps: frozenset[str] = frozenset()
    parts = ("crd",)
    trains_logits = False
    student_bank_NE: Tensor
    teacher_bank_NE: Tensor
    log_constants: Tensor

    def __init__(self, settings: CRDSettings, *, pair: Pair) -> None:
        super().__init__()
        self.num_images = len(pair.labels_N)
        self.num_negatives = negatives(settings.num_negatives, num_images=self.num_images)
        self.settings = settings
        self.numbers = {"num_negatives": self.num_negatives, "num_images": self.num_images}
        self.multiplies = self.num_images <= _IMAGES_PER_NEGATIVE * self.num_negatives
        self.student_embedding = nn.Linear(pair.student.pooled, settings.width)
        self.teacher_embedding = nn.Linear(pair.teacher.pooled, settings.width)
        bound = 1.0 / math.sqrt(settings.width / 3.0)
        for name in ("student_bank_NE", "teacher_bank_NE"):
            self.register_buffer(name, torch.empty(self.num_images, settings.width).uniform_(-bound, bound))
        self.register_buffer("log_constants", torch.zeros(2))
        self._has_constants = False
        self.negatives = _negatives(pair.labels_N)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.teacher is not None
        indices_B, numbers = batch.indices_B, self.numbers
        with outside_autocast(batch.student.pooled_BC):
            student_BE = _embedded(self.student_embedding, batch.student.pooled_BC)
            teacher_BE = _embedded(self.teacher_embedding, batch.teacher.pooled_BC.detach())
            drawn_BM = self.negatives.draw(indices_B, count=self.num_negatives)
            sides = ((student_BE, self.teacher_bank_NE), (teacher_BE, self.student_bank_NE))
            scores = self._compare(sides, indices_B, drawn_BM)
            if not self._has_constants:
                self.log_constants.copy_(torch.stack([log_constant(each, **numbers) for each in scores]))
                self._has_constants = True
            pairs = zip(scores, self.log_constants, strict=True)
            losses = [noise_contrast(each, constant, **numbers) for each, constant in pairs]
            self._remember(self.student_bank_NE, indices_B, student_BE)
            self._remember(self.teacher_bank_NE, indices_B, teacher_BE)
        part = torch.stack(losses).sum()
        return {"loss": self.settings.weight * part, "crd": part}

    def _compare(self, sides: tuple[tuple[Tensor, Tensor], ...], indices_B: Tensor, drawn_BM: Tensor) -> list[Scores]:
        """Scores of each side's embeddings with the other side's bank; both with the same negatives."""
        temperature = self.settings.temperature
        if not self.multiplies:
            return [compare_drawn(*side, indices_B, drawn_BM=drawn_BM, temperature=temperature) for side in sides]
        counts_BN = occurrences(drawn_BM, num_images=self.num_images)
        return [compare_all(*side, indices_B, counts_BN=counts_BN, temperature=temperature) for side in sides]

    @torch.no_grad()
    def _remember(self, bank_NE: Tensor, indices_B: Tensor, embedding_BE: Tensor) -> None:
        momentum = self.settings.momentum
        mixed_BE = momentum * bank_NE[indices_B] + (1.0 - momentum) * embedding_BE
        bank_NE.index_copy_(0, indices_B, F.normalize(mixed_BE))

    def get_extra_state(self) -> Tensor:
        """Whether the constants are set: kept on the host too, so that no step has to ask the device."""
        return torch.tensor(self._has_constants)

    def set_extra_state(self, state: Tensor) -> None:
        self._has_constants = bool(state)

    def result_head(self) -> None:
        return None


def _embedded(embedding: nn.Module, pooled_BC: Tensor) -> Tensor:
    """Of length 1."""
    return F.normalize(embedding(promoted(pooled_BC)))


def _negatives(labels_N: Tensor) -> Negatives:
    try:
        return Negatives(labels_N)
    except ValueError as error:
        raise InputError(
            "invalid_value",
            f"crd contrasts an image with those of other classes, but {error}.",
            hint="Give images of two or more classes, or take another method.",
            param="/method/type",
        ) from error
