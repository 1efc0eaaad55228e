from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import distill.registry
from distill import checkpoint, events, plan
from distill.batch import Batch
from distill.data.packed import PackedDataset
from distill.errors import RunError
from distill.method_specs import SRRLMethod
from distill.methods.srrl import SRRL
from distill.pairs import Pair
from distill.registry import load_student
from distill.runs import Run
from distill.spec import DistillSpec
from distill.trainer import Inputs, train
from tests.fixtures.tiny import STUDENT

if TYPE_CHECKING:
    from distill.teacher_files import TeacherFile

EPOCHS, STEPS = 3, 4


def spec(*, method: dict[str, Any] | None = None, outputs: list[str] | None = None, **training: Any) -> DistillSpec:
    body = {
        "teacher": {"id": "t"},
        "dataset": {"id": "d"},
        "student": STUDENT,
        "method": method or {"type": "srrl"},
        "training": {"epochs": EPOCHS, "batch_size": 32, "learning_rate": 0.05, **training},
        "outputs": outputs or ["safetensors"],
    }
    return plan.resolve(DistillSpec.model_validate(body), num_images=128)


@pytest.fixture
def inputs(tiny_teacher: TeacherFile, tiny_dataset: Path, tmp_path: Path) -> Inputs:
    return Inputs(teacher=tiny_teacher, dataset_path=tiny_dataset, workdir=tmp_path / "work", device="cpu")


def elsewhere(inputs: Inputs, name: str) -> Inputs:
    return replace(inputs, workdir=inputs.workdir.with_name(name))


def collect(stream: Iterator[events.Event], *, into: list[events.Event]) -> None:
    """What came before an error counts."""
    for event in stream:
        into.append(event)


def weights(seen: list[events.Event], name: str = "student.safetensors") -> dict[str, Tensor]:
    return load_file(Path([e for e in seen if isinstance(e, events.Artifact) and e.name == name][-1].path))


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def curve(seen: list[events.Event]) -> dict[tuple[int, str], float]:
    return {(m.step, name): v for m in seen if isinstance(m, events.Metric) for name, v in m.values.items()}


def test_a_whole_run_ends_with_two_students_and_a_report(inputs: Inputs) -> None:
    seen = list(train(spec(outputs=["safetensors", "connector"]), inputs))

    assert isinstance(seen[0], events.Phase)
    assert seen[-1] == events.Finished(step=2 * EPOCHS * STEPS)
    phases = [(e.phase, e.run) for e in seen if isinstance(e, events.Phase)]
    assert phases == [
        ("preparing", None),
        ("training", "student"),
        ("training", "baseline"),
        ("exporting", None),
        ("evaluating", None),
    ]
    names = {e.name for e in seen if isinstance(e, events.Artifact)}
    assert names == {"student.safetensors", "baseline.safetensors", "connector.safetensors"}
    steps = [e.step for e in seen if isinstance(e, events.Metric)]
    assert steps == sorted(steps)
    resolved = next(e for e in seen if isinstance(e, events.Resolved)).values
    assert "auto" not in str(resolved)
    assert resolved["method"]["srrl"]["activation"] == "relu"


def test_the_report_is_about_the_files_that_are_handed_out(inputs: Inputs) -> None:
    seen = list(train(spec(precision="fp32"), inputs))
    report = next(e for e in seen if isinstance(e, events.Report)).report
    path = Path([e for e in seen if isinstance(e, events.Artifact) and e.name == "student.safetensors"][-1].path)
    data = PackedDataset.load(inputs.dataset_path)
    images = (data.test_images.float() / 255 - data.mean_C[:, None, None]) / data.std_C[:, None, None]

    with torch.no_grad():
        guesses = load_student(path)(images).argmax(dim=1)

    accuracy = (guesses == data.test_labels).double().mean().item()
    assert report["student"]["top1"] == pytest.approx(accuracy, abs=1.01 / len(images))
    assert report["student"]["bytes"] == path.stat().st_size
    assert report["teacher"]["parameters"] > report["student"]["parameters"] == report["baseline"]["parameters"]
    assert report["student"]["latency_ms"] > 0
    assert report["head"] == "own"
    last = [v for (_, name), v in curve(seen).items() if name == "val/top1"][-1]
    assert last == report["student"]["top1"]


def test_student_and_baseline_differ_in_the_method_alone(inputs: Inputs) -> None:
    """With both added losses weighted nothing, the student is the baseline."""
    nothing = {"type": "srrl", "srrl": {"feature_weight": 0.0, "regression_weight": 0.0}}
    seen = list(train(spec(method=nothing), inputs))

    assert equal(weights(seen), weights(seen, "baseline.safetensors"))


def test_the_teachers_head_can_be_the_students(inputs: Inputs) -> None:
    reused = {"type": "srrl", "srrl": {"head": "teacher"}}
    seen = list(train(spec(method=reused, baseline=False), inputs))
    report = next(e for e in seen if isinstance(e, events.Report)).report

    assert report["head"] == "teacher"
    assert report["baseline"] is None
    assert equal(
        {"weight": weights(seen)["classifier.weight"]}, {"weight": load_file(inputs.teacher.path)["fc.weight"]}
    )


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(inputs: Inputs) -> None:
    runs = [
        list(train(spec(baseline=False, seed=seed), elsewhere(inputs, name)))
        for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    ]

    assert equal(weights(runs[0]), weights(runs[1]))
    assert not equal(weights(runs[0]), weights(runs[2]))


@pytest.mark.parametrize("stop_after", [3, 7, 9, 12, 16, 20, 24])
def test_a_stopped_run_goes_on_to_the_same_weights_and_metrics(inputs: Inputs, stop_after: int) -> None:
    whole = list(train(spec(), elsewhere(inputs, "whole")))
    stream = train(spec(), inputs)
    before = list(itertools.islice(stream, stop_after))
    stream.close()

    after = list(train(spec(), inputs))

    for name in ("student.safetensors", "baseline.safetensors"):
        assert equal(weights(whole, name), weights(after, name))
    assert {**curve(before), **curve(after)} == curve(whole)


@pytest.mark.parametrize("killed_after", [11, 15, 22])
def test_a_killed_run_goes_on_from_its_checkpoint_and_repeats_what_was_not_heard(
    inputs: Inputs, killed_after: int
) -> None:
    """Nothing runs after kill -9: the folder is taken as it lies, and the last events are lost on their way."""
    whole = list(train(spec(), elsewhere(inputs, "whole")))
    stream = train(spec(), inputs)
    before = list(itertools.islice(stream, killed_after))
    killed = elsewhere(inputs, "killed")
    shutil.copytree(inputs.workdir, killed.workdir)
    stream.close()
    heard = [e for e in before if not isinstance(e, events.Metric) or e.step <= STEPS]

    after = list(train(spec(), replace(killed, recorded_step=STEPS)))

    assert any(isinstance(e, events.Resumed) for e in after)
    assert equal(weights(whole), weights(after))
    assert {**curve(heard), **curve(after)} == curve(whole)


def test_a_checkpoint_of_another_version_is_passed_over_and_said_so(inputs: Inputs) -> None:
    stream = train(spec(baseline=False), inputs)
    for event in stream:
        if isinstance(event, events.Checkpoint):
            break
    stream.close()
    folder = inputs.workdir / "checkpoints"
    state, _ = checkpoint.load_latest(folder)
    assert state is not None
    shutil.rmtree(folder)
    checkpoint.save(folder, {key: value for key, value in state.items() if key != "layout"}, step=state["step"])

    seen = list(train(spec(baseline=False), inputs))

    assert any(isinstance(e, events.Log) and "another version" in e.message for e in seen)
    assert not any(isinstance(e, events.Resumed) for e in seen)
    assert seen[-1] == events.Finished(step=EPOCHS * STEPS)


class Poisoned(SRRL):
    """SRRL whose loss is not a number in chosen calls."""

    def __init__(self, *args: Any, bad: Iterator[bool], **kw: Any) -> None:
        super().__init__(*args, **kw)
        self.bad = bad

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().forward(batch)
        return {**losses, "loss": losses["loss"] * math.nan} if next(self.bad) else losses


def poison(monkeypatch: pytest.MonkeyPatch, bad: Iterator[bool]) -> None:
    def build(spec: SRRLMethod, *, pair: Pair) -> SRRL:
        return Poisoned(spec.srrl, pair=pair, bad=bad)

    monkeypatch.setattr(distill.registry, "build_method", build)


def test_one_loss_that_is_not_finite_costs_an_epoch_and_half_the_rate(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, (call == STEPS + 1 for call in itertools.count()))

    seen = list(train(spec(baseline=False, schedule="constant"), inputs))

    warnings = [e.message for e in seen if isinstance(e, events.Log) and e.level == "warning"]
    assert len(warnings) == 1
    assert f"Back to step {STEPS}" in warnings[0]
    rates = [e.values["lr"] for e in seen if isinstance(e, events.Metric) and "lr" in e.values]
    assert set(rates) == {0.05, 0.025}
    assert all(t.isfinite().all() for t in weights(seen).values())
    assert isinstance(seen[-1], events.Finished)


def test_a_loss_that_stays_bad_ends_the_run_with_the_last_good_student_kept(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, (call > STEPS for call in itertools.count()))
    seen: list[events.Event] = []

    with pytest.raises(RunError) as caught:
        collect(train(spec(baseline=False), inputs), into=seen)

    assert caught.value.code == "loss_diverged"
    assert all(t.isfinite().all() for t in weights(seen).values())


def test_a_run_that_explodes_without_a_single_nan_is_told_to_diverge(inputs: Inputs) -> None:
    """A step far too long: losses of 10^18 are finite, and the student of them is of no use."""
    seen: list[events.Event] = []
    wild = spec(baseline=False, learning_rate=10.0, method={"type": "srrl", "srrl": {"regression_weight": 1e4}})

    with pytest.raises(RunError) as caught:
        collect(train(wild, inputs), into=seen)

    assert (caught.value.code, caught.value.param) == ("loss_diverged", "/training/learning_rate")
    warnings = [e.message for e in seen if isinstance(e, events.Log) and e.level == "warning"]
    assert len(warnings) == 2
    assert all("had grown from" in message or "was not finite" in message for message in warnings)


def test_a_statistic_that_overflows_is_found_after_the_epoch(inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: the run goes back and ends well."""
    calls = itertools.count()
    original = Run.check_weights

    def spoiled(run: Run) -> None:
        if next(calls) == 1:
            next(
                module for module in run.network.modules() if isinstance(module, nn.BatchNorm2d)
            ).running_var += math.inf
        original(run)

    monkeypatch.setattr(Run, "check_weights", spoiled)
    seen = list(train(spec(baseline=False), inputs))

    warnings = [e.message for e in seen if isinstance(e, events.Log) and e.level == "warning"]
    assert len(warnings) == 1
    assert "A weight of the student was not finite" in warnings[0]
    assert isinstance(seen[-1], events.Finished)
    assert all(t.isfinite().all() for t in weights(seen).values())


def test_a_stop_right_after_a_bad_loss_does_not_save_its_weights(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of two steps: the bad loss is the first of one, and progress is told behind it."""
    monkeypatch.setattr("distill.runs._PROGRESS_SECONDS", 0.0)
    poison(monkeypatch, (call == 10 for call in itertools.count()))
    stream = train(spec(baseline=False, batch_size=16), inputs)
    for event in stream:
        if isinstance(event, events.Progress) and event.step == 11:
            break
    stream.close()

    seen = list(train(spec(baseline=False, batch_size=16), inputs))

    assert isinstance(seen[-1], events.Finished)
    assert all(t.isfinite().all() for t in weights(seen).values())


def test_a_teacher_with_another_label_order_is_refused_before_training(inputs: Inputs, tmp_path: Path) -> None:
    turned = load_file(inputs.teacher.path)
    for name in ("fc.weight", "fc.bias"):
        turned[name] = turned[name].roll(1, dims=0)
    save_file(turned, tmp_path / "turned.safetensors", metadata={"mean": "[0.4]", "std": "[0.25]"})
    wrong = replace(inputs, teacher=replace(inputs.teacher, path=tmp_path / "turned.safetensors"))

    with pytest.raises(RunError, match=r"guessing gives 25\.0%") as caught:
        list(train(spec(), wrong))

    assert caught.value.code == "teacher_below_chance"
    assert "label order" in caught.value.hint


def test_each_run_ends_with_its_progress_told_however_short_its_epochs_are(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distill.runs._PROGRESS_SECONDS", 1e9)

    seen = list(train(spec(), inputs))

    told = [event for event in seen if isinstance(event, events.Progress)]
    assert [(e.run, e.epoch, e.step) for e in told] == [
        ("student", EPOCHS, EPOCHS * STEPS),
        ("baseline", EPOCHS, 2 * EPOCHS * STEPS),
    ]
    assert all(e.images_per_second > 0 for e in told)


def test_progress_is_told_across_epochs_that_are_shorter_than_its_pace(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is a second a look: a look after each of four steps and one before, of epochs of four steps."""
    ticks = itertools.count()
    monkeypatch.setattr("distill.runs.time", SimpleNamespace(monotonic=lambda: float(next(ticks))))
    monkeypatch.setattr("distill.runs._PROGRESS_SECONDS", 5.0)

    seen = list(train(spec(baseline=False), inputs))

    told = [event for event in seen if isinstance(event, events.Progress)]
    assert [(e.step, e.images_per_second) for e in told] == [(5, 32.0), (10, 32.0), (12, 32.0)]


def test_plain_training_needs_no_baseline(inputs: Inputs) -> None:
    seen = list(train(spec(method={"type": "ce"}), inputs))

    assert {e.name for e in seen if isinstance(e, events.Artifact)} == {"student.safetensors"}
    assert seen[-1] == events.Finished(step=EPOCHS * STEPS)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_the_gpu_agrees_with_the_cpu(inputs: Inputs) -> None:
    on_cpu = list(train(spec(precision="fp32"), elsewhere(inputs, "cpu")))
    on_gpu = list(train(spec(precision="fp32"), replace(inputs, device="cuda")))

    cpu, gpu = (curve(seen)[(STEPS, "train/loss")] for seen in (on_cpu, on_gpu))
    assert gpu == pytest.approx(cpu, rel=0.02)
