"""Which of a checkpoint's dictionaries are the network's weights, judged by names; what is left out is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from distill.architectures.layers import Shape

# In the order in which they are taken.
PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "teacher", "weights", "module", "_orig_mod")
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "model_ema_state_dict", "params_ema")
_BESIDE = (
    "optimizer", "optimizer_state_dict", "optim", "scheduler", "scheduler_state_dict", "lr_scheduler", "scaler",
    "amp_scaler", "loss_scaler", "criterion", "epoch", "step", "global_step", "n_averaged", "decay", "num_updates",
)  # fmt: skip
NETWORK = "network"
_REUSED_HEAD = ("connector", "classifier")  # of distill.students.ReusedHead
_KNOWN = frozenset({*PLAIN, *AVERAGED, *_BESIDE})
_MAX_DEPTH = 4
_MAX_NAME = 80
_NUM_TOLD = 20

Tree = Mapping[Any, Any]
"""Names -> shapes of tensors, trees that hold such, or None for what holds none."""


@dataclass(frozen=True)
class Weights:
    """A network's weights within a checkpoint.

    Attributes:
        path: the keys that lead to them, outermost first.
        shapes: name within their dictionary -> shape.
        ignored: what stood beside them or above.
        averaged: of those the dictionaries that hold an exponential moving average of the weights.
        is_averaged: whether the weights are such an average themselves, since there are no others.
    """

    path: tuple[str, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What stands before their names where a file has no dictionaries, only names."""
        return "".join(f"{key}." for key in self.path)

    @property
    def is_averaged(self) -> bool:
        return any(key in AVERAGED for key in self.path)

    def report(self) -> dict[str, Any]:
        """For the teacher's report."""
        told: dict[str, Any] = {"taken": ".".join(self.path) or None, "ignored": [_shown(k) for k in self.ignored]}
        if len(self.ignored) > _NUM_TOLD:
            told["ignored"] = [*told["ignored"][:_NUM_TOLD], f"and {len(self.ignored) - _NUM_TOLD} more"]
        if self.is_averaged:
            told["note"] = "These are averaged (EMA) weights: the file has no others."
        elif self.averaged:
            names = ", ".join(map(_shown, self.averaged))
            told["note"] = f"Averaged (EMA) weights are there too and were not taken: {names}."
        return told


Unwrap = Callable[[Tree], Weights]


def unwrap(tree: Tree) -> Weights:
    """Find the weights: through the usual dictionaries around them, the plain ones before averaged ones.

    Names alone, as of a safetensors file, are taken for dictionaries where all of them begin with a usual one.
    """
    path: tuple[str, ...] = ()
    ignored: list[str] = []
    averaged: list[str] = []
    while len(path) < _MAX_DEPTH and (key := _next(tree := _grouped(tree))) is not None:
        beside = [str(other) for other in tree if other != key]
        ignored += [".".join((*path, other)) for other in beside]
        averaged += [".".join((*path, other)) for other in beside if other in AVERAGED and tree[other] is not None]
        path, tree = (*path, key), tree[key]
    shapes = {name: value for name, value in tree.items() if isinstance(name, str) and _is_shape(value)}
    ignored += [".".join((*path, str(name))) for name in tree if name not in shapes]
    return Weights(path, shapes, tuple(ignored), tuple(averaged))


def unwrap_student(tree: Tree) -> Weights:
    """As :func:`unwrap`; and of a student's file that was made with the teacher's head, the student's network."""
    heads = {str(name).partition(".")[0] for name in tree}
    if heads != {NETWORK, *_REUSED_HEAD} or not all(_is_shape(value) for value in tree.values()):
        return unwrap(tree)
    shapes = {name.removeprefix(f"{NETWORK}."): shape for name, shape in tree.items() if name.startswith(f"{NETWORK}.")}
    return Weights((NETWORK,), shapes, _REUSED_HEAD)


def _next(tree: Tree) -> str | None:
    branches = [key for key, value in tree.items() if isinstance(value, Mapping)]
    usual = [key for key in (*PLAIN, *AVERAGED) if key in branches]
    if usual:
        return usual[0]
    has_weights = any(_is_shape(value) for value in tree.values())
    only = branches[0] if len(branches) == 1 and not has_weights else None
    return only if isinstance(only, str) and len(only) <= _MAX_NAME else None


def _grouped(tree: Tree) -> Tree:
    """Names that all begin with a usual dictionary's, as the dictionaries that they speak of."""
    heads = {str(name).partition(".")[0] for name in tree}
    if not heads <= _KNOWN or not all(_is_shape(value) for value in tree.values()):
        return tree
    groups: dict[str, Any] = {}
    for name, shape in tree.items():
        head, dot, rest = str(name).partition(".")
        if dot:
            groups.setdefault(head, {})[rest] = shape
        else:
            groups[head] = shape
    return groups


def _is_shape(value: object) -> TypeGuard[Shape]:
    return isinstance(value, tuple)


def _shown(key: str) -> str:
    return "".join(c if c.isprintable() else "�" for c in key[:_MAX_NAME])
