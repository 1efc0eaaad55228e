"""The zoo without PyTorch: what networks there are, what they weigh and cost, and whether weights fit one."""

from distill.architectures.matching import TeacherFacts, clean_names, match_state
from distill.architectures.zoo import (
    PLAIN,
    Block,
    Blueprint,
    Family,
    Layer,
    Options,
    PlainOptions,
    blueprint,
    catalog,
    check,
    feature_width,
    layers,
    macs,
    names,
    parameters,
    state_shapes,
)

__all__ = [
    "PLAIN",
    "Block",
    "Blueprint",
    "Family",
    "Layer",
    "Options",
    "PlainOptions",
    "TeacherFacts",
    "blueprint",
    "catalog",
    "check",
    "clean_names",
    "feature_width",
    "layers",
    "macs",
    "match_state",
    "names",
    "parameters",
    "state_shapes",
]
