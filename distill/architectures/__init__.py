"""The zoo without PyTorch: what networks there are, what they weigh and cost, and whether weights fit one."""

from distill.architectures.blueprint import Blueprint, Family, ImageInput, LayeredBlueprint, Preprocessing
from distill.architectures.by_file import AUTO, ONNX
from distill.architectures.layers import BITS, Layer, Shape
from distill.architectures.matching import (
    NUM_REPORTED,
    StartFacts,
    TeacherFacts,
    clean_names,
    match_start,
    match_state,
)
from distill.architectures.options import PLAIN, Options, PlainOptions
from distill.architectures.wrapping import Tree, Unwrap, Weights, unwrap, unwrap_student
from distill.architectures.zoo import (
    blueprint,
    catalog,
    check,
    family_of,
    feature_width,
    macs,
    names,
    options_of,
    parameters,
    state_shapes,
)

__all__ = [
    "AUTO",
    "BITS",
    "NUM_REPORTED",
    "ONNX",
    "PLAIN",
    "Blueprint",
    "Family",
    "ImageInput",
    "Layer",
    "LayeredBlueprint",
    "Options",
    "PlainOptions",
    "Preprocessing",
    "Shape",
    "StartFacts",
    "TeacherFacts",
    "Tree",
    "Unwrap",
    "Weights",
    "blueprint",
    "catalog",
    "check",
    "clean_names",
    "family_of",
    "feature_width",
    "macs",
    "match_start",
    "match_state",
    "names",
    "options_of",
    "parameters",
    "state_shapes",
    "unwrap",
    "unwrap_student",
]
