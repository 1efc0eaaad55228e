from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.batch import Batch, ResultHead
from distill.losses import label_cross_entropy
from distill.objective import Objective
from distill.taps import Features

B, K = 6, 4


class Pull(nn.Module):
    """A method that draws the logits towards a number."""

    student_maps = frozenset({"stage2"})
    trains_logits = True

    def __init__(self, name: str, *, weight: float, needs: str = "pooled") -> None:
        super().__init__()
        self.name, self.weight = name, weight
        self.teacher_needs = frozenset({needs})
        self.goal = nn.Parameter(torch.zeros(()))

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.name,)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        part = (batch.student.logits_BK - self.goal).square().mean()
        return {"loss": self.weight * part, self.name: part}

    def result_head(self) -> ResultHead | None:
        return None


@pytest.fixture
def batch() -> Batch:
    logits = torch.randn(B, K, generator=torch.Generator().manual_seed(0), requires_grad=True)
    targets = torch.tensor([0, -1, 2, 3, -1, 1])
    return Batch(Features(torch.zeros(B, 3), logits), None, targets, torch.arange(B))


def test_the_loss_is_the_weighted_sum_of_labels_and_methods(batch: Batch) -> None:
    objective = Objective(
        label_cross_entropy, label_part="ce", label_weight=0.3, methods=[Pull("a", weight=2.0), Pull("b", weight=0.5)]
    )

    found = objective(batch)

    logits, kept = batch.student.logits_BK, batch.targets_B >= 0
    ce = F.cross_entropy(logits[kept], batch.targets_B[kept])
    square = logits.square().mean()
    assert found.keys() == {"loss", *objective.parts}
    assert objective.parts == ("ce", "a", "b")
    torch.testing.assert_close(found["ce"], ce)
    torch.testing.assert_close(found["loss"], 0.3 * ce + 2.5 * square)


def test_needs_are_those_of_all_methods(batch: Batch) -> None:
    objective = Objective(
        label_cross_entropy, label_part="ce", methods=[Pull("a", weight=1.0), Pull("b", weight=1.0, needs="stage1")]
    )

    assert objective.teacher_needs == {"pooled", "stage1"}
    assert objective.student_maps == {"stage2"}
    assert len(list(objective.parameters())) == 2


def test_plain_training_asks_no_teacher_and_learns_from_labels_alone(batch: Batch) -> None:
    objective = Objective(label_cross_entropy, label_part="ce")

    assert objective.teacher_needs == frozenset()
    assert objective.parts == ("ce",)
    assert list(objective.parameters()) == []
    assert not objective.trains_logits
    torch.testing.assert_close(objective(batch)["loss"], objective(batch)["ce"])


def test_labels_that_weigh_nothing_are_left_out(batch: Batch) -> None:
    objective = Objective(label_cross_entropy, label_part="ce", label_weight=0.0, methods=[Pull("a", weight=1.0)])

    assert objective.parts == ("a",)
    assert objective(batch).keys() == {"loss", "a"}


def test_images_without_a_label_add_nothing_and_a_batch_without_any_is_no_fault(batch: Batch) -> None:
    none = Batch(batch.student, None, torch.full((B,), -1), batch.indices_B)
    loss = Objective(label_cross_entropy, label_part="ce")(none)["loss"]
    loss.backward()

    assert loss.item() == 0.0
    assert batch.student.logits_BK.grad is not None
    assert not batch.student.logits_BK.grad.any()
