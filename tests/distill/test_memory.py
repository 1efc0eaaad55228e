"""Steps that do not fit into memory: the same step again in parts, and the same loss of the same batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import distill.registry
from distill import checkpoint, events, memory, plan
from distill.batch import Batch
from distill.errors import RunError
from distill.methods.srrl import SRRL
from distill.registry import build_network
from distill.runs import Run
from distill.spec import DistillSpec
from distill.trainer import Inputs, train
from tests.fixtures.tiny import STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

EPOCHS, STEPS, BATCH = 2, 4, 32
ERRORS = {
    "of a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "of the machine": RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    "of Python": MemoryError(),
}


def spec(method: dict[str, Any] | None = None, **training: Any) -> DistillSpec:
    body = {
        "teacher": {"id": "t"},
        "dataset": {"id": "d"},
        "student": STUDENT,
        "method": method or {"type": "srrl"},
        "training": {
            "epochs": EPOCHS, "batch_size": BATCH, "learning_rate": 0.05, "baseline": False, "precision": "fp32",
            **training,
        },
    }  # fmt: skip
    return plan.resolve(DistillSpec.model_validate(body), num_images=128)


@pytest.fixture
def inputs(tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path) -> Inputs:
    return Inputs(teacher=tiny_teacher, dataset_path=tiny_dataset, workdir=tmp_path / "work", device="cpu")


Trouble = Callable[[int], Exception | None]
"""What happens to a student that is trained on so many images at once."""


@pytest.fixture
def memory_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Trouble], list[int]]:
    """Give students a memory that runs out; the sizes of the batches that they are trained on."""

    def give(trouble: Trouble) -> list[int]:
        sizes: list[int] = []

        def look(network: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            # Behind the last layer: batch norms have counted the batch, as when the backward pass fails.
            if network.training and torch.is_grad_enabled():
                sizes.append(len(output))
                if (error := trouble(len(output))) is not None:
                    raise error

        def build(architecture: str, **how: Any) -> nn.Module:
            network = build_network(architecture, **how)
            network.register_forward_hook(look)
            return network

        monkeypatch.setattr("distill.prepared.build_network", build)
        return sizes

    return give


def more_than(most: int, error: Exception) -> Trouble:
    return lambda size: error if size > most else None


def weights(seen: list[events.Event]) -> dict[str, Tensor]:
    return load_file(Path([e for e in seen if isinstance(e, events.Artifact)][-1].path))


def losses(seen: list[events.Event]) -> list[float]:
    return [m.values["train/loss"] for m in seen if isinstance(m, events.Metric) and "train/loss" in m.values]


def warnings(seen: list[events.Event]) -> list[str]:
    return [e.message for e in seen if isinstance(e, events.Log) and e.level == "warning"]


def elsewhere(inputs: Inputs, name: str) -> Inputs:
    return replace(inputs, workdir=inputs.workdir / name)


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ERRORS)
def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    inputs: Inputs, memory_of: Callable[[Trouble], list[int]], kind: str
) -> None:
    sizes = memory_of(more_than(8, ERRORS[kind]))

    seen = list(train(spec(), inputs))

    assert sizes[:3] == [BATCH, BATCH // 2, BATCH // 4]
    assert sizes[2:] == [8] * 4 * EPOCHS * STEPS
    assert seen[-1] == events.Finished(step=EPOCHS * STEPS)
    (warning,) = warnings(seen)
    assert "step 1: from there on the student's batches of 32 go through the networks in 4 parts of 8" in warning


def test_a_batch_that_never_fits_ends_the_job_with_a_way_out(
    inputs: Inputs, memory_of: Callable[[Trouble], list[int]]
) -> None:
    sizes = memory_of(more_than(0, ERRORS["of a GPU"]))

    with pytest.raises(RunError, match="CUDA out of memory") as caught:
        list(train(spec(), inputs))

    assert (caught.value.code, caught.value.param) == ("out_of_memory", "/training/batch_size")
    assert sizes == [32, 16, 8, 4]


def test_other_errors_are_no_lack_of_memory(inputs: Inputs, memory_of: Callable[[Trouble], list[int]]) -> None:
    sizes = memory_of(more_than(0, RuntimeError("shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        list(train(spec(), inputs))
    assert sizes == [BATCH]


def test_the_step_that_failed_is_taken_again_as_if_it_had_not_been_tried(
    inputs: Inputs, memory_of: Callable[[Trouble], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a run that had two parts from the first step on: same random numbers, same running statistics."""

    class Drawing(SRRL):
        def forward(self, batch: Batch) -> dict[str, Tensor]:
            losses = super().forward(batch)
            return {**losses, "loss": losses["loss"] * torch.rand(())}

    monkeypatch.setattr(distill.registry, "build_method", lambda spec, *, pair: Drawing(spec.srrl, pair=pair))
    memory_of(more_than(16, ERRORS["of a GPU"]))
    failed = list(train(spec(), elsewhere(inputs, "failed")))
    sizes = memory_of(more_than(BATCH, ERRORS["of a GPU"]))
    never = elsewhere(inputs, "never")
    stream = train(spec(), never)
    next(event for event in stream if isinstance(event, events.Metric) and event.step == 1)
    first, _ = checkpoint.load_latest(never.workdir / "checkpoints")
    stream.close()
    assert first is not None
    assert first["step"] == 0
    first["runs"]["student"]["place"]["parts"] = 2
    shutil.rmtree(never.workdir)
    checkpoint.save(never.workdir / "checkpoints", first, step=0)

    seen = list(train(spec(), never))

    assert sizes == [32] + [16] * 2 * EPOCHS * STEPS
    assert equal(weights(failed), weights(seen))


def test_in_mid_run_it_goes_on_and_a_resume_keeps_the_parts(
    inputs: Inputs, memory_of: Callable[[Trouble], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process takes memory for one step, the sixth; what was learnt of it outlives a stop."""
    monkeypatch.setattr("distill.runs._PROGRESS_SECONDS", 0.0)

    def once() -> Iterator[Exception | None]:
        yield from [None] * 5
        yield ERRORS["of a GPU"]
        while True:
            yield None

    def full_once() -> list[int]:
        trouble = once()
        return memory_of(lambda _: next(trouble))

    full_once()
    whole = list(train(spec(), elsewhere(inputs, "whole")))
    sizes = full_once()
    stream = train(spec(), inputs)
    for event in stream:
        if isinstance(event, events.Progress) and event.step == 7:
            break
    stream.close()
    assert sizes == [32] * 6 + [16] * 4

    after = list(train(spec(), inputs))

    assert sizes == [32] * 6 + [16] * 4 + [16] * 2
    assert equal(weights(whole), weights(after))
    found, _ = checkpoint.load_latest(inputs.workdir / "checkpoints")
    assert found is not None
    assert found["runs"]["student"]["place"]["parts"] == 2


@pytest.mark.parametrize("size", [32, 30, 27])
def test_in_parts_the_gradient_is_that_of_the_whole_batch(
    inputs: Inputs, memory_of: Callable[[Trouble], list[int]], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Where the loss is a mean over images and nothing looks across them: batch norms are taken as they stand."""
    train_mode = Run._train_mode

    def without_batch_statistics(run: Run, on: bool) -> None:
        train_mode(run, on)
        for module in run.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    monkeypatch.setattr(Run, "_train_mode", without_batch_statistics)
    asked = spec({"type": "kd"}, batch_size=size, epochs=1, learning_rate=0.01)
    memory_of(more_than(size, ERRORS["of a GPU"]))
    whole = list(train(asked, elsewhere(inputs, "whole")))
    memory_of(more_than(size // 3, ERRORS["of a GPU"]))

    parts = list(train(asked, elsewhere(inputs, "parts")))

    assert len(warnings(parts)) == 1
    assert losses(parts) == pytest.approx(losses(whole), rel=1e-4)
    expected, found = weights(whole), weights(parts)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("out of memory"), False),
    ],
    ids=range(8),
)
def test_what_counts_as_a_lack_of_memory(error: Exception, expected: bool) -> None:
    assert memory.ran_out(error) is expected


def test_a_real_allocation_that_fails_counts() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.ran_out(caught.value)
