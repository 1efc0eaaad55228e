"""Jobs on faces with points: what is learnt, what is reported, what is refused. Legend: N faces, L points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from torch import nn

from distill import events, similarity
from distill.compatibility import Side, check_method
from distill.errors import InputError, RunError
from distill.method_specs import METHODS, MethodSpec
from distill.registry import build_network, load_student
from distill.spec import NetworkOptions
from distill.trainer import Inputs, train
from tests.fixtures.face_figures import area_under_curve, cka, errors, in_pixels, mean_face_error, nmi, truth
from tests.fixtures.face_jobs import answers_of, curve, file_of, logits_of, report_of, spec, teacher_answers
from tests.fixtures.faces import NUM_POINTS
from tests.fixtures.tiny_faces import NUM_TEST, NUM_TRAIN, STUDENT

RESNET = Side(name="resnet8", num_stages=3, pools=True)
SMALL: dict[str, dict[str, Any]] = {"crd": {"num_negatives": 64, "width": 16}, "cc": {"width": 16}}


def allowed() -> list[dict[str, Any]]:
    """Every method that may be asked for with points, with small settings, and some that are composed."""
    kinds = [method.model_fields["type"].annotation.__args__[0] for method in METHODS]  # type: ignore[union-attr]
    asked = [{"type": kind, **({kind: SMALL[kind]} if kind in SMALL else {})} for kind in kinds]
    asked += [
        {"type": "srrl", "srrl": {"head": "teacher"}},
        {"type": "srrl", "srrl": {"stages": ["stage1", "stage3", "last"], "reduction": "sum"}},
        {"type": "srrl", "extra": [{"type": "at", "at": {"weight": 10}}, {"type": "rkd", "rkd": {"weight": 0.1}}]},
    ]
    specs: TypeAdapter[MethodSpec] = TypeAdapter(MethodSpec)
    return [
        each
        for each in asked
        if not check_method(specs.validate_python(each), student=RESNET, teacher=RESNET, task="landmarks")
    ]


def elsewhere(face_inputs: Inputs, name: str) -> Inputs:
    return replace(face_inputs, workdir=face_inputs.workdir.with_name(name))


# ------------------------------------------------------------ what is learnt and reported


def test_a_student_finds_points_far_better_than_the_mean_face_does(face_inputs: Inputs) -> None:
    seen = list(train(spec(epochs=24), face_inputs))

    errors_by_step = list(curve(seen, "val/nme").values())
    assert len(errors_by_step) == 24
    assert errors_by_step[-1] < 0.75 * mean_face_error()
    assert errors_by_step[-1] < 0.3 * errors_by_step[0]
    assert next(iter(curve(seen, "teacher/val/nme").values())) < 0.5 * mean_face_error()
    assert all(curve(seen, f"train/{name}") for name in ("loss", "points", "fm", "sr"))


def test_a_student_is_there_after_the_first_epoch_however_far_off_it_is(face_inputs: Inputs) -> None:
    """Errors begin at several lengths of the face, where accuracies begin above zero."""
    stream = train(spec(epochs=3), face_inputs)
    seen: list[events.Event] = []
    for event in stream:
        seen.append(event)
        if isinstance(event, events.Checkpoint):
            break
    stream.close()

    assert next(iter(curve(seen, "val/nme").values())) > 1.0
    assert load_student(file_of(seen)) is not None


@pytest.mark.parametrize("method", allowed(), ids=lambda each: "-".join(map(str, each.values())))
def test_every_method_that_fits_points_trains_and_its_file_answers_as_reported(
    face_inputs: Inputs, method: dict[str, Any]
) -> None:
    seen = list(train(spec(method=method, epochs=1), face_inputs))

    logits_NK = logits_of(file_of(seen), face_inputs.dataset_path)
    reported = report_of(seen)["student"]["nme"]
    assert logits_NK.shape == (NUM_TEST, 2 * NUM_POINTS)
    assert reported == pytest.approx(errors(in_pixels(logits_NK)).mean(), rel=1e-4)
    assert list(curve(seen, "val/nme").values()) == [reported]
    assert all(math.isfinite(value) for value in curve(seen, "train/loss").values())


def test_methods_that_need_classes_are_not_among_those(face_inputs: Inputs) -> None:
    assert {each["type"] for each in allowed()} == {
        "srrl", "ce", "fitnet", "at", "rkd", "crd", "sp", "pkt", "vid", "cc", "nst", "reviewkd", "simkd",
    }  # fmt: skip
    with pytest.raises(InputError, match="kd compares probabilities of classes"):
        list(train(spec(method={"type": "kd"}, epochs=1), face_inputs))


def test_the_reports_figures_are_those_of_the_files(face_inputs: Inputs) -> None:
    seen = list(train(spec(epochs=6, baseline=True), face_inputs))
    report = report_of(seen)
    teacher = teacher_answers(face_inputs)
    theirs = in_pixels(teacher.logits_NK)
    networks = {name: answers_of(file_of(seen, name), face_inputs.dataset_path) for name in ("student", "baseline")}

    assert (report["task"], report["classes"], report["head"]) == ("landmarks", [], "own")
    assert report["images"] == {"train": NUM_TRAIN, "test": NUM_TEST}
    for name, answers in {**networks, "teacher": teacher}.items():
        errors_N = errors(in_pixels(answers.logits_NK))
        assert report[name]["nme"] == pytest.approx(errors_N.mean(), rel=1e-4), name
        assert report[name]["failure_rate"] == pytest.approx((errors_N > 0.1).mean(), abs=1.01 / NUM_TEST), name
        assert report[name]["auc"] == pytest.approx(area_under_curve(errors_N), rel=1e-3, abs=1e-6), name
        assert "top1" not in report[name]
    for name, answers in networks.items():
        distances_N = errors(truth() + in_pixels(answers.logits_NK) - theirs)
        assert report[name]["nme_to_teacher"] == pytest.approx(distances_N.mean(), rel=1e-4), name
        features = [x.pooled_NC.double().numpy() for x in (answers, teacher)]
        assert report[name]["cka"] == pytest.approx(cka(*features), rel=1e-3), name
        clusters = [similarity.clusters(x.pooled_NC, num_clusters=10).numpy() for x in (answers, teacher)]
        assert report[name]["nmi_to_teacher"] == pytest.approx(nmi(*clusters), abs=0.05), name


def test_the_listed_disagreements_are_the_farthest_from_the_teacher(face_inputs: Inputs) -> None:
    seen = list(train(spec(epochs=1), face_inputs))
    listed = report_of(seen)["disagreements"]
    teacher = in_pixels(teacher_answers(face_inputs).logits_NK)
    student = in_pixels(logits_of(file_of(seen), face_inputs.dataset_path))
    distances_N = errors(truth() + student - teacher)

    assert [each["distance"] for each in listed] == pytest.approx(sorted(distances_N, reverse=True)[:20], rel=1e-4)
    for each in listed:
        assert each["distance"] == pytest.approx(distances_N[each["index"]], rel=1e-4)
        assert each["teacher"] == {"nme": pytest.approx(errors(teacher)[each["index"]], rel=1e-4)}
        assert each["student"] == {"nme": pytest.approx(errors(student)[each["index"]], rel=1e-4)}


def test_the_teachers_head_can_be_the_students(face_inputs: Inputs) -> None:
    seen = list(train(spec(method={"type": "srrl", "srrl": {"head": "teacher"}}, epochs=24), face_inputs))

    weights, teacher = load_file(file_of(seen)), load_file(face_inputs.teacher.path)
    assert report_of(seen)["head"] == "teacher"
    assert torch.equal(weights["classifier.weight"], teacher["fc.weight"])
    assert report_of(seen)["student"]["nme"] < 0.85 * mean_face_error()


def test_a_stopped_run_goes_on_to_the_same_weights_and_metrics(face_inputs: Inputs) -> None:
    asked = spec(epochs=3, baseline=True, augmentation="crop_flip", landmarks={"loss": "wing"})
    whole = list(train(asked, elsewhere(face_inputs, "whole")))
    stream, before = train(asked, face_inputs), []
    for event in stream:
        before.append(event)
        if len(curve(before, "train/loss")) == 6:  # in the middle of the second epoch
            break
    stream.close()

    after = list(train(asked, face_inputs))

    assert any(isinstance(event, events.Resumed) for event in after)
    for name in ("student", "baseline"):
        expected, found = load_file(file_of(whole, name)), load_file(file_of(after, name))
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    for series in ("train/loss", "train/points", "train/sr", "val/nme", "baseline/val/nme", "baseline/train/loss"):
        assert {**curve(before, series), **curve(after, series)} == curve(whole, series)
    drop_costs = ({k: v for k, v in report_of(seen)["student"].items() if k != "latency_ms"} for seen in (whole, after))
    assert next(drop_costs) == next(drop_costs)


# ------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "order",
    [list(range(NUM_POINTS))[::-1], list(range(2 * NUM_POINTS))[::-1]],
    ids=["points the other way round", "y before x, too"],
)
def test_a_teacher_of_another_order_is_refused_before_training(face_inputs: Inputs, order: list[int]) -> None:
    weights = load_file(face_inputs.teacher.path)
    for name in ("fc.weight", "fc.bias"):
        rows = weights[name].unflatten(0, (len(order), -1))
        weights[name] = rows[order].flatten(0, 1).contiguous()
    face_inputs.workdir.mkdir()
    path = face_inputs.workdir / "turned.safetensors"
    save_file(weights, path, metadata={"mean": "[0.5, 0.5, 0.5]", "std": "[0.25, 0.25, 0.25]"})
    wrong = replace(face_inputs, teacher=replace(face_inputs.teacher, path=path))

    with pytest.raises(RunError, match=f"the mean face alone has {mean_face_error():.1%}") as caught:
        list(train(spec(epochs=1), wrong))

    assert (caught.value.code, caught.value.param) == ("teacher_below_chance", "/teacher")
    assert "x, y of each point in turn, in 0..1 of width and height" in caught.value.hint


def burst(monkeypatch: pytest.MonkeyPatch, bad: Iterator[bool]) -> None:
    """Let the student answer infinity in some evaluations, as with running statistics that have run away."""

    def build(architecture: str, *, options: NetworkOptions, **sizes: Any) -> nn.Module:
        network = build_network(architecture, options=options, **sizes)
        if options == NetworkOptions.model_validate(STUDENT["options"]):
            network.register_forward_hook(
                lambda _, __, out: out * math.inf if len(out) == NUM_TEST and next(bad) else out
            )
        return network

    monkeypatch.setattr("distill.prepared.build_network", build)


def test_one_answer_that_is_not_finite_costs_an_epoch_and_is_not_told(
    face_inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of infinity would be no JSON."""
    burst(monkeypatch, (number == 1 for number in itertools.count()))
    seen = list(train(spec(epochs=3), face_inputs))

    warnings = [e.message for e in seen if isinstance(e, events.Log) and e.level == "warning"]
    assert warnings == [
        "An answer of the student was not finite near step 16. Back to step 8 with 0.5 of the learning rate."
    ]
    assert len(curve(seen, "val/nme")) == 3
    assert all(math.isfinite(value) for value in curve(seen, "val/nme").values())


def test_answers_that_stay_bad_end_the_run(face_inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    burst(monkeypatch, (number > 0 for number in itertools.count()))

    with pytest.raises(RunError, match="An answer of the student was not finite") as caught:
        list(train(spec(epochs=3), face_inputs))

    assert caught.value.code == "loss_diverged"
