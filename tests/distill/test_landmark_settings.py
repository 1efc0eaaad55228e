"""The length that errors are divided by, the losses of points, and their unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distill import events
from distill.batch import Batch
from distill.data.packed import pack
from distill.data.readers import read
from distill.errors import InputError
from distill.methods.srrl import SRRL
from distill.runs import Run, _EpochPlan
from distill.trainer import Inputs, train
from tests.fixtures.face_figures import errors, in_pixels, pixel_loss, truth
from tests.fixtures.face_jobs import curve, ready, spec, teacher_answers
from tests.fixtures.faces import NUM_POINTS
from tests.fixtures.tiny_faces import HEIGHT, NUM_TEST, WIDTH


def test_the_normaliser_is_what_errors_are_divided_by(face_inputs: Inputs) -> None:
    faces = truth()
    teacher = in_pixels(teacher_answers(face_inputs).logits_NK)
    box = np.sqrt(np.ptp(faces, axis=1).prod(axis=1))
    mouth = np.hypot(*(faces[:, 3] - faces[:, 4]).T)
    for normaliser, lengths_N in {"auto": None, "box": box, (3, 4): mouth}.items():
        stream = train(spec(epochs=1, landmarks={"normaliser": normaliser}), face_inputs)
        first = next(event for event in stream if isinstance(event, events.Metric))
        stream.close()
        assert first.values == {"teacher/val/nme": pytest.approx(errors(teacher, lengths_N).mean(), rel=1e-4)}


def test_a_normaliser_that_is_zero_on_a_face_is_refused(face_inputs: Inputs, tmp_path: Path) -> None:
    """A mouth may be shut: readers only look at the length that the data set itself names."""
    arrays = dict(np.load(face_inputs.dataset_path.with_name("faces.npz")))
    arrays["landmarks_test"][:3, 4] = arrays["landmarks_test"][:3, 3]
    np.savez(tmp_path / "shut.npz", **arrays)
    pack(read(tmp_path / "shut.npz"), tmp_path / "shut.safetensors")
    shut = replace(face_inputs, dataset_path=tmp_path / "shut.safetensors")

    with pytest.raises(InputError, match="In 3 of 96 test images the distance of points 3 and 4 is zero") as caught:
        list(train(spec(epochs=1, landmarks={"normaliser": (3, 4)}), shut))

    assert (caught.value.code, caught.value.param) == ("invalid_value", "/landmarks/normaliser")


@pytest.mark.parametrize("kind", ["l1", "l2", "smooth_l1", "wing"])
def test_each_loss_is_its_formula_and_lowers_the_error(face_inputs: Inputs, kind: str) -> None:
    asked = spec(epochs=4, landmarks={"loss": kind})
    task = ready(asked, face_inputs).task
    outputs = torch.from_numpy(np.random.default_rng(0).normal(0.5, 0.3, (NUM_TEST, 2 * NUM_POINTS)))
    shares = torch.from_numpy(truth() / np.array([WIDTH, HEIGHT]))
    gaps = in_pixels(outputs) - truth()
    assert task.label_part == "points"
    assert task.label_loss(outputs, shares).item() == pytest.approx(pixel_loss(kind, gaps), rel=1e-5)

    seen = list(train(asked, face_inputs))

    losses = list(curve(seen, "train/points").values())
    assert losses[-1] < 0.7 * losses[0]


def test_the_default_rate_suits_the_squared_loss(face_inputs: Inputs) -> None:
    """In pixels² alone it would be hundreds of times as large as the others, and diverge."""
    asked = spec(epochs=10, landmarks={"loss": "l2"}, learning_rate="auto")
    seen = list(train(asked, face_inputs))

    assert not [e for e in seen if isinstance(e, events.Log) and e.level == "warning"]
    assert list(curve(seen, "val/nme").values())[-1] < 1.0


def test_l_sr_compares_outputs_in_the_units_of_the_points_loss(face_inputs: Inputs) -> None:
    """mean((8 W (h_S - h_T))²): the bias cancels, and a side counts 8 as in the loss of the points."""
    torch.manual_seed(0)
    asked = spec(epochs=1, augmentation="none")
    made = ready(asked, face_inputs)
    network = made.student(asked)
    run = Run(
        "student",
        network=network,
        objective=made.objective(made.resolve(asked).method, network),
        material=made.material,
        first_step=0,
        total_steps=1,
    )
    indices, images, targets, teacher = _EpochPlan(made.material, epoch=0).batch(0, needs=frozenset({"pooled"}))
    assert teacher is not None
    seen = run.tap(made.material.prepare(images))

    found = run.objective(Batch(seen, teacher, targets, indices))

    method = run.objective.methods[0]
    assert isinstance(method, SRRL)
    student_BC = method.connect("last", seen).mean(dim=(2, 3)).detach().double().numpy()
    weight = load_file(face_inputs.teacher.path)["fc.weight"].double().numpy()
    teacher_BC = teacher.pooled_BC.double().numpy()
    assert found["sr"].item() == pytest.approx(((8 * (student_BC - teacher_BC) @ weight.T) ** 2).mean(), rel=1e-4)
    assert found["fm"].item() == pytest.approx(((student_BC - teacher_BC) ** 2).mean(), rel=1e-4)
    gaps = (seen.logits_BK.detach().double().numpy().reshape(-1, NUM_POINTS, 2) - targets.double().numpy()) * (
        WIDTH,
        HEIGHT,
    )
    assert found["points"].item() == pytest.approx(pixel_loss("l1", gaps), rel=1e-4)
