"""Configs as timm writes them for the hub, and as Limbeck writes them beside a student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill import architectures
from distill.architectures import PLAIN, PlainOptions, timm_names
from distill.data.archive import shown
from distill.errors import InputError
from distill.model_folders.description import Description, classes_of, normalisation_of, refuse
from distill.model_folders.renaming import PLAIN as NO_RENAMING
from distill.model_folders.renaming import Renaming

_WRAPPER = "timm_wrapper"
# What changes neither the network's layers nor what they answer, once it is trained.
_HARMLESS = frozenset(
    {"num_classes", "in_chans", "global_pool", "drop_rate", "drop_path_rate", "proj_drop_rate", "attn_drop_rate"}
)
_OPTIONS = ("width", "stem_stride")
_TOLD = ("input_size", "interpolation", "crop_pct", "crop_mode")


def is_timm(config: Mapping[str, Any]) -> bool:
    """Whether a config is of this form; transformers' own wrapper of timm's networks included."""
    return isinstance(config.get("architecture"), str)


def read(config: Mapping[str, Any]) -> Description:
    """What a config says.

    Raises:
        InputError: ``architecture_unknown`` or ``invalid_value``.
    """
    asked = str(config["architecture"])
    options, arguments = _options(config)
    published = _mapping(config, "pretrained_cfg")
    _check_arguments(asked, arguments, published)
    return Description(
        form="timm",
        architectures=_candidates(asked, options),
        options=options,
        classes=classes_of(config.get("label_names") or published.get("label_names")),
        normalisation=normalisation_of(published.get("mean"), published.get("std")),
        renaming=Renaming(prefix="timm_model.") if config.get("model_type") == _WRAPPER else NO_RENAMING,
        facts={"architecture": shown(asked), **_pooling(config, arguments), **_told(published)},
    )


def _candidates(asked: str, options: PlainOptions) -> tuple[str, ...]:
    """The zoo's own network of this name, and timm's: both have a resnet18, and only the weights tell."""
    plain = asked.removeprefix(timm_names.PREFIX).split(".")[0]
    own = [] if asked.startswith(timm_names.PREFIX) or architectures.family_of(plain) is None else [plain]
    name = timm_names.PREFIX + plain
    theirs = [name] if options == PLAIN and timm_names.facts(name) is not None else []
    if not own and not theirs:
        raise refuse(f"There is no network called {shown(asked)}.", did_you_mean=timm_names.nearest(plain))
    return (*own, *theirs)


def _options(config: Mapping[str, Any]) -> tuple[PlainOptions, dict[str, Any]]:
    """Options of our own networks, and what else the network was made with."""
    arguments = dict(_mapping(config, "model_args"))
    given = {key: arguments.pop(key) for key in _OPTIONS if key in arguments}
    given |= {key: value for key, value in _mapping(config, "options").items() if key in _OPTIONS}
    width, stride = given.get("width", PLAIN.width), given.get("stem_stride", PLAIN.stem_stride)
    if not (isinstance(width, int | float) and 0 < width <= 16 and stride in (1, 2)):
        message = f"The config's options are not ours: width {shown(str(width))}, stem stride {shown(str(stride))}."
        raise InputError("invalid_value", message, hint="The width is at most 16, the stem stride 1 or 2.")
    return PlainOptions(width=float(width), stem_stride=int(stride)), arguments


def _check_arguments(asked: str, arguments: Mapping[str, Any], published: Mapping[str, Any]) -> None:
    """Arguments that make another network of a name are refused: it would load, and answer something else."""
    facts = timm_names.facts(timm_names.PREFIX + asked.removeprefix(timm_names.PREFIX).split(".")[0])
    size = facts and list(facts.image_size)
    harmless = set(_HARMLESS)
    if facts is not None and arguments.get("img_size") in (size, facts.image_size[0]) and len(set(size or ())) == 1:
        harmless.add("img_size")
    other = sorted(str(key) for key in arguments if key not in harmless)
    if other:
        message = f"The config makes {shown(asked)} with arguments of its own: {shown(', '.join(other))}."
        raise InputError("invalid_value", message, hint="Export it to ONNX, and send that.")
    given = published.get("input_size")
    if facts is not None and facts.fixed_size and isinstance(given, list) and given[1:] != size:
        message = f"{shown(asked)} takes images of {size} only, and the config says {shown(str(given[1:]))}."
        raise InputError("invalid_value", message, hint="Export it to ONNX, and send that.")


def _pooling(config: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """How maps or tokens become the feature: weights of one way fit the others, too, so a worker compares it."""
    found = arguments.get("global_pool", config.get("global_pool"))
    return {} if found is None else {"global_pool": shown(str(found))}


def _told(published: Mapping[str, Any]) -> dict[str, Any]:
    """Of what is published with the weights, what can be repeated in a report: short texts and sound numbers."""
    told = {key: published.get(key) for key in _TOLD}
    return {key: shown(value) if isinstance(value, str) else value for key, value in told.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 3 and all(isinstance(item, int) and _is_plain(item) for item in value)
    return isinstance(value, str) or (isinstance(value, int | float) and 0 <= value < 1e6)


def _mapping(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = config.get(key)
    return found if isinstance(found, dict) else {}
