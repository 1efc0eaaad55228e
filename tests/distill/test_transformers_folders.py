"""Folders that transformers saved, against transformers' own networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from distill.adoption import adopt
from distill.errors import InputError
from distill.networks.torchvision_shim import import_torchvision
from distill.registry import build_network, load_weights
from distill.spec import NetworkOptions
from distill.tensorfile import read_header
from tests.fixtures.model_folders import CLASSES, shake

import_torchvision()  # before transformers looks for it: on a torch without CUDA the plain import fails
transformers = pytest.importorskip("transformers")

LABELS = dict(enumerate(CLASSES))
TINY_VIT = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}


def made(family: str, kind: str = "ForImageClassification", **config: Any) -> Any:
    """A network of transformers with random weights, of which none is like another."""
    torch.manual_seed(0)
    settings = getattr(transformers, f"{family}Config")(id2label=LABELS, label2id={}, **config)
    network = getattr(transformers, f"{family}{kind}")(settings)
    shake(network)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        for convolution in [module for module in network.modules() if isinstance(module, nn.Conv2d)]:
            nn.init.kaiming_normal_(convolution.weight)
        with torch.no_grad():  # statistics that go with the weights: else activations die out over the layers
            network.train()(pixel_values=torch.randn(8, 3, 64, 64))
    return network.eval()


def adopted(network: Any, folder: Path, *, max_shard_size: str = "5GB") -> tuple[nn.Module, dict[str, Any]]:
    """The teacher that the saved network becomes, and what its configs said."""
    network.save_pretrained(folder / "saved", max_shard_size=max_shard_size)
    target = folder / "teacher.safetensors"
    found = adopt(folder / "saved", target, may_unpickle=False)
    options = NetworkOptions.model_validate(found["options"])
    teacher = build_network(
        found["architecture"], options=options, num_classes=found["num_classes"], in_channels=found["in_channels"]
    )
    load_weights(teacher, target)
    return teacher.eval(), found


NETWORKS: dict[str, tuple[str, int, Callable[[], Any]]] = {
    "ResNet of basic blocks": (
        "timm/resnet18",
        64,
        lambda: made("ResNet", layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512]),
    ),
    "ResNet-50": ("timm/resnet50", 64, lambda: made("ResNet")),
    "ConvNeXt": ("timm/convnext_tiny", 64, lambda: made("ConvNext")),
    "RegNet X": (
        "timm/regnetx_002",
        64,
        lambda: made("RegNet", layer_type="x", depths=[1, 1, 4, 7], hidden_sizes=[24, 56, 152, 368], groups_width=8),
    ),
    "RegNet Y": (
        "timm/regnety_002",
        64,
        lambda: made("RegNet", layer_type="y", depths=[1, 1, 4, 7], hidden_sizes=[24, 56, 152, 368], groups_width=8),
    ),
    "EfficientNet b0": (
        "timm/tf_efficientnet_b0",
        224,
        lambda: made("EfficientNet", width_coefficient=1.0, depth_coefficient=1.0, image_size=224, hidden_dim=1280),
    ),
    "EfficientNet b1": (
        "timm/tf_efficientnet_b1",
        96,
        lambda: made("EfficientNet", width_coefficient=1.0, depth_coefficient=1.1, image_size=240, hidden_dim=1280),
    ),
    "ViT": ("timm/vit_tiny_patch16_224", 224, lambda: made("ViT", **TINY_VIT)),
    "DeiT": (
        "timm/deit_tiny_distilled_patch16_224",
        224,
        lambda: made("DeiT", "ForImageClassificationWithTeacher", **TINY_VIT),
    ),
    "Swin": ("timm/swin_tiny_patch4_window7_224", 224, lambda: made("Swin")),
}


@pytest.mark.parametrize(("name", "side", "make"), NETWORKS.values(), ids=NETWORKS)
def test_the_teacher_answers_what_transformers_network_answers(
    tmp_path: Path, name: str, side: int, make: Callable[[], Any]
) -> None:
    network = make()

    teacher, found = adopted(network, tmp_path)

    assert (found["architecture"], found["num_classes"], found["in_channels"]) == (name, 5, 3)
    assert found["file"]["ignored"] == []
    images = torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected, logits = network(pixel_values=images).logits, teacher(images)
    assert (expected[0] - expected[1]).abs().max() > 1e-2  # they do depend on the image
    assert torch.allclose(logits, expected, atol=1e-4, rtol=0)


def test_classes_and_normalisation_stand_in_the_new_files_header(tmp_path: Path) -> None:
    network = made("ResNet", layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])
    processor = transformers.ViTImageProcessor(image_mean=[0.5, 0.25, 0.75], image_std=[0.1, 0.2, 0.3])
    (tmp_path / "saved").mkdir()
    processor.save_pretrained(tmp_path / "saved")

    adopted(network, tmp_path)

    metadata = read_header(tmp_path / "teacher.safetensors").metadata
    assert json.loads(metadata["classes"]) == CLASSES
    assert json.loads(metadata["mean"]) == [0.5, 0.25, 0.75]
    assert json.loads(metadata["std"]) == [0.1, 0.2, 0.3]


def test_normalisation_is_what_the_image_processor_computes(tmp_path: Path) -> None:
    """EfficientNet's divides twice; and with another factor the numbers are for images in another range."""
    pixels = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(4))
    processors = {
        "twice": transformers.EfficientNetImageProcessor(
            image_mean=[0.485, 0.456, 0.406], image_std=[0.4785, 0.4732, 0.4743], include_top=True, do_resize=False
        ),
        "factor": transformers.ViTImageProcessor(
            image_mean=[1.0, 1.1, 1.2], image_std=[0.5, 0.6, 0.7], rescale_factor=1 / 127.5, do_resize=False
        ),
        "plain": transformers.ViTImageProcessor(do_normalize=False, do_resize=False),
    }
    network = made("ResNet", layer_type="basic", depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512])
    for name, processor in processors.items():
        folder = tmp_path / name
        (folder / "saved").mkdir(parents=True)
        processor.save_pretrained(folder / "saved")
        adopted(network, folder)
        metadata = read_header(folder / "teacher.safetensors").metadata
        mean, std = (torch.tensor(json.loads(metadata[key]))[:, None, None] for key in ("mean", "std"))

        expected = processor(pixels, return_tensors="pt")["pixel_values"][0]

        assert torch.allclose((pixels / 255 - mean) / std, expected.float(), atol=1e-4), name


def test_weights_in_several_files_are_put_together(tmp_path: Path) -> None:
    network = made("ViT", **TINY_VIT)

    teacher, found = adopted(network, tmp_path, max_shard_size="5MB")

    assert found["file"]["folder"]["files"] > 2
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(teacher(images), network(pixel_values=images).logits, atol=1e-4)


def test_half_precision_stays(tmp_path: Path) -> None:
    network = made("ViT", **TINY_VIT).to(torch.bfloat16)

    adopted(network, tmp_path)

    header = read_header(tmp_path / "teacher.safetensors")
    assert set(header.dtypes.values()) == {"BF16"}
    assert header.shapes["blocks.0.attn.qkv.weight"] == (576, 192)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "another family": (lambda: made("Beit", num_hidden_layers=1), "BeitForImageClassification"),
    "the class token of a distilled DeiT alone": (
        lambda: made("DeiT", num_hidden_layers=1, **TINY_VIT),
        "DeiTForImageClassification",
    ),
    "a ResNet of other depths": (
        lambda: made("ResNet", layer_type="basic", depths=[1, 1, 1, 1], hidden_sizes=[64, 128, 256, 512]),
        r"depths \[1, 1, 1, 1\]",
    ),
    "a ViT of few layers": (lambda: made("ViT", num_hidden_layers=2, **TINY_VIT), "2 layers"),
    "a ViT with a fast GELU": (lambda: made("ViT", hidden_act="quick_gelu", **TINY_VIT), "quick_gelu"),
    "a ViT of other images": (lambda: made("ViT", image_size=160, **TINY_VIT), "images of 160"),
    "a ViT with a coarse layer norm": (lambda: made("ViT", layer_norm_eps=1e-3, **TINY_VIT), "layer_norm_eps 0.001"),
    "MobileNetV2": (lambda: made("MobileNetV2"), "MobileNetV2ForImageClassification"),
}


@pytest.mark.parametrize(("make", "said"), REFUSED.values(), ids=REFUSED)
def test_a_network_that_timm_has_not_is_refused_with_the_way_out(
    tmp_path: Path, make: Callable[[], Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        adopted(make(), tmp_path)

    assert caught.value.code == "architecture_unknown"
    assert "ONNX" in caught.value.hint
