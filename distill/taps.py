"""Reading a network's maps and penultimate feature by hooks, and the proofs that they are the right ones.

The map that counts is **the input of global pooling**. "The tensor one before last" is another one in
WRN (before the last batch norm and ReLU), MobileNetV2 and ShuffleNetV2, and a student matched to it
learns the wrong thing without any error to see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from distill.anatomy import LAST, Anatomy
from distill.errors import InputError
from distill.layouts import feature, from_map, pooling_map, stage_map, weight_and_bias


@dataclass(frozen=True)
class Features:
    """What one forward pass of a network shows.

    Attributes:
        pooled_BC: the input of the classifier.
        logits_BK: the output.
        maps: name -> (B, C, H, W), those that were asked for: ``stage1``, ..., and ``last``, which is the
            input of global pooling.
    """

    pooled_BC: Tensor
    logits_BK: Tensor
    maps: Mapping[str, Tensor] = field(default_factory=dict)


class Tap:
    """Calls a network and returns its :class:`Features`.

    Args:
        network: left as it is.
        maps: names of the maps to keep; ``last`` is passed over where the network has none.
        anatomy: where the parts are; None takes the network's own ``anatomy``.
    """

    def __init__(self, network: nn.Module, *, maps: Iterable[str] = (), anatomy: Anatomy | None = None) -> None:
        self.network = network
        self.anatomy = anatomy or anatomy_of(network)
        self._seen: dict[str, Any] = {}
        self._blank: Tensor | None = None
        self._handles = [self._hook(name) for name in maps if name != LAST or self.anatomy.pooling is not None]
        for number, path in enumerate(self.anatomy.classifiers):
            hook = self._keep_input(_classifier_key(number))
            self._handles.append(network.get_submodule(path).register_forward_pre_hook(hook))

    def _hook(self, name: str) -> RemovableHandle:
        module = self.network.get_submodule(self.anatomy.maps[name])
        if name == LAST and not self.anatomy.pooled_output:
            return module.register_forward_pre_hook(self._keep_input(name))
        return module.register_forward_hook(self._keep_output(name))

    def _keep_input(self, key: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._seen[key] = inputs[0]

        return hook

    def _keep_output(self, key: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._seen[key] = output

        return hook

    def __call__(self, images_BCHW: Tensor) -> Features:
        if self._blank is None or self._blank.shape[1:] != images_BCHW.shape[1:]:
            self._blank = torch.zeros_like(images_BCHW[:1])
        return self._features(self.network(images_BCHW), self._blank)

    def resume(self, name: str, map_BCHW: Tensor) -> Features:
        """The rest of the network behind one of its stages, fed another map than its own; carries gradient.

        The network must have been called before. The part before the stage runs on one blank image, since
        its answer is thrown away.

        Args:
            name: of a stage, or ``last``.
            map_BCHW: of the shape that the network itself has there, but for the batch.

        Raises:
            InputError: ``teacher_head_unsupported`` behind tokens, of which a map is only a part.
        """
        assert self._blank is not None
        is_input = name == LAST and not self.anatomy.pooled_output
        given = from_map(map_BCHW, self.anatomy.pooling_layout if name == LAST else self.anatomy.layout)
        if given is None:
            raise InputError(
                "teacher_head_unsupported",
                f"What follows {name} reads tokens, and a map is only a part of them.",
                hint="Let L_SR act at `last`.",
                param="/method/srrl/regression_stages",
            )
        module = self.network.get_submodule(self.anatomy.maps[name])
        if is_input:
            handle = module.register_forward_pre_hook(lambda _module, _inputs: (given,))
        else:
            handle = module.register_forward_hook(lambda _module, _inputs, _output: given)
        try:
            return self._features(self.network(self._blank), self._blank)
        finally:
            handle.remove()

    def _features(self, logits_BK: Tensor, images_BCHW: Tensor) -> Features:
        # Taken out, so that no graph outlives its step.
        seen, self._seen = self._seen, {}
        keys = [_classifier_key(number) for number in range(len(self.anatomy.classifiers))]
        pooled = torch.cat([feature(seen.pop(key)) for key in keys], dim=1)
        size = (images_BCHW.shape[2], images_BCHW.shape[3])
        maps = {
            name: (pooling_map if name == LAST else stage_map)(output, self.anatomy, image_size=size)
            for name, output in seen.items()
        }
        return Features(pooled, logits_BK, maps)

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()


def anatomy_of(network: nn.Module) -> Anatomy:
    """What the network declares of itself."""
    anatomy = network.anatomy
    assert isinstance(anatomy, Anatomy)
    return anatomy


def linear_head(network: nn.Module) -> nn.Linear:
    """The network's head as one linear layer of its own, on the same device: pooled (B, C) to logits (B, K).

    Several classifiers become one that reads their inputs side by side and answers the mean of their logits.

    Raises:
        InputError: ``teacher_head_unsupported`` when the head is no linear layer.
    """
    layers = [network.get_submodule(name) for name in anatomy_of(network).classifiers]
    try:
        parts = [weight_and_bias(layer) for layer in layers]
    except TypeError as error:
        raise _no_linear_head(str(error)) from error
    if not parts:
        raise _no_linear_head("the logits are not linear in one penultimate feature")
    weight_KC = torch.cat([weight.detach() for weight, _ in parts], dim=1) / len(parts)
    head = nn.Linear(weight_KC.shape[1], weight_KC.shape[0], device=weight_KC.device)
    with torch.no_grad():
        head.weight.copy_(weight_KC)
        head.bias.zero_()
        for _, bias in parts:
            if bias is not None:
                head.bias.add_(bias.detach() / len(parts))
    return head


def _no_linear_head(why: str) -> InputError:
    return InputError(
        "teacher_head_unsupported",
        f"The teacher's head cannot be used: {why}.",
        hint="The last layer must be linear.",
        param="/teacher",
    )


@torch.no_grad()
def prove(tap: Tap, classifier: nn.Linear, *, images_BCHW: Tensor, tolerance: float = 1e-3) -> None:
    """Show on real images that the tap sees what the classifier classifies.

    Both sides must hold: the last map's spatial mean is the classifier's input (where the network declares a
    global pooling), and ``W p + b`` are the logits.

    Args:
        tap: of a network in eval mode.
        classifier: the linear layer whose weights L_SR will use.
        images_BCHW: a few normalised images.
        tolerance: largest difference, relative to the largest value compared.

    Raises:
        InputError: ``teacher_head_unsupported``, saying which side failed and by how much.
    """
    seen = tap(images_BCHW)
    if LAST in seen.maps:
        pooled = seen.maps[LAST].float().mean(dim=(2, 3))
        _compare(pooled, seen.pooled_BC, "the mean of the last map is the classifier's input", tolerance)
    logits = nn.functional.linear(seen.pooled_BC.float(), classifier.weight.float(), classifier.bias)
    _compare(logits, seen.logits_BK, "W p + b are the logits", tolerance)


@torch.no_grad()
def prove_resumable(tap: Tap, *, names: Iterable[str], images_BCHW: Tensor, tolerance: float = 1e-3) -> None:
    """Show that everything behind a stage depends on that stage's map alone.

    Args:
        tap: of a network in eval mode; keeps the maps of ``names``.
        names: of stages.

    Raises:
        InputError: ``teacher_head_unsupported``, naming the stage.
    """
    seen = tap(images_BCHW)
    for name in names:
        again = tap.resume(name, seen.maps[name])
        _compare(again.logits_BK, seen.logits_BK, f"behind {name} nothing but its map is read", tolerance)


def _compare(left: Tensor, right: Tensor, claim: str, tolerance: float) -> None:
    fits = left.shape == right.shape
    gap = float((left.float() - right.float()).abs().max()) if fits else float("nan")
    scale = max(1.0, float(right.float().abs().max()))
    if not fits or not gap <= tolerance * scale:
        raise InputError(
            "teacher_head_unsupported",
            f"On {len(right)} probe images it does not hold that {claim}: "
            + (f"they differ by {gap:.3g}." if fits else f"shapes {list(left.shape)}, {list(right.shape)}."),
            hint="SRRL needs a linear classifier, and behind a stage nothing but what follows from it.",
            param="/teacher",
        )


def _classifier_key(number: int) -> str:
    return f"classifier{number}"
