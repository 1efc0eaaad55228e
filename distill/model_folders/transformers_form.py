"""Configs as transformers writes them: what its networks for image classification are called in timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distill.data.archive import shown
from distill.errors import InputError
from distill.model_folders import convolutional, vision_transformers
from distill.model_folders.description import MAX_CLASSES, Description, classes_of, refuse
from distill.model_folders.family import Found

# Class of the network -> how its config is read. Nothing else is taken for a network: the names are compared, never
# looked up.
_FAMILIES: Mapping[str, Callable[[Mapping[str, Any]], Found]] = {
    "ResNetForImageClassification": convolutional.resnet,
    "ConvNextForImageClassification": convolutional.convnext,
    "RegNetForImageClassification": convolutional.regnet,
    "EfficientNetForImageClassification": convolutional.efficientnet,
    "ViTForImageClassification": vision_transformers.vit,
    "DeiTForImageClassificationWithTeacher": vision_transformers.deit,
    "SwinForImageClassification": vision_transformers.swin,
}


def is_transformers(config: Mapping[str, Any]) -> bool:
    """Whether a config is of this form."""
    return isinstance(config.get("architectures"), list) or isinstance(config.get("model_type"), str)


def read(config: Mapping[str, Any]) -> Description:
    """What a config says of the network.

    Raises:
        InputError: ``architecture_unknown``, another class of network, or one that timm has not.
    """
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str) else ""
    read_family = _FAMILIES.get(name)
    if read_family is None:
        said = shown(name or f"model_type {config.get('model_type')!s:.60}")
        raise refuse(f"The config is of {said}, which is not read.")
    try:
        found = read_family(config)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        message = f"The config of {name} is malformed: {type(error).__name__} {str(error)[:80]}."
        raise InputError("upload_corrupt", message, hint="Save the network again, by save_pretrained.") from error
    return Description(
        form="transformers",
        architectures=(found.architecture,),
        classes=_classes(config.get("id2label")),
        renaming=found.renaming,
        facts={"architecture": name, **({"image_size": found.image_size} if found.image_size else {})},
    )


def _classes(by_number: Any) -> tuple[str, ...] | None:
    """Names by the numbers of outputs, which JSON has made strings; None unless they count 0, 1, 2 without gaps."""
    if not isinstance(by_number, dict) or not 0 < len(by_number) <= MAX_CLASSES:
        return None
    return classes_of([by_number.get(str(number)) for number in range(len(by_number))])
