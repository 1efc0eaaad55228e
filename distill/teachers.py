"""The teacher: frozen, described by one vector per view, computed once where the augmentation allows it."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distill.batch import POOLED
from distill.errors import RunError
from distill.events import Alive
from distill.taps import Features, Tap

BANK_BATCH = 500


def freeze(network: nn.Module) -> nn.Module:
    """Put a network into eval mode for good: no gradient, no running statistics."""
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class Teacher:
    """A frozen network behind its tap, with the normalisation it was trained with.

    Attributes:
        tap: keeps every map that may be asked for.
        classifier: its head as one linear layer.
        prepare: uint8 images (B, C, H, W) to what the network takes.
        precision: the type that its forward pass computes in.
    """

    tap: Tap
    classifier: nn.Linear
    prepare: Callable[[Tensor], Tensor]
    precision: torch.dtype

    @torch.no_grad()
    def features(self, images_BCHW: Tensor, *, maps: Iterable[str] = ()) -> Features:
        """What it makes of uint8 images (B, C, H, W), in float32: feature, logits ``W p + b``, and the maps named."""
        with torch.autocast(images_BCHW.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            seen = self.tap(self.prepare(images_BCHW))
        pooled_BC = seen.pooled_BC.float()
        return Features(pooled_BC, self.logits(pooled_BC), {name: seen.maps[name].float() for name in maps})

    @torch.no_grad()
    def logits(self, pooled_BC: Tensor) -> Tensor:
        """``W p + b`` in float32, (B, K)."""
        return nn.functional.linear(pooled_BC.float(), self.classifier.weight, self.classifier.bias)

    def resume(self, name: str, map_BCHW: Tensor) -> Tensor:
        """Logits (B, K) in float32 of the rest of the network behind a map of its own shape; carries gradient."""
        return self.tap.resume(name, map_BCHW).logits_BK.float()


@dataclass(frozen=True)
class FeatureBank:
    """A teacher's features of every image in every one of its views.

    Attributes:
        values: ``pooled`` (N, V, C_t), and maps (N, V, C, H, W) by name; float32.
    """

    teacher: Teacher
    values: Mapping[str, Tensor]

    def features(self, indices_B: Tensor, slots_B: Tensor) -> Features:
        """As :meth:`Teacher.features` of these images in these views."""
        kept = {name: value[indices_B, slots_B] for name, value in self.values.items()}
        pooled_BC = kept.pop(POOLED)
        return Features(pooled_BC, self.teacher.logits(pooled_BC), kept)


@torch.no_grad()
def feature_bank(
    teacher: Teacher,
    *,
    num_images: int,
    num_views: int,
    view: Callable[[Tensor, int], Tensor],
    maps: Iterable[str] = (),
    batch_size: int = BANK_BATCH,
    device: torch.device,
) -> Generator[Alive, None, FeatureBank]:
    """Ask the teacher once about every image in every view, on the device, with a sign of life after each batch.

    Always filled in the same order and batches, so that a resumed run sees the same numbers bit for bit.

    Args:
        view: image indices (B,) and a view slot to uint8 images (B, C, H, W).
        maps: names of maps to keep beside the pooled feature.
    """
    names = tuple(maps)
    values: dict[str, Tensor] = {}
    for slot in range(num_views):
        for start in range(0, num_images, batch_size):
            indices = torch.arange(start, min(start + batch_size, num_images), device=device)
            seen = teacher.features(view(indices, slot), maps=names)
            for name, value in {POOLED: seen.pooled_BC, **seen.maps}.items():
                if name not in values:
                    values[name] = torch.empty(num_images, num_views, *value.shape[1:], device=device)
                values[name][indices, slot] = value
            yield Alive()
    return FeatureBank(teacher, values)


def check_above_chance(logits_NK: Tensor, labels_N: Tensor) -> float:
    """The teacher's accuracy, if it knows anything about this data.

    Chance is one in K; three standard deviations above it is the least that counts as knowing.

    Raises:
        RunError: ``teacher_below_chance``; its details have ``top1``, ``chance``, ``renamed`` (with the classes in the
            best other order), and ``order`` (the class that each output seems to be) where that is the cause.
    """
    count, classes = logits_NK.shape
    guesses = logits_NK.argmax(dim=1)
    accuracy = float((guesses == labels_N).float().mean())
    chance = 1.0 / classes
    if accuracy > chance + 3.0 * math.sqrt(chance * (1.0 - chance) / count):
        return accuracy
    renamed, order = _renamed(guesses, labels_N, classes=classes)
    details: dict[str, Any] = {"top1": accuracy, "chance": chance, "renamed": renamed}
    hint = "Check the normalisation (mean and std of its training), the colour order, and the weights."
    if renamed > max(0.3, min(2 * chance, (1 + chance) / 2)):  # of two classes, halfway to all
        hint = f"With its classes renamed it would be right on {renamed:.1%}: the label order differs."
        details["order"] = order if len(set(order)) == classes else None
    raise RunError(
        "teacher_below_chance",
        f"The teacher is right on {accuracy:.1%} of {count} labelled images; guessing gives {chance:.1%}.",
        hint=hint,
        param="/teacher",
        details=details,
    )


def _renamed(guesses_N: Tensor, labels_N: Tensor, *, classes: int) -> tuple[float, list[int]]:
    """Accuracy on one half of the images after the renaming of guesses that suits the other half best, and that one.

    Judged on other images than chosen by: with few images a class, some renaming suits any guesses.
    """
    order = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(0))
    chosen_by, judged_on = order.tensor_split(2)
    confusion = torch.bincount(guesses_N[chosen_by] * classes + labels_N[chosen_by], minlength=classes * classes)
    renaming = confusion.view(classes, classes).argmax(dim=1)
    accuracy = float((renaming[guesses_N[judged_on]] == labels_N[judged_on]).float().mean())
    return accuracy, renaming.tolist()
