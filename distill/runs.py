"""One student on its way: its state, its steps, its epochs. Free of files, policy and clocks that decide.

Order and views of an epoch are pure functions of seed and epoch, and the rate is one of the step, so that
the state to save is small: weights, momentum, random state, and a position.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from distill import memory
from distill.batch import POOLED, Batch
from distill.data.augment import Augmentation
from distill.data.placing import gather, select
from distill.errors import RunError
from distill.evaluation import Answers, answers
from distill.events import Alive, Log, Metric, Progress, RunName
from distill.objective import Objective
from distill.optimizer import new_optimizer
from distill.schedule import learning_rate
from distill.spec import TrainingSpec
from distill.taps import Features, Tap
from distill.teachers import FeatureBank, Teacher

_PROGRESS_SECONDS = 0.5
_WINDOWS_PER_EPOCH = 4
_PLACE = ("epoch", "position", "judged", "rate_scale", "first_loss", "parts", "best", "best_step")
"""Of a run's attributes those that are numbers, and saved."""
_EXPLODED = 100.0
"""So many times its first value, or more than this where that was below 1, and a loss does not come back."""
_MOST_PARTS = 8
_LEAST_PART = 4
"""Images: the statistics of batch norms over fewer are worth nothing."""


class Diverged(RunError):
    """A loss, an answer after an epoch, or a weight was not finite, or a loss had grown beyond use."""


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
        self.optimizer = new_optimizer(self.network, self.objective, training=material.training)
        self.first_step = first_step
        self.total_steps = total_steps
        self.epoch = 0
        """Finished epochs."""
        self.position = 0
        """Finished steps of the epoch under way."""
        self.judged = 0
        """Epochs that are done with: evaluated where they were to be, and told of."""
        self.rate_scale = 1.0
        self.first_loss: float | None = None
        """Mean of the first steps that were told of."""
        self.parts = 1
        """In so many parts a batch goes through the networks; more than one where memory was not enough."""
        self.best = -math.inf
        """Goodness of the best evaluation so far: an error may well begin above 1."""
        self.best_step = 0
        """Of that evaluation."""
        self._unsaid, self._seconds = 0, 0.0
        """Images since the last progress, and the seconds that they took."""
        self._sums = torch.zeros(1 + len(objective.parts), device=material.device)
        self._summed = 0
        self._undo = memory.Undo(self.network, self.objective)

    @property
    def step(self) -> int:
        """Optimizer steps of the job so far."""
        return self.first_step + self.epoch * self.material.steps_per_epoch + self.position

    @property
    def prefix(self) -> str:
        """Before the names of its metrics."""
        return "" if self.name == "student" else f"{self.name}/"

    def train_epoch(self) -> Generator[Metric | Progress | Log]:
        """Take the steps that are left of the epoch under way.

        May be left at any yield, and continued, here or from a saved state.

        Raises:
            Diverged: a loss was not finite; the weights are not to be used.
            RunError: ``out_of_memory``, even in parts.
        """
        plan = _EpochPlan(self.material, epoch=self.epoch)
        steps, last_step = self.material.steps_per_epoch, self.first_step + self.material.total_steps
        window = math.ceil(steps / _WINDOWS_PER_EPOCH)
        self._train_mode(True)
        clock = time.monotonic()
        while self.position < steps:
            rate, parts = self._set_rate(), self.parts
            self._sums += self._gradients(plan)
            self.optimizer.step()
            self._summed += 1
            self.position += 1
            self._unsaid += self.material.batch_size
            now = time.monotonic()
            self._seconds, clock = self._seconds + now - clock, now
            if self.parts != parts:
                yield self._parted()
            # Before progress: who is stopped there must not owe the window's metric.
            if self.position % window == 0 or self.position == steps:
                yield self._metric(rate)
            # Over epochs, which may be shorter than that.
            if self._seconds >= _PROGRESS_SECONDS and self.step < last_step:
                yield self._progress()
        if self.step == last_step:
            yield self._progress()  # so that a finished run says so
        self.epoch, self.position = self.epoch + 1, 0

    def _gradients(self, plan: _EpochPlan) -> Tensor:
        """The next batch's gradients, in smaller parts once it does not fit into memory; its losses."""
        while True:
            self._undo.remember()
            try:
                return self._accumulated(plan)
            except (RuntimeError, MemoryError) as error:
                if not memory.ran_out(error):
                    raise
                if self.parts == _MOST_PARTS or self.material.batch_size < 2 * self.parts * _LEAST_PART:
                    raise memory.out_of_memory(error) from error
            # Out of the handler: until its end the error's traceback holds what the failed pass allocated.
            self._undo()
            self.parts *= 2
            if self.material.device.type == "cuda":
                torch.cuda.empty_cache()

    def _accumulated(self, plan: _EpochPlan) -> Tensor:
        """The gradients of a batch, part after part; the losses, detached, the total first."""
        self.optimizer.zero_grad(set_to_none=True)
        found = torch.zeros_like(self._sums)
        for part in range(self.parts):
            indices, images, targets, teacher = plan.batch(
                self.position, part=part, parts=self.parts, needs=self.objective.teacher_needs
            )
            with self._autocast():
                seen = self.tap(self.material.prepare(images))
                losses = self.objective(Batch(seen, teacher, targets, indices, self.epoch + 1))
            share = len(indices) / self.material.batch_size  # of one part 1, which changes no bit
            (share * losses["loss"]).backward()
            found += share * torch.stack([losses[name].detach() for name in ("loss", *self.objective.parts)])
        return found

    def _parted(self) -> Log:
        size = math.ceil(self.material.batch_size / self.parts)
        return Log(
            level="warning",
            message=f"Out of memory at step {self.step}: from there on the {self.name}'s batches of "
            f"{self.material.batch_size} go through the networks in {self.parts} parts of {size}. Batch norms see one "
            "part at a time, and so do methods that compare images with each other.",
        )

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
            raise self.diverged("The loss", "was not finite")
        self.first_loss = means[0] if self.first_loss is None else self.first_loss
        if means[0] > _EXPLODED * max(self.first_loss, 1.0):  # weights of such steps are of no use, finite or not
            raise self.diverged("The loss", f"had grown from {self.first_loss:.3g} to {means[0]:.3g}")
        values = {f"{self.prefix}train/{n}": v for n, v in zip(("loss", *self.objective.parts), means, strict=True)}
        # In the last step of an epoch the count is already the next epoch's first.
        return Metric(step=self.step, epoch=self.epoch + 1, values={**values, f"{self.prefix}lr": rate})

    def check_weights(self) -> None:
        """After an epoch: running statistics can overflow while the losses stay finite.

        Raises:
            Diverged: a weight or a statistic of the network is not finite.
        """
        values = [value for value in self.network.state_dict().values() if value.is_floating_point()]
        if not bool(torch.stack([value.isfinite().all() for value in values]).all()):
            raise self.diverged("A weight", "was not finite")

    def diverged(self, what: str, how: str) -> Diverged:
        """The error of a run that cannot go on from where it is."""
        return Diverged(
            "loss_diverged",
            f"{what} of the {self.name} {how} near step {self.step}.",
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

    def evaluate(self) -> Generator[Alive, None, Answers]:
        """The student's answers to the evaluation split, by the head that it will have."""

        def look(images: Tensor) -> tuple[Tensor, Tensor]:
            with self._autocast():
                seen: Features = self.tap(self.material.prepare(images))
                return self.objective.logits(seen), seen.pooled_BC

        self._train_mode(False)
        return (yield from answers(look, self.material.test_images_NCHW, device=self.material.device))

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
            "place": {name: getattr(self, name) for name in _PLACE},
            "sums": self._sums,
            "summed": self._summed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go to a saved state."""
        self.network.load_state_dict(state["network"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name in _PLACE:
            setattr(self, name, state["place"][name])
        self._sums.copy_(state["sums"])
        self._summed = state["summed"]

    def _train_mode(self, on: bool) -> None:
        self.network.train(on)
        self.objective.train(on)

    def _autocast(self) -> torch.autocast:
        precision = self.material.precision
        return torch.autocast(self.material.device.type, dtype=precision, enabled=precision != torch.float32)


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

    def batch(
        self, position: int, *, needs: frozenset[str], part: int = 0, parts: int = 1
    ) -> tuple[Tensor, Tensor, Tensor, Features | None]:
        """Indices (B,), augmented uint8 images (B, C, H, W), their targets, and what is needed of the teacher.

        Of a batch, or of one of the nearly equal parts of it.
        """
        material = self._material
        first = position * material.batch_size
        within = slice(*(first + material.batch_size * number // parts for number in (part, part + 1)))
        indices = self._order[within]
        views = self._views.index_select(0, indices)
        images = gather(material.images_NCHW, self._places[within], device=material.device)
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
