"""One student on its way: its state, its steps, its epochs. Free of files, policy and clocks that decide.

Order and views of an epoch are pure functions of seed and epoch, and the rate is one of the step, so that
the state to save is small: weights, momentum, random state, and a position.
"""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill.batch import POOLED, Batch
from distill.data.augment import Augmentation
from distill.data.placing import gather, select
from distill.errors import RunError
from distill.evaluation import Answers, answers
from distill.events import Metric, Progress, RunName
from distill.objective import Objective
from distill.spec import TrainingSpec
from distill.taps import Features, Tap
from distill.teachers import FeatureBank, Teacher

_PROGRESS_SECONDS = 0.5
_WINDOWS_PER_EPOCH = 4


class Diverged(RunError):
    """A loss, or an answer after an epoch, was not finite."""


@dataclass(frozen=True, kw_only=True)
class Material:
    """What all runs of a job share; tensors lie on the device, but for images that have no room there.

    Attributes:
        images_NCHW: training images, uint8, as :func:`distill.data.placing.place` leaves them.
        targets_N: class indices (N,), -1 where there is no label; or points (N, L, 2).
        views_NV: the views of each image that are used; None draws fresh ones every epoch.
        bank: the teacher's features of exactly these views; None asks the teacher at every step.
        teacher: None where no method asks it.
        prepare: uint8 images to what a student takes.
        flip_pairs: of points, those that a mirror swaps; None for classes, and where it is not known.
        test_images_NCHW: evaluation images, uint8, where they were loaded.
    """

    training: TrainingSpec
    device: torch.device
    precision: torch.dtype
    images_NCHW: Tensor
    targets_N: Tensor
    test_images_NCHW: Tensor
    augmentation: Augmentation
    views_NV: Tensor | None
    bank: FeatureBank | None
    teacher: Teacher | None
    prepare: Callable[[Tensor], Tensor]
    flip_pairs: tuple[tuple[int, int], ...] | None = None

    @property
    def batch_size(self) -> int:
        return min(cast(int, self.training.batch_size), len(self.images_NCHW))

    @property
    def steps_per_epoch(self) -> int:
        return len(self.images_NCHW) // self.batch_size

    @property
    def epochs(self) -> int:
        return cast(int, self.training.epochs)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of one run."""
        return self.epochs * self.steps_per_epoch

    def labelled(self) -> Material | None:
        """The same without images that have no label and without a teacher; None when nothing is left."""
        if self.targets_N.is_floating_point():
            return self
        chosen = (self.targets_N >= 0).nonzero().squeeze(1)
        if len(chosen) == 0:
            return None
        if len(chosen) == len(self.targets_N):
            return self
        return replace(
            self,
            images_NCHW=select(self.images_NCHW, chosen),
            targets_N=self.targets_N[chosen],
            views_NV=None if self.views_NV is None else self.views_NV[chosen],
            bank=None,
            teacher=None,
        )


def draw_views(augmentation: Augmentation, *, num_images: int, num_views: int, seed: int) -> Tensor:
    """``num_views`` views of each image, all of them when there are no more: (N, V) int64."""
    if num_views >= augmentation.num_views:
        return torch.arange(augmentation.num_views).expand(num_images, -1)
    generator = _generator(seed, epoch=-1)
    return torch.stack([augmentation.draw(num_images, generator=generator) for _ in range(num_views)], dim=1)


def learning_rate(
    step: int, *, total: int, peak: float, schedule: str, milestones: Sequence[int] = (), gamma: float = 0.1
) -> float:
    """The rate of an optimizer step, 0 <= step < total.

    ``step``: the peak, multiplied by ``gamma`` at each milestone, given as the first steps of a lower rate, rising.
    ``one_cycle``: a cosine from a 25th of the peak up to it over the first 30 %, then a cosine down to a
    10,000th of the start (Smith and Topin 2017, in PyTorch's form, without its momentum cycle).
    """
    if schedule == "constant":
        return peak
    if schedule == "step":
        return peak * gamma ** bisect_right(milestones, step)
    if schedule == "cosine":
        return peak * 0.5 * (1.0 + math.cos(math.pi * step / total))
    low, final = peak / 25.0, peak / 25.0e4
    turn = max(0.3 * total - 1.0, 1e-9)
    if step <= turn:
        return peak + (low - peak) * 0.5 * (1.0 + math.cos(math.pi * step / turn))
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * (step - turn) / max(1.0, total - 1 - turn)))


class Run:
    """A student, its method and its optimizer, somewhere between step 0 and the end.

    Args:
        name: ``student`` or ``baseline``.
        network: the student; moved to the device.
        objective: what it descends on; moved to the device.
        first_step: optimizer steps of the job before this run.
        total_steps: optimizer steps of the whole job.
    """

    def __init__(
        self,
        name: RunName,
        *,
        network: nn.Module,
        objective: Objective,
        material: Material,
        first_step: int,
        total_steps: int,
    ) -> None:
        self.name: RunName = name
        self.material = material
        self.network = network.to(material.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.objective = objective.to(material.device)
        self.tap = Tap(self.network, maps=objective.student_maps)
        self.optimizer = torch.optim.SGD(
            _parameter_groups(self.network, self.objective),
            lr=cast(float, material.training.learning_rate),
            momentum=material.training.momentum,
            nesterov=material.training.nesterov is not False and material.training.momentum > 0,
            weight_decay=cast(float, material.training.weight_decay),
            fused=material.device.type != "mps",
        )
        self.first_step = first_step
        self.total_steps = total_steps
        self.epoch = 0
        """Finished epochs."""
        self.position = 0
        """Finished steps of the epoch under way."""
        self.rate_scale = 1.0
        self.best = -math.inf
        """Goodness of the best evaluation so far: an error may well begin above 1."""
        self._unsaid, self._seconds = 0, 0.0
        """Images since the last progress, and the seconds that they took."""
        self._sums = torch.zeros(1 + len(objective.parts), device=material.device)
        self._summed = 0

    @property
    def step(self) -> int:
        """Optimizer steps of the job so far."""
        return self.first_step + self.epoch * self.material.steps_per_epoch + self.position

    @property
    def prefix(self) -> str:
        """Before the names of its metrics."""
        return "" if self.name == "student" else f"{self.name}/"

    def train_epoch(self) -> Generator[Metric | Progress]:
        """Take the steps that are left of the epoch under way.

        May be left at any yield, and continued, here or from a saved state.

        Raises:
            Diverged: a loss was not finite; the weights are not to be used.
        """
        plan = _EpochPlan(self.material, epoch=self.epoch)
        steps = self.material.steps_per_epoch
        window = math.ceil(steps / _WINDOWS_PER_EPOCH)
        self._train_mode(True)
        clock = time.monotonic()
        while self.position < steps:
            rate = self._set_rate()
            self._sums += self._descend(plan, self.position)
            self._summed += 1
            self.position += 1
            self._unsaid += self.material.batch_size
            now = time.monotonic()
            self._seconds, clock = self._seconds + now - clock, now
            # Over epochs, which may be shorter than that; and at the end, so that a finished run says so.
            if self._seconds >= _PROGRESS_SECONDS or self.step == self.first_step + self.material.total_steps:
                yield self._progress()
            if self.position % window == 0 or self.position == steps:
                yield self._metric(rate)
        self.epoch, self.position = self.epoch + 1, 0

    def _descend(self, plan: _EpochPlan, position: int) -> Tensor:
        """One optimizer step; the losses, detached, the total first."""
        indices, images, targets, teacher = plan.batch(position, needs=self.objective.teacher_needs)
        with self._autocast():
            seen = self.tap(self.material.prepare(images))
            losses = self.objective(Batch(seen, teacher, targets, indices, self.epoch + 1))
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        self.optimizer.step()
        return torch.stack([losses[name].detach() for name in ("loss", *self.objective.parts)])

    def _set_rate(self) -> float:
        training = self.material.training
        epochs = training.milestones if isinstance(training.milestones, list) else []
        rate = self.rate_scale * learning_rate(
            self.epoch * self.material.steps_per_epoch + self.position,
            total=self.material.epochs * self.material.steps_per_epoch,
            peak=cast(float, training.learning_rate),
            schedule=training.schedule,
            milestones=[epoch * self.material.steps_per_epoch for epoch in epochs],
            gamma=training.gamma,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _metric(self, rate: float) -> Metric:
        # The one place that waits for the device. A loss that is not finite is found here, before its
        # weights are evaluated, saved or shown; testing every step would cost a GPU its head start.
        means = (self._sums / self._summed).tolist()
        self._sums.zero_()
        self._summed = 0
        if not all(math.isfinite(mean) for mean in means):
            raise self.diverged("The loss")
        values = {f"{self.prefix}train/{n}": v for n, v in zip(("loss", *self.objective.parts), means, strict=True)}
        # In the last step of an epoch the count is already the next epoch's first.
        return Metric(step=self.step, epoch=self.epoch + 1, values={**values, f"{self.prefix}lr": rate})

    def diverged(self, what: str) -> Diverged:
        """The error of a run of which this is not finite now."""
        return Diverged(
            "loss_diverged",
            f"{what} of the {self.name} was not finite near step {self.step}.",
            hint="Try a lower learning_rate, or smaller weights of the losses.",
            param="/training/learning_rate",
        )

    def _progress(self) -> Progress:
        speed = self._unsaid / max(self._seconds, 1e-9)
        self._unsaid, self._seconds = 0, 0.0
        return Progress(
            run=self.name,
            epoch=self.epoch + 1,
            epochs=self.material.epochs,
            step=self.step,
            total_steps=self.total_steps,
            images_per_second=round(speed, 1),
        )

    def evaluate(self) -> Answers:
        """The student's answers to the evaluation split, by the head that it will have."""

        def look(images: Tensor) -> tuple[Tensor, Tensor]:
            with self._autocast():
                seen: Features = self.tap(self.material.prepare(images))
                return self.objective.logits(seen), seen.pooled_BC

        self._train_mode(False)
        return answers(look, self.material.test_images_NCHW, device=self.material.device)

    @property
    def is_sound(self) -> bool:
        """Whether every loss so far was finite, those not yet told of included."""
        return bool(self._sums.isfinite().all())

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "network": self.network.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epoch": self.epoch,
            "position": self.position,
            "rate_scale": self.rate_scale,
            "best": self.best,
            "sums": self._sums,
            "summed": self._summed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a saved state."""
        self.network.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.position = state["epoch"], state["position"]
        self.rate_scale, self.best = state["rate_scale"], state["best"]
        self._sums.copy_(state["sums"])
        self._summed = state["summed"]

    def _train_mode(self, on: bool) -> None:
        self.network.train(on)
        self.objective.train(on)

    def _autocast(self) -> torch.autocast:
        precision = self.material.precision
        return torch.autocast(self.material.device.type, dtype=precision, enabled=precision != torch.float32)


def _parameter_groups(*modules: nn.Module) -> list[dict[str, Any]]:
    """What is trained; apart, without weight decay, the parameters that modules name in ``undecayed``."""
    undecayed = {
        id(module.get_parameter(name))
        for root in modules
        for module in root.modules()
        for name in getattr(module, "undecayed", ())
    }
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    spared = [p for p in trained if id(p) in undecayed]
    groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in undecayed]}]
    return [*groups, {"params": spared, "weight_decay": 0.0}] if spared else groups


class _EpochPlan:
    """In which order, and in which views, the images come in an epoch."""

    def __init__(self, material: Material, *, epoch: int) -> None:
        self._material = material
        generator = _generator(material.training.seed, epoch=epoch)
        count, device = len(material.images_NCHW), material.device
        order = torch.randperm(count, generator=generator)
        # Twice, so that images elsewhere than on the device are found without waiting for it.
        self._order, self._places = order.to(device), order.to(material.images_NCHW.device)
        if material.views_NV is None:
            self._slots = None
            self._views = material.augmentation.draw(count, generator=generator).to(device)
        else:
            # Each image walks through its own views, from its own start: none twice before all once.
            starts = torch.randint(2**31, (count,), generator=_generator(material.training.seed, epoch=-2))
            self._slots = ((starts + epoch) % material.views_NV.shape[1]).to(device)
            self._views = material.views_NV.gather(1, self._slots[:, None]).squeeze(1)

    def batch(self, position: int, *, needs: frozenset[str]) -> tuple[Tensor, Tensor, Tensor, Features | None]:
        """Indices (B,), augmented uint8 images (B, C, H, W), their targets, and what is needed of the teacher."""
        material = self._material
        size = material.batch_size
        part = slice(position * size, (position + 1) * size)
        indices = self._order[part]
        views = self._views.index_select(0, indices)
        images = gather(material.images_NCHW, self._places[part], device=material.device)
        images = material.augmentation.apply(images, views)
        targets = material.targets_N[indices]
        if targets.is_floating_point():
            targets = material.augmentation.apply_points(targets, views, flip_pairs=material.flip_pairs)
        if not needs:
            return indices, images, targets, None
        if material.bank is None or self._slots is None:
            assert material.teacher is not None
            return indices, images, targets, material.teacher.features(images, maps=needs - {POOLED})
        return indices, images, targets, material.bank.features(indices, self._slots[indices])


def _generator(seed: int, *, epoch: int) -> torch.Generator:
    """Random numbers of their own for each seed and epoch."""
    return torch.Generator().manual_seed((seed * 1_000_003 + epoch + 10) % 2**63)
