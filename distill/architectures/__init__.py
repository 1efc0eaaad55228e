"""The zoo without PyTorch: what networks there are, what they weigh and cost, and whether weights fit one."""

from distill.architectures.blueprint import Blueprint, Family, ImageInput, LayeredBlueprint, Preprocessing
from distill.architectures.layers import Layer, Shape
from distill.architectures.matching import StartFacts, TeacherFacts, clean_names, match_start, match_state
from distill.architectures.options import PLAIN, Options, PlainOptions
from distill.architectures.zoo import (
    blueprint,
    catalog,
    check,
    feature_width,
    macs,
    names,
    options_of,
    parameters,
    state_shapes,
)

__all__ = [
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
    "blueprint",
    "catalog",
    "check",
    "clean_names",
    "feature_width",
    "macs",
    "match_start",
    "match_state",
    "names",
    "options_of",
    "parameters",
    "state_shapes",
]
