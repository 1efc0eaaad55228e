"""Before any training: whether a teacher knows the data, and if it does not, what would mend it.

The usual causes are three: its classes are in another order, its images were normalised otherwise, its channels were
blue first. Each is tried, and told with the figure that the teacher would have then.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from distill import events
from distill.data.packed import PackedDataset
from distill.errors import RunError
from distill.evaluation import Answers, answers
from distill.headlines import HEADLINES
from distill.tasks import Task
from distill.teacher_files import LoadedTeacher
from distill.teachers import Teacher
from distill.viewing import ImagePreparation

_SECONDS = 20.0
"""What all trials together may take, as far as the teacher's first answers foretell."""
_LEAST_IMAGES, _MOST_IMAGES = 64, 1000
_LEAST_GAIN = 0.02
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a teacher is worth on a sample when its images are prepared in one way.

    Attributes:
        name: of that way.
        score: the task's headline.
        prepare: that way.
    """

    name: str
    score: float
    prepare: ImagePreparation

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What to give with POST /teachers."""
        mean, std = ([round(value, 5) for value in each.tolist()] for each in (self.prepare.mean_C, self.prepare.std_C))
        return {"mean": mean, "std": std, "channels": self.prepare.channels}


def ask(teacher: Teacher, images_NCHW: Tensor, device: torch.device) -> Generator[events.Alive, None, Answers]:
    """A teacher's answers to uint8 images."""

    def look(images: Tensor) -> tuple[Tensor, Tensor]:
        seen = teacher.features(images)
        return seen.logits_BK, seen.pooled_BC

    return (yield from answers(look, images_NCHW, device=device))


def check(
    loaded: LoadedTeacher, task: Task, data: PackedDataset, *, device: torch.device, seconds_per_image: float
) -> Iterator[events.Event]:
    """Say what the teacher is worth on the evaluation split, and warn where another preparation does far better.

    Other preparations are tried where the teacher fails, and where nobody said how its images were normalised.

    Args:
        task: with the teacher's answers to the whole split.
        seconds_per_image: that those took.

    Raises:
        RunError: ``teacher_below_chance``, with the likeliest cause and what would mend it.
        InputError: as :meth:`distill.tasks.Task.check`.
    """
    if loaded.said:
        yield events.Log(level="info", message=loaded.said)
    others = _others(loaded.prepare, data)
    affordable = int(_SECONDS / (len(others) + 1) / max(seconds_per_image, 1e-9))
    sample = _sample(len(data.test_images), affordable)
    try:
        said = task.check()
    except RunError as error:
        trials = _tried(loaded, task, data, sample, device=device, others=others)
        raise _explained(error, trials, data, num_images=len(sample)) from error
    yield events.Log(level="info", message=said)
    if loaded.is_guess and affordable >= _LEAST_IMAGES and task.headline != "agreement":
        current, *trials = _tried(loaded, task, data, sample, device=device, others=others)
        best = _best(task, trials)
        if best is not None and _is_better(task, best.score, current.score, len(sample)):
            yield events.Log(level="warning", message=_warning(task, best, current, len(sample)))


def _sample(total: int, affordable: int) -> Tensor:
    """Indices of images, spread over the split and rising."""
    count = min(total, _MOST_IMAGES, max(_LEAST_IMAGES, affordable))
    chosen: Tensor = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count].sort().values
    return chosen


def _others(now: ImagePreparation, data: PackedDataset) -> list[tuple[str, ImagePreparation]]:
    """Other ways to prepare images, by name; those with the fewest changes first."""
    channels = len(now.mean_C)
    ways = {
        "the data set's own mean and std": (data.mean_C.tolist(), data.std_C.tolist()),
        "mean and std of 0.5": ([0.5] * channels, [0.5] * channels),
        "values in 0..1 as they are": ([0.0] * channels, [1.0] * channels),
        "values in 0..255 as they are": ([0.0] * channels, [1 / 255] * channels),
    }
    if channels == 3:
        ways["mean and std of ImageNet"] = (list(_IMAGENET[0]), list(_IMAGENET[1]))
    normalised = [("", now)]
    for name, (mean, std) in ways.items():
        mean_C, std_C = (torch.tensor(values, device=now.mean_C.device) for values in (mean, std))
        if not (torch.allclose(mean_C, now.mean_C, atol=5e-3) and torch.allclose(std_C, now.std_C, atol=5e-3)):
            normalised.append((name, replace(now, mean_C=mean_C, std_C=std_C)))
    if channels != 3:
        return normalised[1:]
    order: Literal["rgb", "bgr"] = "rgb" if now.channels == "bgr" else "bgr"
    turned = [
        (
            f"{name}{' and ' if name else ''}channels as {order}",
            replace(way, channels=order, mean_C=way.mean_C.flip(0), std_C=way.std_C.flip(0)),
        )
        for name, way in normalised
    ]
    return normalised[1:] + turned


def _tried(
    loaded: LoadedTeacher,
    task: Task,
    data: PackedDataset,
    sample: Tensor,
    *,
    device: torch.device,
    others: list[tuple[str, ImagePreparation]],
) -> list[Trial]:
    """The present preparation on the sample, and then the others."""
    images = data.test_images[sample]
    trials = []
    for name, prepare in [("what is assumed", loaded.prepare), *others]:
        found = events.result(ask(loaded.seeing(prepare), images, device))
        trials.append(Trial(name=name, score=task.part(sample, found).score(found), prepare=prepare))
    return trials


def _best(task: Task, trials: list[Trial]) -> Trial | None:
    good = HEADLINES[task.headline].goodness
    return max(trials, key=lambda trial: good(trial.score), default=None)


def _is_better(task: Task, there: float, here: float, count: int) -> bool:
    """Beyond what a sample of that size tells, and by enough to be worth a word."""
    if HEADLINES[task.headline].falls:
        return there < 0.9 * here
    deviation: float = (2 * here * (1 - here) / count) ** 0.5  # of the difference of two shares, were they independent
    return there - here > max(_LEAST_GAIN, 2 * deviation)


def _warning(task: Task, best: Trial, current: Trial, count: int) -> str:
    return (
        f"Nothing says how the teacher's images were prepared, and what is assumed may be wrong: on {count} test "
        f"images its {HEADLINES[task.headline].noun} is {current.score:.1%}; with {best.name} it would be "
        f"{best.score:.1%}. "
        f'Register it with "preprocessing": {json.dumps(best.preprocessing)}.'
    )


def _explained(error: RunError, trials: list[Trial], data: PackedDataset, *, num_images: int) -> RunError:
    """The same refusal with what was tried, and with the remedy first where one was found."""
    current, *others = trials
    details = dict(error.details)
    order, renamed = details.pop("order", None), details.get("renamed", 0.0)
    details["images"] = num_images
    details["tried"] = [{"with": trial.name, "score": round(trial.score, 4)} for trial in trials]
    falls = error.details.get("chance") is None
    best = (min if falls else max)(others, key=lambda trial: trial.score, default=current)
    hint = error.hint
    if falls:
        found = best.score < 0.7 * current.score
    else:
        found = best.score > max(2 * details["chance"], renamed, current.score + 0.1)
    if found:
        details["preprocessing"] = best.preprocessing
        count = f"{details['images']} of the test images"
        hint = f"With {best.name} it would be {best.score:.1%} on {count}: " + (
            f'register the teacher with "preprocessing": {json.dumps(best.preprocessing)}.'
        )
    elif order is not None and data.classes:
        details["classes"] = [data.classes[index] for index in order]
        hint += ' Register the teacher with "classes", the names in the order of its outputs; `details` has a guess.'
    return RunError(error.code, error.message, hint=hint, param=error.param, details=details)
