"""What methods must know of teacher and student to make layers between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distill.anatomy import LAST
from distill.errors import InputError
from distill.taps import Tap, anatomy_of

MapShape = tuple[int, int, int]

_NO_MAPS = "The penultimate feature or the logits are enough for srrl, kd, rkd, crd, sp, pkt, cc, dkd and dist."


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large a network's features are for the images of this job.

    Attributes:
        pooled: length of the penultimate feature.
        maps: name -> (C, H, W) of every stage, and of ``last`` where the network pools a map.
    """

    pooled: int
    maps: Mapping[str, MapShape]

    @property
    def stages(self) -> list[str]:
        """Names of the stages in their order, without ``last``."""
        return [name for name in self.maps if name != LAST]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Teacher and student of a job, as far as a method must know them to make its own layers.

    Attributes:
        classifier: the teacher's frozen linear layer, a copy of this job's own.
        resume: a name and a map (B, C, H, W) of the teacher's shape to the teacher's logits (B, K), with gradient;
            see :meth:`distill.taps.Tap.resume`.
        nonnegative: names of the teacher's features that were never negative on the probe images.
        labels_N: of all training images, -1 where there is none, or their points (N, L, 2); on the device.
        epochs: of the run.
        output_scale: brings differences of outputs to about the size of those of logits.
    """

    student: Sizes
    teacher: Sizes
    classifier: nn.Linear
    resume: Callable[[str, Tensor], Tensor]
    nonnegative: frozenset[str]
    labels_N: Tensor
    epochs: int
    output_scale: float = 1.0

    def matched_stages(self) -> list[tuple[str, str]]:
        """Stages of student and teacher that belong together, counted from the last one back.

        Raises:
            InputError: ``invalid_value`` when one of them has no stages.
        """
        student, teacher = self.student.stages, self.teacher.stages
        count = min(len(student), len(teacher))
        if count == 0:
            who = "teacher" if student else "student"
            raise InputError(
                "invalid_value",
                f"This method compares the maps of stages, and the {who} has no stages.",
                hint=_NO_MAPS,
                param="/method/type",
            )
        return list(zip(student[-count:], teacher[-count:], strict=True))

    def shapes(self, name: str, *, param: str) -> tuple[MapShape, MapShape]:
        """(C, H, W) of the student's and of the teacher's map of that name.

        Args:
            name: of a stage, or ``last``.
            param: what asks for it, as a pointer into the request.

        Raises:
            InputError: ``invalid_value`` when one of them has no such map, with the names of those that both have.
        """
        for who, sizes in (("student", self.student), ("teacher", self.teacher)):
            if name not in sizes.maps:
                both = [other for other in self.student.maps if other in self.teacher.maps]
                raise InputError(
                    "invalid_value",
                    f"The {who} has no map {name}.",
                    hint=f"Both networks have: {', '.join(both)}." if both and name != LAST else _NO_MAPS,
                    param=param,
                )
        return self.student.maps[name], self.teacher.maps[name]

    def require_classes(self, method: str) -> None:
        """Make sure that logits are those of classes.

        Raises:
            InputError: ``invalid_value``, the images are labelled with points.
        """
        if self.labels_N.is_floating_point():
            raise InputError(
                "invalid_value",
                f"{method} compares probabilities of classes, but the images are labelled with points.",
                hint="Take srrl, or another method that reads features, such as fitnet, at, rkd, crd or sp.",
                param="/method/type",
            )


@torch.no_grad()
def sizes_of(network: nn.Module, images_BCHW: Tensor) -> Sizes:
    """How large a network's features are for images like these; the network is left as it was."""
    was_training = network.training
    tap = Tap(network.eval(), maps=anatomy_of(network).maps)
    seen = tap(images_BCHW)
    tap.close()
    network.train(was_training)
    maps = {name: (value.shape[1], value.shape[2], value.shape[3]) for name, value in seen.maps.items()}
    ordered = {name: maps[name] for name in anatomy_of(network).maps}
    return Sizes(pooled=seen.pooled_BC.shape[1], maps=ordered)
