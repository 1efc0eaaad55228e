"""Teachers that are ONNX files: the head that is found is the one that computes the logits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from distill.errors import InputError
from distill.networks.onnx_network import OnnxNetwork
from distill.registry import build_network
from distill.spec import NetworkOptions
from distill.taps import Tap, anatomy_of, linear_head, prove
from distill.teacher_files import reorder_classes
from tests.hostile import graphs

BATCH, CLASSES, WIDTH = 5, 4, 6
draw = np.random.default_rng(0)
KERNEL = draw.normal(size=(WIDTH, 3, 3, 3)).astype(np.float32)
WEIGHT = draw.normal(size=(CLASSES, WIDTH)).astype(np.float32)
BIAS = draw.normal(size=CLASSES).astype(np.float32)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(BATCH, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def written(
    path: Path,
    nodes: list[Any],
    constants: dict[str, np.ndarray],
    *,
    shape: list[Any] | None = None,
    outputs: tuple[str, ...] = ("y",),
) -> Path:
    """A file of a convolution to ``m`` and these nodes, which read ``m`` and make ``y``."""
    conv = helper.make_node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1])
    relu = helper.make_node("Relu", ["c"], ["m"])
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape or ["batch", 3, 8, 8])
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in outputs]
    initial = [numpy_helper.from_array(value, name) for name, value in {"kernel": KERNEL, **constants}.items()]
    graph = helper.make_graph([conv, relu, *nodes], "g", [entry], results, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


node = helper.make_node
POOL = [node("GlobalAveragePool", ["m"], ["p"]), node("Flatten", ["p"], ["f"])]
MEAN = [node("ReduceMean", ["m", "axes"], ["f"], keepdims=0)]
HEADS: dict[str, tuple[list[Any], dict[str, np.ndarray]]] = {
    "gemm": ([node("Gemm", ["f", "w", "b"], ["y"], transB=1)], {"w": WEIGHT, "b": BIAS}),
    "gemm of the other order": ([node("Gemm", ["f", "w", "b"], ["y"])], {"w": WEIGHT.T.copy(), "b": BIAS}),
    "gemm with factors": (
        [node("Gemm", ["f", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)],
        {"w": 2 * WEIGHT, "b": BIAS / 2},
    ),
    "matmul and add": (
        [node("MatMul", ["f", "w"], ["z"]), node("Add", ["z", "b"], ["y"])],
        {"w": WEIGHT.T.copy(), "b": BIAS},
    ),
    "add of the other order, a transposed weight": (
        [
            node("Transpose", ["w"], ["wt"], perm=[1, 0]),
            node("MatMul", ["f", "wt"], ["z"]),
            node("Add", ["b", "z"], ["y"]),
        ],
        {"w": WEIGHT, "b": BIAS},
    ),
    "a 1x1 convolution": (
        [node("Conv", ["p", "w", "b"], ["z"]), node("Flatten", ["z"], ["y"])],
        {"w": WEIGHT[:, :, None, None].copy(), "b": BIAS},
    ),
    "softmax": (
        [node("Gemm", ["f", "w", "b"], ["z"], transB=1), node("Softmax", ["z"], ["y"], axis=1)],
        {"w": WEIGHT, "b": BIAS},
    ),
    "two outputs": (
        [node("Gemm", ["f", "w", "b"], ["y"], transB=1), node("ArgMax", ["y"], ["label"], axis=1)],
        {"w": WEIGHT, "b": BIAS},
    ),
}


def expected(images: Tensor) -> tuple[Tensor, Tensor]:
    """Map and logits by torch."""
    map_BCHW = nn.functional.conv2d(images, torch.from_numpy(KERNEL), padding=1).relu()
    return map_BCHW, map_BCHW.mean((2, 3)) @ torch.from_numpy(WEIGHT).T + torch.from_numpy(BIAS)


@pytest.mark.parametrize("kind", HEADS)
def test_the_head_is_found_and_computes_the_logits(kind: str, images: Tensor, tmp_path: Path) -> None:
    nodes, constants = HEADS[kind]
    network = OnnxNetwork(written(tmp_path / "t.onnx", [*POOL, *nodes], constants))
    tap = Tap(network, maps=anatomy_of(network).maps)

    prove(tap, linear_head(network), images_BCHW=images)

    seen = tap(images)
    map_BCHW, logits_BK = expected(images)
    torch.testing.assert_close(seen.maps["last"], map_BCHW, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(seen.logits_BK, logits_BK, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.head.weight.detach(), torch.from_numpy(WEIGHT))
    assert network.squashed == ("Softmax" if kind == "softmax" else None)
    assert network.num_classes == CLASSES
    assert network.num_parameters == KERNEL.size + WEIGHT.size + BIAS.size


def test_its_classes_may_be_put_into_another_order(images: Tensor, tmp_path: Path) -> None:
    nodes, constants = HEADS["gemm"]
    network = OnnxNetwork(written(tmp_path / "t.onnx", [*POOL, *nodes], constants))
    order = [*list(range(1, CLASSES)), 0]

    reorder_classes(network, order)

    tap = Tap(network, maps=anatomy_of(network).maps)
    prove(tap, linear_head(network), images_BCHW=images)
    torch.testing.assert_close(tap(images).logits_BK, expected(images)[1][:, order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("axes", [[2, 3], [-1, -2], [1, 2]])
def test_a_mean_over_places_is_pooling_and_no_other(axes: list[int], images: Tensor, tmp_path: Path) -> None:
    nodes, constants = HEADS["gemm"]
    weight = WEIGHT if axes != [1, 2] else draw.normal(size=(CLASSES, 8)).astype(np.float32)
    path = written(tmp_path / "t.onnx", [*MEAN, *nodes], constants | {"axes": np.array(axes), "w": weight})
    network = OnnxNetwork(path)
    assert (anatomy_of(network).pooling is not None) == (axes != [1, 2])
    prove(Tap(network, maps=anatomy_of(network).maps), linear_head(network), images_BCHW=images)


def test_a_graph_of_one_batch_size_takes_any(images: Tensor, tmp_path: Path) -> None:
    nodes, constants = HEADS["gemm"]
    for size in (1, 2, 7):
        network = OnnxNetwork(written(tmp_path / "t.onnx", [*POOL, *nodes], constants, shape=[size, 3, 8, 8]))
        torch.testing.assert_close(network(images), expected(images)[1], atol=1e-5, rtol=1e-5)


def test_channels_may_come_last(images: Tensor, tmp_path: Path) -> None:
    turn = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), node("Conv", ["t", "kernel"], ["c"], pads=[1] * 4)]
    rest = [node("Relu", ["c"], ["m"]), *POOL, *HEADS["gemm"][0]]
    initial = {"kernel": KERNEL, "w": WEIGHT, "b": BIAS}
    graph = helper.make_graph(
        [*turn, *rest],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 8, 8, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in initial.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "t.onnx")
    network = OnnxNetwork(tmp_path / "t.onnx")
    assert (network.entry.channels_last, network.entry.channels, network.entry.size) == (True, 3, (8, 8))
    torch.testing.assert_close(network(images), expected(images)[1], atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning", "ignore::torch.jit.TracerWarning"
)
@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", ["resnet8", "wrn_10_1", "mobilenetv2_half", "timm/test_vit", "timm/test_resnet"])
def test_what_torch_exports_is_the_network(name: str, exporter: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    side = 160 if name.startswith("timm") else 32
    network = build_network(name, options=NetworkOptions(), num_classes=CLASSES, in_channels=3).eval()
    given = torch.randn(3, 3, side, side)
    how: dict[str, Any] = {"dynamo": False, "dynamic_axes": {"x": {0: "batch"}}}
    if exporter == "dynamo":
        how = {"dynamo": True, "external_data": False, "verbose": False}
    torch.onnx.export(network, (given,), str(tmp_path / "t.onnx"), input_names=["x"], output_names=["y"], **how)

    found = OnnxNetwork(tmp_path / "t.onnx")

    assert found.entry.batch == (3 if exporter == "dynamo" else None)
    with torch.no_grad():
        torch.testing.assert_close(found(given), network(given), atol=1e-4, rtol=1e-4)
    tap, own = (Tap(each, maps=anatomy_of(each).maps) for each in (found, network))
    prove(tap, linear_head(found), images_BCHW=given)
    with torch.no_grad():
        seen, truth = tap(given), own(given)
    torch.testing.assert_close(seen.pooled_BC, truth.pooled_BC, atol=1e-4, rtol=1e-4)
    assert ("last" in seen.maps) == ("last" in truth.maps)
    if "last" in seen.maps:
        torch.testing.assert_close(seen.maps["last"], truth.maps["last"], atol=1e-4, rtol=1e-4)


def _two_inputs(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("x2", TensorProto.FLOAT, [1]))


def _flat(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[2:]


def _integers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


def _unknown_operation(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Nonsense"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (graphs.external, "unsafe_file"),
        (graphs.foreign, "unsafe_file"),
        (graphs.function, "unsafe_file"),
        (graphs.lying, "upload_corrupt"),
        (_two_inputs, "unsupported_format"),
        (_flat, "unsupported_format"),
        (_integers, "unsupported_format"),
        (_unknown_operation, "upload_corrupt"),
    ],
)
def test_a_file_that_is_refused(change: Callable[[onnx.ModelProto], None], code: str, tmp_path: Path) -> None:
    nodes, constants = HEADS["gemm"]
    model = onnx.load(written(tmp_path / "t.onnx", [*POOL, *nodes], constants))
    change(model)
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())

    with pytest.raises(InputError) as caught:
        OnnxNetwork(tmp_path / "bad.onnx")

    assert (caught.value.code, caught.value.param) == (code, "/teacher")
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no", b"\x80\x04cos\nsystem\n"])
def test_what_is_no_onnx_at_all(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.onnx").write_bytes(content)
    with pytest.raises(InputError) as caught:
        OnnxNetwork(tmp_path / "t.onnx")
    assert caught.value.code == "upload_corrupt"


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", ["f"], ["y"])],
        [node("Gemm", ["f", "w", "b"], ["z"], transB=1), node("Relu", ["z"], ["y"])],
        [node("MatMul", ["f", "f2"], ["y"])],
    ],
    ids=["none", "something behind it", "a weight that depends on the images"],
)
def test_no_linear_head(nodes: list[Any], tmp_path: Path) -> None:
    more = [node("Transpose", ["f"], ["f2"])]
    path = written(tmp_path / "t.onnx", [*POOL, *more, *nodes], {"w": WEIGHT, "b": BIAS})
    with pytest.raises(InputError) as caught:
        OnnxNetwork(path)
    assert caught.value.code == "teacher_head_unsupported"
    assert "Export the network up to its last linear layer" in caught.value.hint


def test_onnxruntime_keeps_no_files_and_reports_to_nobody(tmp_path: Path) -> None:
    """Left alone, it notes an identity in the home folder as soon as it is imported."""
    env = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    env.pop("ORT_DISABLE_TELEMETRY", None)
    subprocess.run(
        [sys.executable, "-B", "-c", "import distill.networks.onnx_network"], check=True, env=env, cwd=tmp_path
    )
    assert list(tmp_path.iterdir()) == []
