"""Folders of timm's form and of our own, and what may be wrong with one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_tensors
from safetensors.torch import load_file, save_file

from distill import model_folders
from distill.adoption import adopt
from distill.errors import InputError
from distill.networks.torchvision_shim import import_torchvision
from distill.registry import build_network, load_weights
from distill.spec import NetworkOptions
from distill.tensorfile import read_header
from tests.fixtures.archives import gzipped, tarred, zipped
from tests.fixtures.model_folders import CLASSES, MEAN, STD, members, resnet_folder, timm_folder

import_torchvision()


def adopted(files: Mapping[str, bytes], folder: Path) -> dict[str, Any]:
    (folder / "upload").write_bytes(zipped(files))
    return adopt(folder / "upload", folder / "teacher.safetensors", may_unpickle=False)


def config(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def resnet_state(name: str) -> bytes:
    network = build_network(name, options=NetworkOptions(), num_classes=5, in_channels=3)
    return save_tensors({key: value.numpy() for key, value in network.state_dict().items()})


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_what_timm_saved_answers_as_before(tmp_path: Path, name: str) -> None:
    network = timm_folder(tmp_path / "hub", name)

    found = adopted(members(tmp_path / "hub"), tmp_path)

    assert (found["architecture"], found["num_classes"]) == (f"timm/{name}", 5)
    assert found["file"]["folder"]["config"] == "timm"
    metadata = read_header(tmp_path / "teacher.safetensors").metadata
    told = {key: json.loads(metadata[key]) for key in ("classes", "mean", "std")}
    assert told == {"classes": CLASSES, "mean": MEAN, "std": STD}
    teacher = build_network(found["architecture"], options=NetworkOptions(), num_classes=5, in_channels=3).eval()
    load_weights(teacher, tmp_path / "teacher.safetensors")
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(teacher(images), network(images))


def test_transformers_wrapper_of_a_network_of_timms(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = transformers.TimmWrapperConfig(architecture="test_resnet", num_labels=5)
    network = transformers.TimmWrapperForImageClassification(settings).eval()
    network.save_pretrained(tmp_path / "saved")

    found = adopted(members(tmp_path / "saved"), tmp_path)

    assert found["architecture"] == "timm/test_resnet"
    teacher = build_network(found["architecture"], options=NetworkOptions(), num_classes=5, in_channels=3).eval()
    load_weights(teacher, tmp_path / "teacher.safetensors")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(teacher(images), network(pixel_values=images).logits, atol=1e-5)


@pytest.mark.parametrize("architecture", ["resnet18", "timm/resnet18"])
def test_of_two_networks_of_one_name_the_weights_tell_which(tmp_path: Path, architecture: str) -> None:
    theirs = resnet_state("timm/resnet18")
    files = {"config.json": config(architecture=architecture), "model.safetensors": theirs}

    assert adopted(files, tmp_path)["architecture"] == "timm/resnet18"
    if architecture == "resnet18":
        files["model.safetensors"] = resnet_state("resnet18")
        (tmp_path / "again").mkdir()
        assert adopted(files, tmp_path / "again")["architecture"] == "resnet18"


@pytest.mark.parametrize("place", ["options", "model_args", "header"])
def test_options_of_our_own_networks_stand_in_the_config_or_the_header(tmp_path: Path, place: str) -> None:
    options = {"width": 0.5, "stem_stride": 2}
    network = build_network("resnet8", options=NetworkOptions.model_validate(options), num_classes=5, in_channels=3)
    said = {"architecture": "resnet8", "options": json.dumps(options)} if place == "header" else {}
    save_file(network.state_dict(), tmp_path / "model.safetensors", metadata=said)
    settings: dict[str, Any] = {} if place == "header" else {place: options}
    files = {
        "config.json": config(architecture="resnet8", **settings),
        "model.safetensors": (tmp_path / "model.safetensors").read_bytes(),
    }

    found = adopted(files, tmp_path)

    assert (found["architecture"], found["options"]) == ("resnet8", options)
    assert load_file(tmp_path / "teacher.safetensors").keys() == network.state_dict().keys()


@pytest.mark.parametrize("pack", [zipped, tarred, gzipped])
@pytest.mark.parametrize("prefix", ["", "my-network/"])
def test_archives_may_wrap_the_folder_and_hold_junk(tmp_path: Path, pack: Any, prefix: str) -> None:
    files = {prefix + name: data for name, data in resnet_folder().items()}
    files |= {f"{prefix}README.md": b"# a network", ".DS_Store": b"junk", "__MACOSX/._config.json": b"junk"}
    (tmp_path / "upload").write_bytes(pack(files))

    found = adopt(tmp_path / "upload", tmp_path / "teacher.safetensors", may_unpickle=False)

    assert (found["architecture"], found["num_classes"], found["in_channels"]) == ("resnet8", 5, 3)
    assert {path.name for path in tmp_path.iterdir()} == {"upload", "teacher.safetensors"}


def changed(**files: bytes | None) -> dict[str, bytes]:
    """A sound folder with other files; None takes one away."""
    laid = {**resnet_folder(), **{name.replace("__", "."): data for name, data in files.items()}}
    return {name: data for name, data in laid.items() if data is not None}


def index(**names: str) -> bytes:
    return json.dumps({"weight_map": names}).encode()


WRONG: dict[str, tuple[dict[str, bytes], str, str]] = {
    "no config": (changed(config__json=None), "unsupported_format", "no config.json"),
    "no weights": (changed(model__safetensors=None), "unsupported_format", "no weights"),
    "pickled weights": (
        changed(model__safetensors=None) | {"pytorch_model.bin": b"PK\x03\x04"},
        "unsupported_format",
        "pickled",
    ),
    "config that is not JSON": (changed(config__json=b"{"), "upload_corrupt", "not JSON"),
    "config that is a list": (changed(config__json=b"[]"), "upload_corrupt", "not an object"),
    "config of endless depth": (changed(config__json=b"[" * 100_000), "upload_corrupt", "not JSON"),
    "config of many bytes": (changed(config__json=b" " * (9 * 2**20)), "unsafe_file", "9,437,184 bytes"),
    "config of nothing": (changed(config__json=b"{}"), "architecture_unknown", "names no network"),
    "code of its own": (
        changed(config__json=config(architectures=["MyNet"], auto_map={"AutoModel": "modeling.MyNet"})),
        "architecture_unknown",
        "MyNet",
    ),
    "another network": (
        changed(config__json=config(architecture="resnet999")),
        "architecture_unknown",
        "resnet999",
    ),
    "arguments of its own": (
        changed(config__json=config(architecture="test_resnet", model_args={"act_layer": "silu"})),
        "invalid_value",
        "act_layer",
    ),
    "another pooling": (
        changed(config__json=config(architecture="resnet18", global_pool="max"))
        | {"model.safetensors": resnet_state("timm/resnet18")},
        "invalid_value",
        "pools by max, and timm/resnet18 by avg",
    ),
    "options beyond all bounds": (
        changed(config__json=config(architecture="resnet8", options={"width": 1e9})),
        "invalid_value",
        "width 1000000000",
    ),
    "weights that are a bomb": (
        changed(model__safetensors=bytes(17 * 2**20)),
        "unsafe_file",
        "unpack to 17,825,792",
    ),
    "a size beyond all bounds": (
        changed(config__json=config(architectures=["ViTForImageClassification"], hidden_size=10**400)),
        "upload_corrupt",
        "hidden_size",
    ),
    "malformed transformers": (
        changed(config__json=config(architectures=["ResNetForImageClassification"], depths="3", hidden_sizes=[1])),
        "upload_corrupt",
        "depths",
    ),
    "other weights": (
        changed(config__json=config(architecture="resnet14")),
        "state_dict_mismatch",
        "do not fit resnet14",
    ),
    "class names of another number": (
        resnet_folder(label_names=["a", "b"]),
        "state_dict_mismatch",
        "names 2 classes, the weights have 5",
    ),
    "index that leads out": (
        changed(model__safetensors=None) | {"model.safetensors.index.json": index(a="../../etc/passwd")},
        "unsafe_file",
        "outside of the folder",
    ),
    "index without its files": (
        changed(model__safetensors=None) | {"model.safetensors.index.json": index(a="model-1.safetensors")},
        "upload_corrupt",
        "model-1.safetensors is missing",
    ),
    "index of nothing": (
        changed(model__safetensors=None) | {"model.safetensors.index.json": b'{"weight_map": [1]}'},
        "upload_corrupt",
        "names no files",
    ),
    "index of very many files": (
        changed(model__safetensors=None)
        | {"model.safetensors.index.json": index(**{f"t{n}": f"{n}.safetensors" for n in range(65)})},
        "unsafe_file",
        "65 files",
    ),
    "a tensor in two files": (
        changed(model__safetensors=None)
        | {
            "model.safetensors.index.json": index(a="1.safetensors", b="2.safetensors"),
            "1.safetensors": save_tensors({"a": np.zeros(3, np.float32)}),
            "2.safetensors": save_tensors({"a": np.zeros(3, np.float32)}),
        },
        "upload_corrupt",
        "in two files",
    ),
    "weights cut short": (
        changed(model__safetensors=resnet_folder()["model.safetensors"][:-5]),
        "upload_corrupt",
        "the file holds",
    ),
}


@pytest.mark.parametrize(("files", "code", "said"), WRONG.values(), ids=WRONG)
def test_a_folder_that_is_not_sound_is_refused(tmp_path: Path, files: dict[str, bytes], code: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        adopted(files, tmp_path)

    assert caught.value.code == code
    assert caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"upload"}


def test_pieces_of_one_tensor_must_all_be_there() -> None:
    names = {"vit.encoder.layer.0.attention.attention.query.weight": (4, 4)}
    settings = {"architectures": ["ViTForImageClassification"]}
    described = model_folders.check_config(settings)
    parts = described.renaming.parts(names)
    assert parts == {"blocks.0.attn.qkv.weight": tuple(names)}
    names = {"vit.encoder.layer.0.attention.attention.value.weight": (4, 4)}
    with pytest.raises(InputError, match=r"a piece of blocks\.0\.attn\.qkv\.weight is missing") as caught:
        described.renaming.parts(names)
    assert caught.value.code == "state_dict_mismatch"


def test_a_report_repeats_only_what_a_database_can_hold(tmp_path: Path) -> None:
    published = {"crop_pct": float("nan"), "interpolation": "bi\x00\ud800c", "input_size": [3, 1e999, 32], "mean": MEAN}

    found = adopted(resnet_folder(pretrained_cfg=published), tmp_path)

    told = found["file"]["folder"]
    assert told["interpolation"] == "bi\ufffd\ufffdc"
    assert not {"crop_pct", "input_size"} & told.keys()
    assert "mean" not in read_header(tmp_path / "teacher.safetensors").metadata  # without a std it says nothing
