"""transformers' vision transformers, by the names of timm's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.model_folders.family import Found, expect, expect_at_most, number, numbers, timm_network
from distill.model_folders.renaming import Renaming, Rule

# (width, layers, heads, inner width of the MLP)
_SIZES = {
    (192, 12, 3, 768): "tiny",
    (384, 12, 6, 1536): "small",
    (768, 12, 12, 3072): "base",
    (1024, 24, 16, 4096): "large",
    (1280, 32, 16, 5120): "huge",
}
# (width of the first stage, depths, heads)
_SWINS: dict[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2), (3, 6, 12, 24)): "tiny",
    (96, (2, 2, 18, 2), (3, 6, 12, 24)): "small",
    (128, (2, 2, 18, 2), (4, 8, 16, 32)): "base",
    (192, (2, 2, 18, 2), (6, 12, 24, 48)): "large",
}
_TINY_EPSILON = 1e-5  # below it, layer norms of activations differ by less than float32 does over a network's depth
_POOLER = "pooler."  # reads the class token for other tasks


def vit(config: Mapping[str, Any]) -> Found:
    """ViTs that classify by their class token; DeiTs without distillation, which are saved as such, too."""
    size, patch, side, what = _size(config)
    name = size and f"vit_{size}_patch{patch}_{side}"
    return Found(
        architecture=timm_network(name, what=f"a ViT of {what}"),
        renaming=Renaming((*_rules("vit"), Rule("classifier", lambda: "head")), dropped=(f"vit.{_POOLER}",)),
        image_size=side,
    )


def deit(config: Mapping[str, Any]) -> Found:
    """DeiTs that answer with the mean of two classifiers."""
    size, patch, side, what = _size(config)
    rules = (
        *_rules("deit"),
        Rule("deit.embeddings.distillation_token", lambda: "dist_token"),
        Rule("cls_classifier", lambda: "head"),
        Rule("distillation_classifier", lambda: "head_dist"),
    )
    return Found(
        architecture=timm_network(size and f"deit_{size}_distilled_patch{patch}_{side}", what=f"a DeiT of {what}"),
        renaming=Renaming(rules, dropped=(f"deit.{_POOLER}",)),
        image_size=side,
    )


def swin(config: Mapping[str, Any]) -> Found:
    """Swin transformers of the first version."""
    expect(config, hidden_act="gelu", qkv_bias=True, mlp_ratio=4.0, patch_size=4, use_absolute_embeddings=False)
    expect_at_most(config, layer_norm_eps=_TINY_EPSILON)
    width, depths, heads = number(config, "embed_dim", 96), numbers(config, "depths"), numbers(config, "num_heads")
    window, side = number(config, "window_size", 7), number(config, "image_size", 224)
    size = _SWINS.get((width, depths, heads))
    what = f"a Swin of width {width}, depths {list(depths)}, heads {list(heads)}, window {window}, images of {side}"
    block = "swin.encoder.layers.#.blocks.#"

    def to(layer: str) -> Any:
        return lambda s, b: f"layers.{s}.blocks.{b}.{layer}"

    rules = (
        Rule("swin.embeddings.patch_embeddings.projection", lambda: "patch_embed.proj"),
        Rule("swin.embeddings.norm", lambda: "patch_embed.norm"),
        Rule(f"{block}.layernorm_before", to("norm1")),
        *(
            Rule(f"{block}.attention.self.{piece}", to("attn.qkv"), part)
            for part, piece in enumerate(("query", "key", "value"))
        ),
        Rule(f"{block}.attention.self.relative_position_bias_table", to("attn.relative_position_bias_table")),
        Rule(f"{block}.attention.output.dense", to("attn.proj")),
        Rule(f"{block}.layernorm_after", to("norm2")),
        Rule(f"{block}.intermediate.dense", to("mlp.fc1")),
        Rule(f"{block}.output.dense", to("mlp.fc2")),
        # There it is the end of a stage, in timm the beginning of the next.
        Rule("swin.encoder.layers.#.downsample.norm", lambda s: f"layers.{s + 1}.downsample.norm"),
        Rule("swin.encoder.layers.#.downsample.reduction", lambda s: f"layers.{s + 1}.downsample.reduction"),
        Rule("swin.layernorm", lambda: "norm"),
        Rule("classifier", lambda: "head.fc"),
    )
    name = size and f"swin_{size}_patch4_window{window}_{side}"
    # Where each pair of places finds its bias follows from the window; older versions saved it.
    parts = Renaming(rules, dropped=tuple(_index_of(depths)))
    return Found(architecture=timm_network(name, what=what), renaming=parts, image_size=side)


def _index_of(depths: tuple[int, ...]) -> list[str]:
    return [
        f"swin.encoder.layers.{stage}.blocks.{block}.attention.self.relative_position_index"
        for stage, depth in enumerate(depths[:8])
        for block in range(min(depth, 100))
    ]


def _size(config: Mapping[str, Any]) -> tuple[str | None, int, int, str]:
    """Which of the usual sizes it is, its patches' side, its images' side, and all that in words."""
    expect(config, hidden_act="gelu", qkv_bias=True)
    expect_at_most(config, layer_norm_eps=_TINY_EPSILON)
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    width, layers, heads, inner = (number(config, key, default) for key, default in sizes.items())
    patch, side = number(config, "patch_size", 16), number(config, "image_size", 224)
    what = f"width {width}, {layers} layers, {heads} heads, inner width {inner}, patches of {patch}, images of {side}"
    return _SIZES.get((width, layers, heads, inner)), patch, side, what


def _rules(base: str) -> tuple[Rule, ...]:
    block = f"{base}.encoder.layer.#"

    def to(layer: str) -> Any:
        return lambda n: f"blocks.{n}.{layer}"

    return (
        Rule(f"{base}.embeddings.cls_token", lambda: "cls_token"),
        Rule(f"{base}.embeddings.position_embeddings", lambda: "pos_embed"),
        Rule(f"{base}.embeddings.patch_embeddings.projection", lambda: "patch_embed.proj"),
        Rule(f"{block}.layernorm_before", to("norm1")),
        *(
            Rule(f"{block}.attention.attention.{piece}", to("attn.qkv"), part)
            for part, piece in enumerate(("query", "key", "value"))
        ),
        Rule(f"{block}.attention.output.dense", to("attn.proj")),
        Rule(f"{block}.layernorm_after", to("norm2")),
        Rule(f"{block}.intermediate.dense", to("mlp.fc1")),
        Rule(f"{block}.output.dense", to("mlp.fc2")),
        Rule(f"{base}.layernorm", lambda: "norm"),
    )
