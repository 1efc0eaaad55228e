"""Finding the parts of a foreign network by watching it work: what is claimed of it here was seen to hold.

The names that a library publishes are only where the search begins. One forward pass of random images shows
which layers make the logits, whether a mean over places is what they read, and how the maps lie in memory.
Some networks keep their tokens in an order of their own: so the images differ in one quarter only, and tokens
are no map where other places change.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill.anatomy import Anatomy, Layout
from distill.layouts import feature, to_map, weight_and_bias
from distill.networks.watching import Record, Side, Sight, moved_vectors, probe_images, quarters, watch

# Of the largest value compared. The mean of a map is taken again in the same precision; a convolution that
# classifies may round to TF32, which the linear layer beside it does not.
MEAN_TOLERANCE, LOGITS_TOLERANCE = 1e-4, 3e-3
LOCAL = 2.0  # times the change elsewhere
IN_PLACE = 0.4  # of the changed places; of tokens in another order a quarter, of coarse maps in order half
MAX_STAGES = 4


class Announced(NamedTuple):
    """A map that a network announces: its module, its channels, and how many pixels wide a place is."""

    module: str
    width: int
    reduction: int | None


@dataclass(frozen=True, kw_only=True)
class Findings:
    """An anatomy and the widths of its parts.

    Attributes:
        proved: whether numbers were compared; on the meta device there are none, and then the classifiers
            are those that would be and ``anatomy.pooling`` is None whether there is one or not.
        stage_widths: channels of each stage.
        feature_widths: what each classifier reads.
    """

    anatomy: Anatomy
    proved: bool
    stage_widths: tuple[int, ...]
    feature_widths: tuple[int, ...]


def dissect(
    network: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    announced: Sequence[Announced],
    heads: Sequence[nn.Module],
    num_classes: int,
    num_prefix_tokens: int,
) -> Findings:
    """The parts of a network, seen in one forward pass; the network is left as it was.

    Args:
        image_shape: (C, H, W) of the images to show to it.
        announced: maps in a row, in the order of the network.
        heads: modules that hold, or are, the last linear layers.
    """
    images = probe_images(network, image_shape)
    candidates = [name for name, module in network.named_modules() if _may_classify(module, heads, num_classes)]
    places = _places(network, choose(announced))
    values = moved_vectors(network)
    record = watch(network, images, values, keep=[*candidates, *(name for names, _ in places for name in names)])
    reader = _MapReader(num_prefix_tokens, image_size=image_shape[1:])
    proved = images.device.type != "meta"
    classifiers = _classifiers(network, record, values, candidates, proved=proved)
    pooling = _pooling(record, classifiers, reader) if proved and classifiers else None
    stages, layout = _stages(record, places, reader)
    anatomy = Anatomy(
        stages=tuple(stages),
        pooling=pooling.module if pooling else None,
        classifiers=tuple(classifiers),
        layout=layout,
        pooling_layout=pooling.layout if pooling else "nchw",
        pooled_output=pooling is not None and pooling.side == "output",
        num_prefix_tokens=num_prefix_tokens,
    )
    return Findings(
        anatomy=anatomy,
        proved=proved,
        stage_widths=tuple(stages.values()),
        feature_widths=tuple(_feature(record, name).shape[1] for name in classifiers),
    )


def choose(announced: Sequence[Announced]) -> list[Announced]:
    """At most four in a row: the last ones, or of blocks that all have the same places, evenly spaced ones."""
    if len({entry.reduction for entry in announced}) > 1:
        return list(announced[-MAX_STAGES:])
    if len(announced) <= MAX_STAGES:
        return list(announced)
    return [announced[-(-len(announced) * part // MAX_STAGES) - 1] for part in range(1, MAX_STAGES + 1)]


# A name that some networks announce, and where that module is when the network classifies.
_ELSEWHERE = (
    (r"^", "encoder."),
    (r"^block\.", "blocks."),
    (r"^block\.", "stages."),
    (r"^stage1$", "incre_modules.0"),
    (r"^stage2$", "incre_modules.1"),
    (r"^stage3$", "incre_modules.2"),
    (r"^stage4$", "incre_modules.3"),
)


def _places(network: nn.Module, announced: Sequence[Announced]) -> list[tuple[list[str], int]]:
    """For each announced map the modules that may put it out, and its channels."""
    if len({entry.module for entry in announced}) < len(announced):
        return []  # several branches leave one module: there is no single map
    modules = dict(network.named_modules())
    places = []
    for announced_name, width, _ in announced:
        names = [announced_name, *(re.sub(pattern, new, announced_name) for pattern, new in _ELSEWHERE)]
        names = [name for name in dict.fromkeys(names) if name and name in modules]
        # A list of modules is never called itself.
        lists = {name: module for name in names if isinstance(module := modules[name], nn.ModuleList)}
        places.append(([f"{name}.{len(lists[name]) - 1}" if name in lists else name for name in names], width))
    return places


def _may_classify(module: nn.Module, heads: Sequence[nn.Module], num_classes: int) -> bool:
    if isinstance(module, nn.Linear):
        fits = module.out_features == num_classes
    elif isinstance(module, nn.Conv2d):
        fits = module.out_channels == num_classes and module.kernel_size == (1, 1) and module.groups == 1
    else:
        return False
    return fits and any(module is part for head in heads for part in head.modules())


def _feature(record: Record, classifier: str) -> Tensor:
    sight = record.only(classifier, "input")
    assert sight is not None
    return feature(sight.tensor)


def _classifiers(
    network: nn.Module, record: Record, values: dict[str, Tensor], candidates: list[str], *, proved: bool
) -> list[str]:
    """Those whose logits' mean is the answer; none where that is not so."""
    called = [name for name in candidates if _reads_a_vector(network, record, name)]
    if record.logits is None or not called:
        return []
    if not proved:
        return called
    answers = {name: _answer(network, record, values, name) for name in called}
    # A hidden layer of the head may happen to be as wide as the answer.
    for names in (called, called[-1:]):
        parts = [answers[name] for name in names]
        if all(part.shape == record.logits.shape for part in parts) and _close(
            torch.stack(parts).mean(dim=0), record.logits, tolerance=LOGITS_TOLERANCE
        ):
            return names
    return []


def _reads_a_vector(network: nn.Module, record: Record, classifier: str) -> bool:
    weight, _ = weight_and_bias(network.get_submodule(classifier))
    return record.only(classifier, "input") is not None and _feature(record, classifier).shape[1:] == weight.shape[1:]


def _answer(network: nn.Module, record: Record, values: dict[str, Tensor], classifier: str) -> Tensor:
    weight, bias = weight_and_bias(network.get_submodule(classifier))
    return F.linear(_feature(record, classifier), weight, values.get(f"{classifier}.bias", bias))


class _Pooling(NamedTuple):
    module: str
    side: Side
    layout: Layout


def _pooling(record: Record, classifiers: list[str], reader: _MapReader) -> _Pooling | None:
    """The module at whose input or output lies the map whose mean every classifier reads.

    The input of a module that is called pooling comes first, then the last output of any module.
    """
    target, *others = (_feature(record, name) for name in classifiers)
    if any(other.shape != target.shape or not _close(other, target, tolerance=MEAN_TOLERANCE) for other in others):
        return None
    pools = [sight for sight in record.last if sight.side == "input" and "pool" in sight.module.rsplit(".", 1)[-1]]
    outputs = [sight for sight in reversed(record.last) if sight.side == "output"]
    for sight in (*pools, *outputs):
        for layout, map_BCHW in reader.readings(sight):
            is_map = sight.side == "input" or map_BCHW[0, 0].numel() > 1
            mean = map_BCHW.mean(dim=(2, 3))
            if is_map and mean.shape == target.shape and _close(mean, target, tolerance=MEAN_TOLERANCE):
                return _Pooling(sight.module, sight.side, layout)
    return None


@dataclass(frozen=True)
class _MapReader:
    """Reads tensors as maps, for the images that are being shown."""

    num_prefix_tokens: int
    image_size: tuple[int, int]

    def readings(self, sight: Sight) -> list[tuple[Layout, Tensor]]:
        """Every layout in which what was seen is a map, with that map (B, C, H, W)."""
        if not sight.unchanged:  # in place: who keeps this tensor finds something else in it later
            return []
        layouts: tuple[Layout, ...] = ("tokens",) if sight.tensor.dim() == 3 else ("nchw", "nhwc")
        found = []
        for layout in layouts:
            with contextlib.suppress(ValueError):
                map_BCHW = to_map(
                    sight.tensor, layout, num_prefix_tokens=self.num_prefix_tokens, image_size=self.image_size
                )
                found.append((layout, map_BCHW))
        return found


def _stages(record: Record, places: list[tuple[list[str], int]], reader: _MapReader) -> tuple[dict[str, int], Layout]:
    """Stage -> channels for those whose output is a map with the announced channels, and the layout of all."""
    possible: dict[str, set[Layout]] = {}
    widths = {}
    for names, width in places:
        for name in names:
            sight = record.only(name, "output")
            readings = reader.readings(sight) if sight else []
            layouts = {
                layout
                for layout, found in readings
                if found.shape[1] == width and (layout != "tokens" or _lies_in_place(found))
            }
            if layouts:
                possible[name], widths[name] = layouts, width
                break
    # Three dimensions tell themselves; the others must agree.
    flat = [layouts for layouts in possible.values() if layouts != {"tokens"}]
    if not flat:
        return widths, "tokens" if widths else "nchw"
    agreed = set.intersection(*flat)
    if not agreed:
        return {}, "nchw"
    return widths, "nchw" if "nchw" in agreed else "nhwc"


def _lies_in_place(map_BCHW: Tensor) -> bool:
    """Whether the places that changed most are those of the quarter that the images differ in.

    True where nothing can be told: of few places, of a map that changed all over, and without numbers.
    """
    if min(map_BCHW.shape[2:]) < 2 or map_BCHW.device.type == "meta":
        return True
    changes_2HW = (map_BCHW[1:] - map_BCHW[:1]).abs().mean(dim=1)
    for change_HW, quarter in zip(changes_2HW, quarters(changes_2HW[0].shape), strict=True):
        num_changed = change_HW[quarter].numel()
        least = change_HW.flatten().topk(num_changed).values[-1]
        changed_HW = change_HW >= least
        is_local = change_HW[changed_HW].mean() > LOCAL * change_HW[~changed_HW].mean()
        if is_local and changed_HW[quarter].float().mean() < IN_PLACE:
            return False
    return True


def _close(left: Tensor, right: Tensor, *, tolerance: float) -> bool:
    gap, scale = (left - right).abs().max(), right.abs().max()
    return bool(gap <= tolerance * scale) and bool(scale > 0)
