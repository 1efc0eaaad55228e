"""transformers' convolutional networks, by the names of timm's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

from distill.architectures import timm_names
from distill.model_folders.family import Found, expect, number, numbers, timm_network
from distill.model_folders.renaming import Renaming, Rule

_BASIC, _WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)
_RESNETS: dict[tuple[str, tuple[int, ...], tuple[int, ...]], str] = {
    ("basic", (2, 2, 2, 2), _BASIC): "resnet18",
    ("basic", (3, 4, 6, 3), _BASIC): "resnet34",
    ("bottleneck", (2, 2, 2, 2), _WIDE): "resnet26",
    ("bottleneck", (3, 4, 6, 3), _WIDE): "resnet50",
    ("bottleneck", (3, 4, 23, 3), _WIDE): "resnet101",
    ("bottleneck", (3, 8, 36, 3), _WIDE): "resnet152",
}
_CONVNEXTS: dict[tuple[tuple[int, ...], tuple[int, ...]], str] = {
    ((3, 3, 9, 3), (96, 192, 384, 768)): "convnext_tiny",
    ((3, 3, 27, 3), (96, 192, 384, 768)): "convnext_small",
    ((3, 3, 27, 3), (128, 256, 512, 1024)): "convnext_base",
    ((3, 3, 27, 3), (192, 384, 768, 1536)): "convnext_large",
    ((3, 3, 27, 3), (256, 512, 1024, 2048)): "convnext_xlarge",
}
# (width, depth) coefficients
_EFFICIENTNETS = {
    (1.0, 1.0): "tf_efficientnet_b0",
    (1.0, 1.1): "tf_efficientnet_b1",
    (1.1, 1.2): "tf_efficientnet_b2",
    (1.2, 1.4): "tf_efficientnet_b3",
    (1.4, 1.8): "tf_efficientnet_b4",
    (1.6, 2.2): "tf_efficientnet_b5",
    (1.8, 2.6): "tf_efficientnet_b6",
    (2.0, 3.1): "tf_efficientnet_b7",
}
_EFFICIENTNET_REPEATS = [1, 2, 2, 3, 3, 4, 1]


def resnet(config: Mapping[str, Any]) -> Found:
    """ResNets whose stride is in the 3x3 convolution, as timm's is."""
    kind, depths = str(config.get("layer_type", "bottleneck")), numbers(config, "depths")
    widths = numbers(config, "hidden_sizes")
    expect(
        config, embedding_size=64, hidden_act="relu", downsample_in_first_stage=False, downsample_in_bottleneck=False
    )
    what = f"a ResNet of {kind} layers, depths {list(depths)}, widths {list(widths)}"
    block = "resnet.encoder.stages.#.layers.#"
    rules = (
        Rule("resnet.embedder.embedder.convolution", lambda: "conv1"),
        Rule("resnet.embedder.embedder.normalization", lambda: "bn1"),
        Rule(f"{block}.shortcut.convolution", lambda s, b: f"layer{s + 1}.{b}.downsample.0"),
        Rule(f"{block}.shortcut.normalization", lambda s, b: f"layer{s + 1}.{b}.downsample.1"),
        Rule(f"{block}.layer.#.convolution", lambda s, b, n: f"layer{s + 1}.{b}.conv{n + 1}"),
        Rule(f"{block}.layer.#.normalization", lambda s, b, n: f"layer{s + 1}.{b}.bn{n + 1}"),
        Rule("classifier.1", lambda: "fc"),
    )
    return Found(architecture=timm_network(_RESNETS.get((kind, depths, widths)), what=what), renaming=Renaming(rules))


def convnext(config: Mapping[str, Any]) -> Found:
    """ConvNeXts of the first paper, from tiny to xlarge."""
    depths, widths = numbers(config, "depths"), numbers(config, "hidden_sizes")
    expect(config, patch_size=4, hidden_act="gelu")
    block = "convnext.encoder.stages.#.layers.#"
    rules = (
        Rule("convnext.embeddings.patch_embeddings", lambda: "stem.0"),
        Rule("convnext.embeddings.layernorm", lambda: "stem.1"),
        Rule("convnext.encoder.stages.#.downsampling_layer.#", lambda s, n: f"stages.{s}.downsample.{n}"),
        Rule(f"{block}.dwconv", lambda s, b: f"stages.{s}.blocks.{b}.conv_dw"),
        Rule(f"{block}.layernorm", lambda s, b: f"stages.{s}.blocks.{b}.norm"),
        Rule(f"{block}.pwconv#", lambda s, b, n: f"stages.{s}.blocks.{b}.mlp.fc{n}"),
        Rule(f"{block}.layer_scale_parameter", lambda s, b: f"stages.{s}.blocks.{b}.gamma"),
        Rule("convnext.layernorm", lambda: "head.norm"),
        Rule("classifier", lambda: "head.fc"),
    )
    what = f"a ConvNeXt of depths {list(depths)}, widths {list(widths)}"
    return Found(architecture=timm_network(_CONVNEXTS.get((depths, widths)), what=what), renaming=Renaming(rules))


def regnet(config: Mapping[str, Any]) -> Found:
    """RegNets X and Y; the widths of the stages tell which."""
    kind, widths = str(config.get("layer_type", "y")), numbers(config, "hidden_sizes")
    expect(config, embedding_size=32, hidden_act="relu", downsample_in_first_stage=True)
    known = (
        name
        for name in timm_names.names()
        if name.removeprefix(f"{timm_names.PREFIX}regnet{kind}_").isdigit()
        and (facts := timm_names.facts(name)) is not None
        and facts.stage_widths == widths
    )
    name = next(known, "").removeprefix(timm_names.PREFIX) or None
    block = "regnet.encoder.stages.#.layers.#"
    # A third convolution stands behind the attention, where there is one.
    third = {"x": 2, "y": 3}.get(kind, 3)
    rules = (
        Rule("regnet.embedder.embedder.convolution", lambda: "stem.conv"),
        Rule("regnet.embedder.embedder.normalization", lambda: "stem.bn"),
        Rule(f"{block}.shortcut.convolution", lambda s, b: f"s{s + 1}.b{b + 1}.downsample.conv"),
        Rule(f"{block}.shortcut.normalization", lambda s, b: f"s{s + 1}.b{b + 1}.downsample.bn"),
        Rule(f"{block}.layer.2.attention.0", lambda s, b: f"s{s + 1}.b{b + 1}.se.fc1"),
        Rule(f"{block}.layer.2.attention.2", lambda s, b: f"s{s + 1}.b{b + 1}.se.fc2"),
        Rule(f"{block}.layer.{third}.convolution", lambda s, b: f"s{s + 1}.b{b + 1}.conv3.conv"),
        Rule(f"{block}.layer.{third}.normalization", lambda s, b: f"s{s + 1}.b{b + 1}.conv3.bn"),
        Rule(f"{block}.layer.#.convolution", lambda s, b, n: f"s{s + 1}.b{b + 1}.conv{n + 1}.conv"),
        Rule(f"{block}.layer.#.normalization", lambda s, b, n: f"s{s + 1}.b{b + 1}.conv{n + 1}.bn"),
        Rule("classifier.1", lambda: "head.fc"),
    )
    what = f"a RegNet {kind} of widths {list(widths)}"
    return Found(architecture=timm_network(name, what=what), renaming=Renaming(rules))


def efficientnet(config: Mapping[str, Any]) -> Found:
    """EfficientNets b0 to b7, which pad as TensorFlow does."""
    width, depth = float(config.get("width_coefficient", 2.0)), float(config.get("depth_coefficient", 3.1))
    expect(
        config,
        depth_divisor=8,
        kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        in_channels=[32, 16, 24, 40, 80, 112, 192],
        out_channels=[16, 24, 40, 80, 112, 192, 320],
        strides=[1, 2, 2, 2, 1, 2, 1],
        num_block_repeats=_EFFICIENTNET_REPEATS,
        expand_ratios=[1, 6, 6, 6, 6, 6, 6],
        squeeze_expansion_ratio=0.25,
        hidden_act="swish",
        pooling_type="mean",
        batch_norm_eps=0.001,
    )
    what = f"an EfficientNet of width {width:g} and depth {depth:g}"
    name = timm_network(_EFFICIENTNETS.get((width, depth)), what=what)
    return Found(
        architecture=name,
        renaming=Renaming(_efficientnet_rules(depth)),
        image_size=number(config, "image_size", 600),
    )


def _efficientnet_rules(depth: float) -> tuple[Rule, ...]:
    repeats = [math.ceil(depth * count) for count in _EFFICIENTNET_REPEATS]
    starts = [0, *itertools.accumulate(repeats)]
    block = "efficientnet.encoder.blocks.#"

    def place(number: int) -> str:
        stage = max(s for s, start in enumerate(starts[:-1]) if start <= number)
        return f"blocks.{stage}.{number - starts[stage]}"

    def in_first(first: str, later: str) -> Any:
        """Blocks of the first stage do not expand, so that their layers count from one less."""
        return lambda number: f"{place(number)}.{first if number < starts[1] else later}"

    return (
        Rule("efficientnet.embeddings.convolution", lambda: "conv_stem"),
        Rule("efficientnet.embeddings.batchnorm", lambda: "bn1"),
        Rule(f"{block}.expansion.expand_conv", lambda n: f"{place(n)}.conv_pw"),
        Rule(f"{block}.expansion.expand_bn", lambda n: f"{place(n)}.bn1"),
        Rule(f"{block}.depthwise_conv.depthwise_conv", lambda n: f"{place(n)}.conv_dw"),
        Rule(f"{block}.depthwise_conv.depthwise_norm", in_first("bn1", "bn2")),
        Rule(f"{block}.squeeze_excite.reduce", lambda n: f"{place(n)}.se.conv_reduce"),
        Rule(f"{block}.squeeze_excite.expand", lambda n: f"{place(n)}.se.conv_expand"),
        Rule(f"{block}.projection.project_conv", in_first("conv_pw", "conv_pwl")),
        Rule(f"{block}.projection.project_bn", in_first("bn2", "bn3")),
        Rule("efficientnet.encoder.top_conv", lambda: "conv_head"),
        Rule("efficientnet.encoder.top_bn", lambda: "bn2"),
        Rule("classifier", lambda: "classifier"),
    )
