"""Whether weights are those of a network of the zoo, judged by the names and shapes of their tensors alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from distill.architectures.blueprint import Blueprint
from distill.architectures.layers import BITS, Shape
from distill.architectures.options import PLAIN, Options, PlainOptions
from distill.architectures.zoo import blueprint, check, family_of, names
from distill.errors import InputError

WRAPPERS = ("module.", "_orig_mod.")  # DataParallel and torch.compile
NUM_REPORTED = 10
UNKNOWN = 0  # a dimension that the weights should tell and do not
MAX_WIDTH = 16  # what a spec may ask for: a hint beyond it would be of no use


@dataclass(frozen=True)
class TeacherFacts:
    """What the weights of a network tell by their shapes."""

    num_classes: int
    in_channels: int
    feature_width: int


@dataclass(frozen=True)
class StartFacts:
    """What weights that a student is to start from bring along."""

    num_classes: int
    keeps_head: bool
    """Whether they classify into as many classes as the student does; if not, their classifiers are left out."""
    ignored: tuple[str, ...] = ()
    """What stood beside them in their file."""


def clean_names(raw_names: Iterable[str]) -> dict[str, str]:
    """Raw name -> name without the prefixes of DataParallel and torch.compile, however nested."""
    cleaned = {}
    for raw in raw_names:
        clean = raw
        while clean.startswith(WRAPPERS):
            clean = clean.split(".", 1)[1]
        cleaned[raw] = clean
    return cleaned


def match_state(name: str, shapes: Mapping[str, Shape], *, options: Options, param: str) -> TeacherFacts:
    """What the state dict of these shapes is, if it is one of the network ``name``.

    Batch norms' ``num_batches_tracked`` may be missing: old files lack it and nothing in evaluation reads it.
    The stride of the stem leaves no trace in the weights and so is taken on trust.

    Args:
        shapes: tensor name, with or without the prefixes of wrappers -> its shape.
        param: JSON pointer for the error.

    Raises:
        InputError: ``architecture_unknown``, ``invalid_value`` for an option that the network does not take, or
            ``state_dict_mismatch`` with the first ten each of ``missing``, ``unexpected`` and ``misshapen`` in its
            details (null stands for a dimension that may be any), and with the networks that the weights do fit
            in ``did_you_mean``.
    """
    check(name, options=options, param=param)
    plan = blueprint(name, options=options)
    state = _State.read(shapes)
    if not plan.is_complete:
        return state.facts_by_head(name, plan, param=param)
    differences = state.differences(plan)
    if not differences.any:
        return TeacherFacts(state.num_classes(plan), state.in_channels(plan), plan.feature_width)
    fitting = [other for other in state.candidates() if state.fits(other, PLAIN)]
    raise InputError(
        "state_dict_mismatch",
        f"The weights do not fit {name} (width {options.width:g}): "
        f"tensors missing {len(differences.missing)}, unexpected {len(differences.unexpected)}, "
        f"of another shape {len(differences.misshapen)}.",
        hint=_mismatch_hint(name, state, fitting),
        param=param,
        details={
            "missing": differences.missing[:NUM_REPORTED],
            "unexpected": differences.unexpected[:NUM_REPORTED],
            "misshapen": differences.misshapen[:NUM_REPORTED],
        },
        did_you_mean=fitting,
    )


def match_start(
    name: str, shapes: Mapping[str, Shape], *, options: Options, num_classes: int, in_channels: int, param: str
) -> StartFacts:
    """Whether a student for ``num_classes`` classes can start from the state dict of these shapes.

    Raises:
        InputError: as :func:`match_state`; also ``state_dict_mismatch``: they are for images of other channels.
    """
    found = match_state(name, shapes, options=options, param=param)
    if found.in_channels != in_channels:
        raise InputError(
            "state_dict_mismatch",
            f"These weights take images of {found.in_channels} channels, the student's have {in_channels}.",
            hint="Leave init out, or send weights for images of these channels.",
            param=param,
        )
    return StartFacts(found.num_classes, keeps_head=found.num_classes == num_classes)


def _mismatch_hint(name: str, state: _State, fitting: list[str]) -> str:
    if fitting:
        return f"These weights are those of {' or '.join(fitting)} with default options: ask for that"
    width = state.fitting_width(name)
    if width is not None:
        return f'These weights are those of {name} with the option "width": {width}: ask for that'
    return "Send the state_dict of the named network; names and shapes are those of the CRD benchmark"


@dataclass(frozen=True)
class _Differences:
    missing: list[str]
    unexpected: list[str]
    misshapen: list[dict[str, Any]]

    @property
    def any(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)


@dataclass(frozen=True)
class _State:
    """Shapes under clean names, and what they tell; ``UNKNOWN`` where they do not."""

    shapes: dict[str, Shape]
    doubled: list[str]
    """Raw names of tensors whose clean name was there before."""

    @classmethod
    def read(cls, raw_shapes: Mapping[str, Shape]) -> _State:
        shapes: dict[str, Shape] = {}
        doubled = []
        for raw, clean in clean_names(raw_shapes).items():
            if clean in shapes:
                doubled.append(raw)
            else:
                shapes[clean] = tuple(raw_shapes[raw])
        return cls(shapes, doubled)

    def dimension(self, name: str, axis: int, *, rank: int) -> int:
        shape = self.shapes.get(name, ())
        return shape[axis] if len(shape) == rank else UNKNOWN

    def facts_by_head(self, name: str, plan: Blueprint, *, param: str) -> TeacherFacts:
        """What can be told without knowing every tensor: a worker compares the rest when it builds the network.

        Raises:
            InputError: ``state_dict_mismatch``, the classifiers are missing or of another width;
                ``teacher_head_unsupported``, the network has none.
        """
        if not plan.has_linear_head:
            message = f"The logits of {name} are not linear in one penultimate feature."
            raise InputError("teacher_head_unsupported", message, hint="Take another network.", param=param)
        expected = plan.state_shapes(num_classes=UNKNOWN, in_channels=UNKNOWN)
        wrong = [
            {"name": key, "expected": [None, width], "found": list(self.shapes.get(key, ()))}
            for key, (_, width) in expected.items()
            if self.shapes.get(key, ())[1:] not in ((width,), (width, 1, 1))
        ]
        if wrong:
            raise InputError(
                "state_dict_mismatch",
                f"The weights do not fit {name}: {wrong[0]['name']} should read {wrong[0]['expected'][1]} features.",
                hint="Send the state_dict of timm.create_model of that name",
                param=param,
                details={"missing": [], "unexpected": [], "misshapen": wrong[:NUM_REPORTED]},
            )
        num_classes = self.shapes[next(iter(expected))][0]
        # The first layer has no name here; but only it has weights of three input channels, if the images have.
        colour = any(len(shape) == 4 and shape[1] == 3 for shape in self.shapes.values())
        return TeacherFacts(num_classes, 3 if colour else 1, plan.feature_width)

    def num_classes(self, plan: Blueprint) -> int:
        return self.dimension(f"{plan.classifier}.weight", 0, rank=2)

    def in_channels(self, plan: Blueprint) -> int:
        return self.dimension(f"{plan.first_layer}.weight", 1, rank=4)

    def fits(self, name: str, options: Options) -> bool:
        return not self.differences(blueprint(name, options=options)).any

    def differences(self, plan: Blueprint) -> _Differences:
        expected = plan.state_shapes(num_classes=self.num_classes(plan), in_channels=self.in_channels(plan))
        shapes = _without_bits(self.shapes, plan)
        missing = [key for key in expected if key not in shapes]
        return _Differences(
            missing=[key for key in missing if not key.endswith(".num_batches_tracked")],
            unexpected=[key for key in shapes if key not in expected] + self.doubled,
            misshapen=[
                {"name": key, "expected": [size or None for size in shape], "found": list(shapes[key])}
                for key, shape in expected.items()
                if key in shapes and not _fits(shape, shapes[key])
            ],
        )

    def candidates(self) -> list[str]:
        """The listed names, and the wide ResNet that the depth and the classifier's width would make."""
        depth = 6 * sum(bool(re.fullmatch(r"block1\.layer\.\d+\.conv1\.weight", key)) for key in self.shapes) + 4
        guess = f"wrn_{depth}_{self.dimension('fc.weight', 1, rank=2) // 64}"
        return names() if guess in names() or family_of(guess) is None else [*names(), guess]

    def fitting_width(self, name: str) -> float | None:
        """The width option with which the network would fit, judged by its widest and its first layer."""
        family = family_of(name)
        if family is None or "width" not in family.options:
            return None
        plan = blueprint(name, options=PLAIN)
        expected = plan.state_shapes(num_classes=UNKNOWN, in_channels=UNKNOWN)
        classifier, first = f"{plan.classifier}.weight", f"{plan.first_layer}.weight"
        ratios = (
            self.dimension(classifier, 1, rank=2) / expected[classifier][1],
            self.dimension(first, 0, rank=4) / expected[first][0],
        )
        widths = (round(ratio, 6) for ratio in ratios if 0 < ratio <= MAX_WIDTH)
        return next((w for w in widths if self.fits(name, PlainOptions(width=w))), None)


def _without_bits(shapes: Mapping[str, Shape], plan: Blueprint) -> dict[str, Shape]:
    """The shapes with each weight that lies there as bits, eight to a byte, in the place and shape that it has."""
    packed = {name + BITS: (name, shape) for name, shape in plan.binary_weights.items()}
    found: dict[str, Shape] = {}
    for name, shape in shapes.items():
        own, whole = packed.get(name, (name, shape))
        is_whole = shape == (-(-math.prod(whole) // 8),)
        found |= {own: whole} if name in packed and own not in shapes and is_whole else {name: shape}
    return found


def _fits(expected: Shape, found: Shape) -> bool:
    """Whether the shapes are equal, where an unknown dimension may be any but empty."""
    return len(expected) == len(found) and all(
        have > 0 and want in (have, UNKNOWN) for want, have in zip(expected, found, strict=True)
    )
