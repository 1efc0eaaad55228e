from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from distill.batch import Batch
from distill.contrast import Negatives, compare_all, compare_drawn, log_constant, noise_contrast, occurrences
from distill.errors import InputError
from distill.methods.crd import CRD
from tests.fixtures.vectors import (
    B,
    N,
    agrees_with_finite_differences,
    double,
    in_type,
    make_batch,
    make_method,
    make_pair,
)

Array = NDArray[np.float64]
TEMPERATURE, MOMENTUM, WIDTH = 0.2, 0.6, 4
FEW, MANY = 3, 30
"""Negatives beside 40 images: so few that rows of the bank are gathered, so many that all are multiplied."""


def make(num_negatives: int = MANY, *, labels_N: torch.Tensor | None = None, temperature: float = TEMPERATURE) -> CRD:
    torch.manual_seed(6)
    method = make_method(
        "crd",
        pair=make_pair(labels_N=labels_N),
        weight=0.8,
        num_negatives=num_negatives,
        temperature=temperature,
        momentum=MOMENTUM,
        width=WIDTH,
    )
    assert isinstance(method, CRD)
    return method.double()


class Reference:
    """CRD in numpy, one score at a time, with banks of its own."""

    def __init__(self, method: CRD) -> None:
        self.layers = {
            side: (double(layer.weight), double(layer.bias))
            for side, layer in (("student", method.student_embedding), ("teacher", method.teacher_embedding))
        }
        self.banks = {
            "student": double(method.student_bank_NE).copy(),
            "teacher": double(method.teacher_bank_NE).copy(),
        }
        self.constants: dict[str, float] = {}

    def step(self, batch: Batch, drawn: list[list[int]]) -> float:
        assert batch.teacher is not None
        images = batch.indices_B.tolist()
        embedded = {
            "student": self.embed("student", double(batch.student.pooled_BC)),
            "teacher": self.embed("teacher", double(batch.teacher.pooled_BC)),
        }
        loss = self.contrast(embedded["student"], "teacher", images, drawn)
        loss += self.contrast(embedded["teacher"], "student", images, drawn)
        for side, vectors in embedded.items():
            for image, vector in zip(images, vectors, strict=True):
                row = MOMENTUM * self.banks[side][image] + (1 - MOMENTUM) * vector
                self.banks[side][image] = row / np.sqrt(row @ row)
        return loss

    def embed(self, side: str, features: Array) -> list[Array]:
        weight, bias = self.layers[side]
        vectors = [weight @ feature + bias for feature in features]
        return [vector / np.sqrt(vector @ vector) for vector in vectors]

    def contrast(self, anchors: list[Array], memory: str, images: list[int], drawn: list[list[int]]) -> float:
        bank = self.banks[memory]
        powers = [
            [np.exp(bank[row] @ anchor / TEMPERATURE) for row in [image, *negatives]]
            for anchor, image, negatives in zip(anchors, images, drawn, strict=True)
        ]
        z = self.constants.setdefault(memory, float(np.mean(powers)) * len(bank))
        noise = len(drawn[0]) / len(bank)
        total = 0.0
        for row in powers:
            positive, *negatives = (power / z for power in row)
            total += np.log(positive / (positive + noise + 1e-7))
            total += sum(np.log(noise / (negative + noise + 1e-7)) for negative in negatives)
        return -total / len(anchors)


def draws(method: CRD, batch: Batch, *, seed: int) -> list[list[int]]:
    torch.manual_seed(seed)
    drawn: list[list[int]] = method.negatives.draw(batch.indices_B, count=method.num_negatives).tolist()
    torch.manual_seed(seed)
    return drawn


@pytest.mark.parametrize("num_negatives", [FEW, MANY])
def test_losses_banks_and_constants_agree_with_a_float64_loop_over_several_steps(num_negatives: int) -> None:
    method = make(num_negatives)
    reference = Reference(method)

    for seed in range(3):
        batch = make_batch(seed=seed)
        expected = reference.step(batch, draws(method, batch, seed=seed))
        found = method(batch)
        assert found["crd"].item() == pytest.approx(expected, rel=1e-6)
        assert found["loss"].item() == pytest.approx(0.8 * expected, rel=1e-6)

    np.testing.assert_allclose(double(method.student_bank_NE), reference.banks["student"], rtol=1e-9)
    np.testing.assert_allclose(double(method.teacher_bank_NE), reference.banks["teacher"], rtol=1e-9)
    constants = [reference.constants["teacher"], reference.constants["student"]]
    np.testing.assert_allclose(np.exp(double(method.log_constants)), constants, rtol=1e-9)


@pytest.mark.parametrize("num_negatives", [FEW, MANY])
def test_the_gradient_agrees_with_finite_differences_though_the_banks_are_written_before_it(num_negatives: int) -> None:
    method = make(num_negatives)
    method(make_batch(seed=1))  # fixes the constants, which carry no gradient

    assert agrees_with_finite_differences(method, make_batch())


def test_a_product_with_the_whole_bank_equals_gathered_rows() -> None:
    generator = torch.Generator().manual_seed(1)
    bank = torch.randn(N, WIDTH, generator=generator, dtype=torch.float64)
    drawn = torch.randint(N, (B, MANY), generator=generator)
    images = torch.arange(B)
    values, gradients = [], []
    for way in ("multiplied", "gathered"):
        anchor = torch.randn(B, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
        if way == "multiplied":
            counts = occurrences(drawn, num_images=N)
            scores = compare_all(anchor, bank, images, counts_BN=counts, temperature=TEMPERATURE)
        else:
            scores = compare_drawn(anchor, bank, images, drawn_BM=drawn, temperature=TEMPERATURE)
        constant = log_constant(scores, num_negatives=MANY, num_images=N)
        loss = noise_contrast(scores, constant, num_negatives=MANY, num_images=N)
        loss.backward()
        assert anchor.grad is not None
        values.append(torch.stack([loss.detach(), constant]))
        gradients.append(anchor.grad)

    torch.testing.assert_close(*values, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_how_often_each_image_was_drawn_is_counted() -> None:
    counts = occurrences(torch.tensor([[0, 2, 2], [1, 1, 1]]), num_images=4)

    assert counts.tolist() == [[1, 0, 2, 0], [0, 3, 0, 0]]


def test_the_way_is_chosen_by_images_and_negatives() -> None:
    assert make(MANY).multiplies
    assert not make(FEW).multiplies


# ------------------------------------------------------------ negatives


MIXED = torch.tensor([2, -1, 0, 0, 1, 2, 0, -1, 0, 1, 3, 0])


def allowed(image: int, labels: torch.Tensor) -> set[int]:
    own = labels[image].item()
    if own < 0:
        return set(range(len(labels))) - {image}
    return {other for other, label in enumerate(labels.tolist()) if label != own}


def test_negatives_are_uniform_over_the_images_of_other_classes() -> None:
    torch.manual_seed(0)
    count = 60_000
    drawn = Negatives(MIXED).draw(torch.arange(len(MIXED)), count=count)

    for image, row in enumerate(drawn):
        times = row.bincount(minlength=len(MIXED)).double()
        others = sorted(allowed(image, MIXED))
        assert set(times.nonzero().flatten().tolist()) == set(others)
        expected, freedom = count / len(others), len(others) - 1
        chi_squared = ((times[others] - expected) ** 2 / expected).sum().item()
        assert abs(chi_squared - freedom) < 4 * (2 * freedom) ** 0.5, image


def test_negatives_of_an_image_are_drawn_independently_of_each_other() -> None:
    torch.manual_seed(1)
    image, count = 4, 40_000
    first, second = Negatives(MIXED).draw(torch.tensor([image]), count=2 * count)[0].view(2, count)
    others = sorted(allowed(image, MIXED))
    table = torch.zeros(len(MIXED), len(MIXED)).index_put((first, second), torch.ones(count), accumulate=True)
    expected, freedom = count / len(others) ** 2, len(others) ** 2 - 1
    chi_squared = ((table[others][:, others] - expected) ** 2 / expected).sum().item()

    assert abs(chi_squared - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("labels", [torch.full((5,), -1), torch.rand(5, 3, 2)], ids=["unlabelled", "points"])
def test_without_classes_every_other_image_is_a_negative(labels: torch.Tensor) -> None:
    torch.manual_seed(0)
    drawn = Negatives(labels).draw(torch.arange(5), count=200)

    assert [set(row.tolist()) for row in drawn] == [set(range(5)) - {image} for image in range(5)]


def test_images_of_one_class_cannot_be_contrasted() -> None:
    with pytest.raises(InputError, match="no images of other classes") as caught:
        make(labels_N=torch.zeros(N, dtype=torch.int64))

    assert caught.value.code == "invalid_value"
    assert caught.value.param == "/method/type"


def test_the_same_state_of_the_random_numbers_draws_the_same_negatives() -> None:
    negatives = Negatives(MIXED)
    torch.manual_seed(3)
    first, second = (negatives.draw(torch.arange(4), count=50) for _ in range(2))
    torch.manual_seed(3)

    assert torch.equal(negatives.draw(torch.arange(4), count=50), first)
    assert not torch.equal(first, second)


# ------------------------------------------------------------ state


def test_banks_start_as_in_the_benchmark() -> None:
    torch.manual_seed(0)
    method = make_method("crd", pair=make_pair(labels_N=torch.arange(2000) % 10))
    assert isinstance(method, CRD)

    for bank in (method.student_bank_NE, method.teacher_bank_NE):
        bound = (128 / 3) ** -0.5
        assert bank.shape == (2000, 128)
        assert 0.99 * bound < bank.abs().max() <= bound
        assert bank.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    assert not torch.equal(method.student_bank_NE, method.teacher_bank_NE)


def test_only_rows_of_the_batch_are_written() -> None:
    method = make()
    before = method.student_bank_NE.clone()
    batch = make_batch()
    method(batch)
    changed = (method.student_bank_NE != before).any(dim=1).nonzero().flatten()

    assert changed.tolist() == sorted(batch.indices_B.tolist())


def test_both_embeddings_are_trained() -> None:
    method = make()
    method(make_batch())["loss"].backward()

    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())


def test_back_at_a_state_before_the_first_step_the_constants_are_found_again() -> None:
    method = make()
    start = copy.deepcopy(method.state_dict())
    losses = []
    for _ in range(2):
        method.load_state_dict(start)
        torch.manual_seed(2)
        losses.append(method(make_batch())["loss"].item())
        method(make_batch(seed=9))

    assert losses[0] == losses[1]


def test_the_negatives_tables_are_not_saved() -> None:
    assert not any("negatives" in name for name in make().state_dict())


@pytest.mark.parametrize("num_negatives", [FEW, MANY])
def test_a_temperature_that_would_overflow_leaves_loss_and_gradient_finite(num_negatives: int) -> None:
    batch = in_type(make_batch(), torch.float32)
    loss = make(num_negatives, temperature=1e-3).float()(batch)["loss"]
    loss.backward()

    assert loss.isfinite()
    assert batch.student.pooled_BC.grad is not None
    assert batch.student.pooled_BC.grad.isfinite().all()
