from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from distill import events
from distill.data.packed import pack
from distill.data.readers import read
from distill.errors import InputError, RunError
from distill.registry import build_network
from distill.spec import NetworkOptions, TeacherPreprocessing
from distill.teacher_files import TeacherFile, check_teacher_file, reorder_classes
from distill.trainer import Inputs, train
from tests.fixtures.tiny import STUDENT

NAMES = ["blue", "green", "red", "white"]
MEAN, STD = [0.2, 0.4, 0.6], [0.15, 0.25, 0.35]
SIDE = 8
OPTIONS = NetworkOptions(width=0.25, stem_stride=2)
Images = NDArray[np.uint8]


def coloured(count: int, *, seed: int) -> tuple[Images, NDArray[np.int64]]:
    """Noise with a patch in the colour of its class: uint8 (N, 3, H, W) as red, green, blue."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % len(NAMES)
    images = random.integers(0, 120, (count, 3, SIDE, SIDE))
    for image, label in zip(images, labels, strict=True):
        channels = [[2], [1], [0], [0, 1, 2]][label]
        image[channels, 2:6, 2:6] += 100
    return images.astype(np.uint8), labels.astype(np.int64)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """Trained for a moment on colours, by a loop of its own, with MEAN and STD."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    network = build_network("resnet8", options=OPTIONS, num_classes=len(NAMES), in_channels=3)
    images, labels = coloured(512, seed=1)
    x = (torch.from_numpy(images) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    y = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(12):
        for batch in torch.randperm(512).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[batch]), y[batch]).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture
def teacher(network: nn.Module, tmp_path: Path) -> TeacherFile:
    """Its bare weights, as torch users save them: nothing beside them."""
    path = tmp_path / "teacher.safetensors"
    save_file(network.state_dict(), path)
    return TeacherFile(path=path, architecture="resnet8", options=OPTIONS, num_classes=len(NAMES), in_channels=3)


@pytest.fixture
def right() -> TeacherPreprocessing:
    return TeacherPreprocessing(mean=MEAN, std=STD)


def inputs(tmp_path: Path, teacher: TeacherFile, *, images: Any = None, classes: list[str] | None = None) -> Inputs:
    """A job's inputs: 64 training and 400 test images, changed by ``images``."""
    names = classes or NAMES
    order = [names.index(name) for name in NAMES]  # of the class that the picture shows
    arrays: dict[str, Any] = {"classes": np.array(names)}
    for split, count, seed in (("train", 64, 2), ("test", 400, 3)):
        pictures, labels = coloured(count, seed=seed)
        arrays[f"x_{split}"] = pictures if images is None else images(pictures)
        arrays[f"y_{split}"] = np.array(order)[labels]
    np.savez(tmp_path / "data.npz", **arrays)
    path = tmp_path / "data.safetensors"
    pack(read(tmp_path / "data.npz"), path)
    return Inputs(teacher=teacher, dataset_path=path, start_path=None, workdir=tmp_path, device="cpu", recorded_step=0)


def prepared(given: Inputs) -> list[events.Event]:
    """What a job tells until its training begins."""
    from distill.spec import DistillSpec

    spec = DistillSpec.model_validate(
        {
            "teacher": {"id": "tch"},
            "dataset": {"id": "ds"},
            "student": STUDENT,
            "training": {"epochs": 1, "batch_size": 32, "learning_rate": 0.01, "optimizer": "sgd"}
            | {"schedule": "cosine", "weight_decay": 0.0, "momentum": 0.9, "nesterov": False, "augmentation": "none"}
            | {"views": 1, "baseline": False, "milestones": [], "gamma": 0.1},
        }
    )
    seen: list[events.Event] = []
    for event in train(spec, given):
        seen.append(event)
        if isinstance(event, events.Phase) and event.phase == "training":
            break
    return seen


def accuracy(seen: list[events.Event]) -> float:
    return next(e.values["teacher/val/top1"] for e in seen if isinstance(e, events.Metric) and e.step == 0)


def lines(seen: list[events.Event], level: str) -> list[str]:
    return [e.message for e in seen if isinstance(e, events.Log) and e.level == level]


def by_hand(network: nn.Module, pictures: Images, labels: NDArray[np.int64]) -> float:
    x = (torch.from_numpy(pictures) / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    with torch.no_grad():
        return float((network(x).argmax(1).numpy() == labels).mean())


def test_a_teacher_whose_images_were_prepared_as_it_says_is_as_good_as_by_hand(
    network: nn.Module, teacher: TeacherFile, right: TeacherPreprocessing, tmp_path: Path
) -> None:
    seen = prepared(inputs(tmp_path, replace(teacher, preprocessing=right)))
    assert accuracy(seen) == pytest.approx(by_hand(network, *coloured(400, seed=3)), abs=0.003)
    assert accuracy(seen) > 0.9
    assert lines(seen, "warning") == []


def test_images_with_blue_first_are_found_out_and_the_remedy_works(
    network: nn.Module, teacher: TeacherFile, right: TeacherPreprocessing, tmp_path: Path
) -> None:
    """As of files that OpenCV read and wrote into an NPZ; two of four classes are still right."""
    given = inputs(tmp_path, teacher, images=lambda pictures: pictures[:, ::-1])
    seen = prepared(given)
    (warning,) = lines(seen, "warning")
    assert "channels as bgr" in warning
    remedy = json.loads(warning[warning.index("{") : warning.rindex("}") + 1])
    assert remedy["channels"] == "bgr"

    mended = prepared(replace(given, teacher=replace(teacher, preprocessing=TeacherPreprocessing(**remedy))))
    assert accuracy(mended) > accuracy(seen) + 0.1

    exact = TeacherPreprocessing(mean=right.mean, std=right.std, channels="bgr")
    seen = prepared(replace(given, teacher=replace(teacher, preprocessing=exact)))
    assert accuracy(seen) == pytest.approx(by_hand(network, *coloured(400, seed=3)), abs=0.003)


def test_a_teacher_that_fails_by_its_normalisation_is_told_the_one_that_works(
    teacher: TeacherFile, tmp_path: Path
) -> None:
    """Registered as one of values in 0..255, which makes all its answers one."""
    wrong = TeacherPreprocessing(mean=[-100.0] * 3, std=[1.0] * 3)
    with pytest.raises(RunError) as caught:
        prepared(inputs(tmp_path, replace(teacher, preprocessing=wrong)))

    error = caught.value
    assert error.code == "teacher_below_chance"
    assert "preprocessing" in error.hint
    assert error.details["tried"][0]["score"] < 0.4 < max(trial["score"] for trial in error.details["tried"])
    remedy = TeacherPreprocessing.model_validate(error.details["preprocessing"])
    seen = prepared(inputs(tmp_path, replace(teacher, preprocessing=remedy)))
    assert accuracy(seen) > 0.5


def test_other_orders_of_classes_are_found_out_and_the_guess_mends_them(
    teacher: TeacherFile, right: TeacherPreprocessing, tmp_path: Path
) -> None:
    theirs = ["white", "blue", "green", "red"]  # the teacher's outputs are NAMES; the data set says otherwise
    given = inputs(tmp_path, replace(teacher, preprocessing=right), classes=theirs)
    with pytest.raises(RunError) as caught:
        prepared(given)
    assert "label order" in caught.value.hint
    assert caught.value.details["classes"] == NAMES

    named = replace(given.teacher, classes=caught.value.details["classes"])
    seen = prepared(replace(given, teacher=named))
    assert accuracy(seen) > 0.9
    assert any("by their names" in line for line in lines(seen, "info"))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (NAMES, ""),
        (["Blue", "GREEN", "red", "white "], ""),
        (["b", "g", "r", "w"], "not those of the data set"),
    ],
)
def test_names_that_are_the_same_or_all_others_leave_the_order(
    teacher: TeacherFile, right: TeacherPreprocessing, tmp_path: Path, names: list[str], said: str
) -> None:
    seen = prepared(inputs(tmp_path, replace(teacher, preprocessing=right, classes=names)))
    assert accuracy(seen) > 0.9
    assert any(said in line for line in lines(seen, "info"))
    assert not any("by their names" in line for line in lines(seen, "info"))


@pytest.mark.parametrize("name", ["resnet8", "timm/deit_tiny_distilled_patch16_224"])
def test_outputs_change_places_and_nothing_else(name: str) -> None:
    """The second has two classifiers, of which it answers the mean."""
    torch.manual_seed(0)
    network = build_network(name, options=NetworkOptions(), num_classes=5, in_channels=3).eval()
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        before = network(images)
        reorder_classes(network, [4, 0, 3, 1, 2])
        torch.testing.assert_close(network(images), before[:, [4, 0, 3, 1, 2]])


def test_what_a_file_says_of_itself_is_used_and_nonsense_is_not(network: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "told.safetensors"
    told = {"mean": json.dumps(MEAN), "std": json.dumps(STD), "classes": json.dumps(NAMES)}
    file = TeacherFile(path=path, architecture="resnet8", options=OPTIONS, num_classes=4, in_channels=3)

    save_file(network.state_dict(), path, metadata=told)
    report = check_teacher_file(file)
    assert report["normalisation"] == {"mean": MEAN, "std": STD}
    assert report["classes"] == NAMES

    nonsense = [
        {"mean": "not JSON", "std": "[1]"},
        {"mean": "[0.1, 0.2]", "std": "[1, 1]"},
        {"mean": "[1, 2, 3]"},
        {"mean": "[1, 2, 3]", "std": "[0, 1, 1]"},
        {"mean": "{}", "std": "[]"},
        {"classes": '["a"]'},
        {"classes": '["a", "a", "b", "c"]'},
        {"classes": "3"},
    ]
    for metadata in nonsense:
        save_file(network.state_dict(), path, metadata=metadata)
        report = check_teacher_file(file)
        assert (report["normalisation"], report["classes"]) == (None, None), metadata


def test_the_report_tells_sign_and_scale_of_the_features(teacher: TeacherFile, network: nn.Module) -> None:
    features = check_teacher_file(teacher)["features"]
    assert features["min"] >= 0  # behind a ReLU
    assert features["negative"] is False
    assert 0 < features["rms"] <= features["max"]
    dead = load_file(teacher.path)
    dead["layer3.0.bn2.weight"] = torch.zeros_like(dead["layer3.0.bn2.weight"])
    dead["layer3.0.bn2.bias"] = torch.full_like(dead["layer3.0.bn2.bias"], -1e6)
    save_file(dead, teacher.path)
    assert check_teacher_file(teacher)["features"]["silent"] == 16


def test_traits_of_another_network_are_refused(teacher: TeacherFile) -> None:
    for wrong, code, at in (
        ({"classes": ["a", "b"]}, "teacher_head_mismatch", "/classes"),
        ({"preprocessing": TeacherPreprocessing(mean=[0.5], std=[0.5])}, "invalid_value", "/preprocessing/mean"),
    ):
        with pytest.raises(InputError) as caught:
            check_teacher_file(replace(teacher, **wrong))
        assert (caught.value.code, caught.value.param) == (code, at)
