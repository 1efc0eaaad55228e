"""What a run descends on: the loss of the labels, and what the methods add to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from distill.batch import Batch, Method, ResultHead
from distill.taps import Features

LabelLoss = Callable[[Tensor, Tensor], Tensor]


class Objective(nn.Module):
    """``label_weight`` times the labels' loss, plus the loss of every method.

    Args:
        label_loss: logits (B, K) and targets to a scalar, such as :func:`distill.losses.label_cross_entropy`.
        label_part: its name among the parts, such as ``ce``.
        label_weight: 0 leaves it out.
        methods: the main one first; none is plain training.
    """

    def __init__(
        self, label_loss: LabelLoss, *, label_part: str, label_weight: float = 1.0, methods: Sequence[Method] = ()
    ) -> None:
        super().__init__()
        self.label_loss = label_loss
        self.label_part = label_part
        self.label_weight = label_weight
        self.methods = nn.ModuleList(cast(nn.Module, method) for method in methods)

    @property
    def _all(self) -> list[Method]:
        return [cast(Method, method) for method in self.methods]

    @property
    def teacher_needs(self) -> frozenset[str]:
        """What is read of the teacher; nothing means that it need not be asked."""
        return frozenset[str]().union(*(method.teacher_needs for method in self._all))

    @property
    def student_maps(self) -> frozenset[str]:
        """Names of the student's maps that are read."""
        return frozenset[str]().union(*(method.student_maps for method in self._all))

    @property
    def trains_logits(self) -> bool:
        """Whether a method teaches what the finished student answers with, so that no labels are needed."""
        return self.result_head is not None or any(method.trains_logits for method in self._all)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the losses beside ``loss``, in the order of the answer."""
        labels = (self.label_part,) if self.label_weight else ()
        return labels + tuple(name for method in self._all for name in method.parts)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` to descend on, and its named parts, unweighted."""
        parts: dict[str, Tensor] = {}
        terms = []
        if self.label_weight:
            parts[self.label_part] = self.label_loss(batch.student.logits_BK, batch.targets_B)
            terms.append(self.label_weight * parts[self.label_part])
        for method in self._all:
            found = method(batch)
            terms.append(found.pop("loss"))
            parts |= found
        return {"loss": torch.stack(terms).sum(), **parts}

    @property
    def result_head(self) -> ResultHead | None:
        """What the finished student classifies with; None for its own layer."""
        heads = (method.result_head() for method in self._all)
        return next((head for head in heads if head is not None), None)

    def logits(self, student: Features) -> Tensor:
        """What the finished student answers, (B, K) in float32 behind a connector."""
        head = self.result_head
        if head is None:
            return student.logits_BK
        return answer(head, student)


def answer(head: ResultHead, student: Features) -> Tensor:
    """Logits (B, K) of a student behind the teacher's classifier; the connector reads a map or the feature."""
    given = student.maps["last"] if head.facts["kind"] != "vector" else student.pooled_BC
    connected = head.connector(given).float()
    pooled_BC = connected.mean(dim=(2, 3)) if connected.dim() == 4 else connected
    with torch.autocast(pooled_BC.device.type, enabled=False):
        logits: Tensor = head.classifier(pooled_BC)
    return logits
