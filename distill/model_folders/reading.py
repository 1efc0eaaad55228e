"""From a folder's configs to what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distill.model_folders import timm_form, transformers_form
from distill.model_folders.contents import Contents
from distill.model_folders.description import Description, Normalisation, normalisation_of, refuse

_BYTE = 255.0


def describe(contents: Contents) -> Description:
    """What the configs of a folder say.

    Raises:
        InputError: ``architecture_unknown`` for a network that is not read, with the way out; ``invalid_value`` for
            arguments that are not read; ``upload_corrupt`` for a config that is malformed.
    """
    found = check_config(contents.config)
    if found.normalisation is None and contents.images is not None:
        return replace(found, normalisation=_normalisation(contents.images))
    return found


def check_config(config: Mapping[str, Any]) -> Description:
    """What the config of a network says by itself; errors are those of :func:`describe`."""
    if timm_form.is_timm(config):
        return timm_form.read(config)
    if transformers_form.is_transformers(config):
        return transformers_form.read(config)
    raise refuse("The config names no network: it has neither architecture nor architectures.")


def _normalisation(images: Mapping[str, Any]) -> Normalisation | None:
    """As transformers' image processors do it, of images in [0, 1]; None where the config does not tell."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if images.get("do_normalize", True) is False:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    else:
        given = normalisation_of(images.get("image_mean"), images.get("image_std"))
        if given is None:
            return None
        mean, std = given.mean, given.std
        # EfficientNet's divides a second time before its classifier.
        if "EfficientNet" in str(images.get("image_processor_type")) and images.get("include_top") is True:
            std = tuple(value * value for value in std)
    factor = images.get("rescale_factor", 1 / _BYTE) if images.get("do_rescale", True) else 1.0
    if images.get("rescale_offset") or not isinstance(factor, int | float) or not 1e-6 < factor <= 1:
        return None
    # (255 x f - mean) / std of an image x in [0, 1].
    scale = _BYTE * factor
    if abs(scale - 1) < 1e-6:
        scale = 1.0
    return Normalisation(mean=tuple(value / scale for value in mean), std=tuple(value / scale for value in std))
