"""Whether a method can be used between two networks, on these data: told before anything is queued. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from distill.anatomy import LAST, stage_names
from distill.errors import InputError
from distill.method_specs import CEMethod, FitNetMethod, MethodSpec, SRRLMethod, SRRLSettings

TaskName = Literal["classification", "landmarks"]

MULTI_STAGE = frozenset({"fitnet", "at", "vid", "nst", "reviewkd"})
"""Methods that match stages of both networks, from the last one back."""
LOGIT_METHODS = frozenset({"kd", "dkd", "dist"})
"""Methods that read logits as probabilities of classes."""
_ANYWHERE = "rkd, pkt, cc, crd and srrl at `last` need no stages"


@dataclass(frozen=True, kw_only=True)
class Side:
    """What is known of a network without building it.

    Attributes:
        num_stages: how many it declares; None when only building it tells.
        pools: whether the classifier reads the mean of a last map; None when only building it tells.
    """

    name: str
    num_stages: int | None
    pools: bool | None


def check_method(
    method: MethodSpec, *, student: Side, teacher: Side, task: TaskName = "classification", is_labelled: bool = True
) -> list[InputError]:
    """Everything that forbids this method, each with its JSON pointer; empty when nothing is known to."""
    if isinstance(method, CEMethod):
        return [] if is_labelled else [_no_labels()]
    found: list[InputError] = []
    for at, one in [("/method", method), *((f"/method/extra/{n}", one) for n, one in enumerate(method.extra))]:
        if task == "landmarks" and one.type in LOGIT_METHODS:
            found.append(_not_of_classes(one.type, f"{at}/type"))
        if one.type in MULTI_STAGE:
            found.extend(_stageless(one.type, side, f"{at}/type") for side in (student, teacher) if _has_none(side))
        if one.type == "simkd":
            found.extend(_poolless(side, f"{at}/type") for side in (student, teacher) if side.pools is False)
        if isinstance(one, FitNetMethod) and one.fitnet.stage not in ("auto", LAST):
            pointers = [f"{at}/fitnet/stage"]
            found.extend(_unknown_stages([one.fitnet.stage], student, teacher, pointers))
        if isinstance(one, SRRLMethod):
            found.extend(_srrl(one.srrl, student, teacher, at=f"{at}/srrl", task=task))
    return found


def _srrl(settings: SRRLSettings, student: Side, teacher: Side, *, at: str, task: TaskName) -> Iterator[InputError]:
    for name in ("stages", "feature_stages", "regression_stages"):
        asked = getattr(settings, name) or []
        yield from _unknown_stages(asked, student, teacher, [f"{at}/{name}/{n}" for n in range(len(asked))])
    if task == "landmarks" and settings.regression_loss != "l2":
        yield InputError(
            "invalid_value",
            f"regression_loss {settings.regression_loss!r} compares probabilities of classes; points have none.",
            hint='Use "l2".',
            param=f"{at}/regression_loss",
        )


def _unknown_stages(asked: list[str], student: Side, teacher: Side, pointers: list[str]) -> Iterator[InputError]:
    for side, (number, stage) in ((s, x) for s in (student, teacher) for x in enumerate(asked)):
        if side.num_stages is None or stage == LAST or stage in stage_names(side.num_stages):
            continue
        common = [s.num_stages for s in (student, teacher) if s.num_stages is not None]
        there = [*stage_names(min(common)), LAST]
        yield InputError(
            "invalid_value",
            f"{side.name} has no {stage}: it has {side.num_stages} stages.",
            hint=f"Both networks have {', '.join(there)}.",
            param=pointers[number],
            did_you_mean=there,
        )


def _has_none(side: Side) -> bool:
    return side.num_stages == 0


def _stageless(kind: str, side: Side, param: str) -> InputError:
    message = f"{kind} matches stages of both networks, and {side.name} declares none."
    return InputError("invalid_value", message, hint=f"Take another method: {_ANYWHERE}.", param=param)


def _poolless(side: Side, param: str) -> InputError:
    return InputError(
        "invalid_value",
        f"simkd projects the map that is pooled, and the classifier of {side.name} reads no mean of a map.",
        hint="srrl with head: teacher reuses the teacher's classifier behind any feature.",
        param=param,
    )


def _not_of_classes(kind: str, param: str) -> InputError:
    message = f"{kind} compares probabilities of classes; points have none."
    return InputError("invalid_value", message, hint="Take srrl, or a method on features.", param=param)


def _no_labels() -> InputError:
    return InputError(
        "invalid_value",
        "Labels alone are asked for, and the data set has none.",
        hint="Any method but ce learns from the teacher.",
        param="/method/type",
    )
