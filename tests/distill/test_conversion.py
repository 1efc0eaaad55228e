from __future__ import annotations

import argparse
import io
import math
import pickle
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR
from torch.optim.swa_utils import AveragedModel

from distill.conversion import convert
from distill.errors import InputError
from distill.networks.torchvision_shim import import_torchvision
from distill.registry import build_network, load_weights
from distill.spec import NetworkOptions
from distill.torchfile import TorchFile, kind_of
from tests.hostile.pickles import zipped

Wrap = Callable[[nn.Module], Any]


def network_of(name: str, *, seed: int = 0) -> nn.Module:
    """With running statistics that are not those of a new network."""
    torch.manual_seed(seed)
    network = build_network(name, options=NetworkOptions(), num_classes=5, in_channels=3)
    with torch.no_grad():
        network.train()(torch.randn(4, 3, 32, 32))
    return network.eval()


def converted(value: Any, folder: Path) -> Path:
    torch.save(value, folder / "upload")
    convert(folder / "upload", folder / "teacher.safetensors")
    assert {path.name for path in folder.iterdir()} == {"upload", "teacher.safetensors"}
    return folder / "teacher.safetensors"


def checkpoint(network: nn.Module) -> dict[str, Any]:
    """What a training script leaves: weights and their average, optimizer, schedule, random state, numbers."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    network(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    averaged = network_of("resnet8", seed=9)
    return {
        "epoch": 7,
        "arch": "resnet8",
        "state_dict": network.state_dict(),
        "state_dict_ema": averaged.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": MultiStepLR(optimizer, [3, 5]).state_dict(),
        "rng": torch.get_rng_state(),
        "size": torch.Size([32, 32]),
        "best": {"top1": 0.93, "loss": math.inf},
    }


WRAPS: dict[str, Wrap] = {
    "state dict": lambda network: network.state_dict(),
    "plain dict": lambda network: dict(network.state_dict()),
    "parameters": lambda network: {**dict(network.named_parameters()), **dict(network.named_buffers())},
    "DataParallel": lambda network: nn.DataParallel(network).state_dict(),
    "torch.compile": lambda network: torch.compile(network).state_dict(),
    "Lightning": lambda network: {
        "state_dict": {f"model.{name}": value for name, value in network.state_dict().items()},
        "pytorch-lightning_version": "2.5",
        "loops": {"fit_loop": {"state_dict": {}}},
    },
    "teacher and student": lambda network: {
        "teacher": network.state_dict(),
        "student": network_of("resnet8", seed=1).state_dict(),
    },
    "average alone": lambda network: {"model_ema": network.state_dict(), "epoch": 3},
    "AveragedModel": lambda network: AveragedModel(network).state_dict(),
    "checkpoint": checkpoint,
}


@pytest.mark.filterwarnings("ignore:.*script_method.* is deprecated:DeprecationWarning")  # what torch.compile imports
@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_the_logits_are_those_of_the_original(wrap: Wrap, tmp_path: Path) -> None:
    network, images = network_of("resnet8"), torch.randn(3, 3, 32, 32)
    saved = wrap(network)

    path = converted(saved, tmp_path)

    loaded = build_network("resnet8", options=NetworkOptions(), num_classes=5, in_channels=3)
    load_weights(loaded, path)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), network.eval()(images))
    assert load_file(path).keys() == network.state_dict().keys()


@pytest.mark.parametrize("name", ["vgg8", "wrn_16_1", "resnet8x4", "timm/test_resnet", "timm/test_vit"])
def test_networks_of_every_kind(name: str, tmp_path: Path) -> None:
    if name == "timm/test_vit":
        torch.manual_seed(0)
        network = build_network(name, options=NetworkOptions(), num_classes=5, in_channels=3).eval()
        images = torch.randn(2, 3, 160, 160)
    else:
        network, images = network_of(name), torch.randn(2, 3, 32, 32)

    path = converted(network.state_dict(), tmp_path)

    loaded = build_network(name, options=NetworkOptions(), num_classes=5, in_channels=3).eval()
    load_weights(loaded, path)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.int8, torch.bool])
def test_every_type_of_numbers_keeps_its_bits(dtype: torch.dtype, tmp_path: Path) -> None:
    value = (torch.randn(3, 5) * 10).to(dtype)
    tensors = {"a": value, "across": value.clone().t(), "part": value.clone()[1:, 2:], "one": value.clone()[0, 0]}
    tensors["none"] = value.clone()[:0]

    found = load_file(converted(tensors, tmp_path))

    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)


def test_what_training_scripts_save_beside_the_weights_is_passed_over(tmp_path: Path) -> None:
    """Nothing of it is made: PyTorch's own careful reader refuses such a file, the careless one would run it."""
    network = network_of("resnet8")
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("/tmp"), sizes=[1, 2], nested=argparse.Namespace(a={"b": 1})),
        "best": np.float64(0.93),
        "curve": np.arange(3.0),
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "counts": defaultdict(int, {"a": 1}),
        "seen": {1, 2},
        "last": deque([1.0, 2.0], maxlen=5),
        "dtype": torch.bfloat16,
        "config": OmegaConf.create({"model": {"name": "resnet8", "widths": [16, 32]}}),
    }
    path = converted({"state_dict": network.state_dict(), **beside}, tmp_path)

    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "upload", weights_only=True)
    found = load_file(path)
    assert found.keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        assert torch.equal(found[name], value)


def test_a_checkpoint_of_timms_own_saver(tmp_path: Path) -> None:
    """Written by timm as its training script does, with arguments, optimizer and averaged weights."""
    import_torchvision()
    from timm import create_model
    from timm.utils import CheckpointSaver, ModelEmaV3

    torch.manual_seed(0)
    network = create_model("test_resnet", num_classes=5)
    averaged = ModelEmaV3(network)
    args = argparse.Namespace(model="test_resnet", lr=0.1, opt="sgd", crop_pct=None, mean=(0.5, 0.5, 0.5))
    saver = CheckpointSaver(
        network,
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
        args=args,
        model_ema=averaged,
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(epoch=3, metric=0.5)

    convert(tmp_path / "last.pth.tar", tmp_path / "teacher.safetensors")

    found = load_file(tmp_path / "teacher.safetensors")
    assert found.keys() == network.state_dict().keys()
    loaded = build_network("timm/test_resnet", options=NetworkOptions(), num_classes=5, in_channels=3).eval()
    load_weights(loaded, tmp_path / "teacher.safetensors")
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(loaded(images), network.eval()(images))


def test_the_numbers_are_what_pytorch_reads(tmp_path: Path) -> None:
    """Views of shared storages, transposed and cut, against PyTorch's own reader."""
    base = torch.arange(240, dtype=torch.float32).view(6, 8, 5)
    state = {"whole": base.clone(), "turned": base.transpose(0, 2), "cut": base[1:4, ::2], "scalar": base[2, 3, 4]}
    path = converted(state, tmp_path)

    expected, found = torch.load(tmp_path / "upload", weights_only=True), load_file(path)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_numbers_of_another_byte_order_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(3)}, tmp_path / "little")
    with zipfile.ZipFile(tmp_path / "little") as source, zipfile.ZipFile(tmp_path / "big", "w") as target:
        for name in source.namelist():
            target.writestr(name, b"big" if name.endswith("byteorder") else source.read(name))

    with pytest.raises(InputError, match="order of bytes") as caught:
        convert(tmp_path / "big", tmp_path / "target")
    assert caught.value.code == "unsupported_format"


def test_two_names_of_one_tensor_are_written_out(tmp_path: Path) -> None:
    tied = torch.randn(4, 4)

    found = load_file(converted({"a": tied, "b": tied}, tmp_path))

    assert torch.equal(found["a"], tied)
    assert torch.equal(found["b"], tied)


def test_the_outline_is_what_pytorch_reads(tmp_path: Path) -> None:
    saved = checkpoint(network_of("resnet8"))
    torch.save(saved, tmp_path / "upload")

    with TorchFile(tmp_path / "upload") as file:
        tree = file.tree

    assert kind_of(tmp_path / "upload") == "zip"
    assert tree["state_dict"] == {name: tuple(value.shape) for name, value in saved["state_dict"].items()}
    assert tree["optimizer"]["state"][0]["exp_avg"] == (16, 3, 3, 3)
    assert (tree["rng"], tree["epoch"], tree["best"], tree["lr_scheduler"]) == (
        tuple(torch.get_rng_state().shape),
        None,
        None,
        None,
    )


def test_every_cut_is_found(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(6.0)}, buffer)
    whole = buffer.getvalue()
    for size in range(4, len(whole), 7):
        (tmp_path / "upload").write_bytes(whole[:size])
        with pytest.raises(InputError) as caught:
            TorchFile(tmp_path / "upload")
        assert caught.value.code == "upload_corrupt"


def test_a_flipped_bit_in_the_numbers_is_found(tmp_path: Path) -> None:
    torch.save({"w": torch.full((1000,), 3.0)}, tmp_path / "upload")
    content = bytearray((tmp_path / "upload").read_bytes())
    content[content.index(b"\x00\x00\x40\x40" * 100) + 40] ^= 1
    (tmp_path / "upload").write_bytes(content)

    with pytest.raises(InputError) as caught:
        convert(tmp_path / "upload", tmp_path / "target")

    assert caught.value.code == "upload_corrupt"
    assert [path.name for path in tmp_path.iterdir()] == ["upload"]


@pytest.fixture(scope="module")
def small() -> tuple[bytes, dict[str, bytes]]:
    """The pickle and the records of a small checkpoint."""
    buffer = io.BytesIO()
    parameter = nn.Parameter(torch.arange(12.0).view(3, 4))
    torch.save({"state_dict": nn.Linear(4, 3).state_dict(), "p": parameter, "c": torch.ones(2).long()}, buffer)
    with zipfile.ZipFile(buffer) as file:
        records = {Path(name).name: file.read(name) for name in file.namelist() if "/data/" in name}
        return file.read("archive/data.pkl"), records


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")  # pickletools', of a name with a \\
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.dictionaries(st.integers(0, 10**6), st.integers(0, 255), min_size=1, max_size=3))
def test_a_damaged_pickle_is_refused_or_read_as_its_outline_says(
    tmp_path: Path, small: tuple[bytes, dict[str, bytes]], damage: dict[int, int]
) -> None:
    original, records = small
    content = bytearray(original)
    for place, value in damage.items():
        content[place % len(original)] = value
    (tmp_path / "upload").write_bytes(zipped(bytes(content), records=records))

    refusal = None
    try:
        convert(tmp_path / "upload", tmp_path / "target")
    except InputError as error:
        refusal = error

    if refusal is not None:
        assert refusal.code in ("unsafe_file", "upload_corrupt", "unsupported_format")
        assert refusal.hint
        return
    assert sum(tensor.nbytes for tensor in load_file(tmp_path / "target").values()) < 1000
