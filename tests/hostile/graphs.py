"""ONNX files that want to harm. The API does not look into them; the worker's check does, before it runs one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.case import Hostile

node = helper.make_node
_draw = np.random.default_rng(0)
_KERNEL = _draw.normal(size=(6, 3, 3, 3)).astype(np.float32)
_WEIGHT = _draw.normal(size=(4, 6)).astype(np.float32)


def sound(
    *nodes: Any, constants: dict[str, np.ndarray] | None = None, metadata: dict[str, str] | None = None
) -> onnx.ModelProto:
    """A convolution to ``c``, these nodes to ``m`` (else a ReLU), pooling, and a linear head."""
    body = [
        node("Conv", ["x", "kernel"], ["c"], pads=[1, 1, 1, 1]),
        *(nodes or [node("Relu", ["c"], ["m"])]),
        node("GlobalAveragePool", ["m"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "w"], ["y"], transB=1),
    ]
    initial = {"kernel": _KERNEL, "w": _WEIGHT, **(constants or {})}
    model = helper.make_model(
        helper.make_graph(
            body,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
            [numpy_helper.from_array(value, name) for name, value in initial.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    helper.set_model_props(model, metadata or {})
    return model


def external(model: onnx.ModelProto) -> None:
    """A weight lies in a file of the system."""
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="../../../../../../../etc/passwd")


def foreign(model: onnx.ModelProto) -> None:
    """An operation of somebody's own."""
    model.graph.node[1].domain = "com.evil"


def function(model: onnx.ModelProto) -> None:
    """A function that calls itself."""
    model.functions.append(
        helper.make_function("evil", "F", ["a"], ["b"], [node("F", ["a"], ["b"], domain="evil")], [])
    )
    model.graph.node[1].op_type, model.graph.node[1].domain = "F", "evil"


def lying(model: onnx.ModelProto) -> None:
    """A weight of 10^9 rows in a few bytes."""
    model.graph.initializer[0].dims[0] = 10**9


def _changed(change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = sound()
    change(model)
    return model.SerializeToString()


def _external_function(model: onnx.ModelProto) -> None:
    tensor = numpy_helper.from_array(_KERNEL, "k")
    external_tensor = TensorProto()
    external_tensor.CopyFrom(tensor)
    external_tensor.data_location = TensorProto.EXTERNAL
    external_tensor.external_data.add(key="location", value="/etc/passwd")
    constant = node("Constant", [], ["b"], value=external_tensor)
    model.functions.append(helper.make_function("", "F", ["a"], ["b"], [constant], []))


def _branch(name: str, *nodes: Any, result: str) -> Any:
    return helper.make_graph(list(nodes), name, [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)])


def _if(then: Any) -> list[Any]:
    otherwise = _branch("else", node("Identity", ["c"], ["e"]), result="e")
    return [node("If", ["yes"], ["m"], then_branch=then, else_branch=otherwise)]


def _external_inside() -> bytes:
    tensor = numpy_helper.from_array(_KERNEL, "k")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    then = _branch("then", node("Constant", [], ["k"], value=tensor), node("Add", ["c", "k"], ["t"]), result="t")
    return sound(*_if(then), constants={"yes": np.array(True)}).SerializeToString()


def _nested(depth: int) -> bytes:
    """If in If in If."""
    inner = _branch("b", node("Identity", ["c"], ["t"]), result="t")
    for _ in range(depth):
        choice = node(
            "If", ["yes"], ["t"], then_branch=inner, else_branch=_branch("e", node("Relu", ["c"], ["t"]), result="t")
        )
        inner = _branch("b", choice, result="t")
    return sound(*_if(inner), constants={"yes": np.array(True)}).SerializeToString()


def _deeper(depth: int) -> bytes:
    """Attributes of nodes of graphs of attributes ..., deeper than any library writes them."""
    content = b""
    for field in [*(6, 5, 1) * depth, 7]:  # graph in attribute in node; the model's graph
        content = _field(field, content)
    return content


def _field(number: int, content: bytes) -> bytes:
    """A field of protobuf that holds bytes."""
    length = bytearray()
    rest = len(content)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([number << 3 | 2, *length, rest]) + content


def _loop(times: int) -> bytes:
    """The map goes ``times`` times through a loop that is only run with images."""
    flag, count = TensorProto.BOOL, TensorProto.INT64
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Mul", ["v", "one"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("i", count, []),
            helper.make_tensor_value_info("go", flag, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", flag, []), helper.make_tensor_value_info("next", TensorProto.FLOAT, None)],
    )
    constants = {"times": np.array(times), "yes": np.array(True), "one": np.array(1.0, np.float32)}
    return sound(node("Loop", ["times", "yes", "c"], ["m"], body=body), constants=constants).SerializeToString()


def _scan() -> bytes:
    body = helper.make_graph(
        [node("Identity", ["s"], ["s2"]), node("Identity", ["e"], ["o"])],
        "body",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "se"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("s2", "o")],
    )
    axes = node("Scan", ["zero", "c"], ["z", "m"], body=body, num_scan_inputs=1)
    return sound(axes, constants={"zero": np.zeros(1, np.float32)}).SerializeToString()


def _added(*makers: Any, constants: dict[str, np.ndarray]) -> bytes:
    """The map plus the mean of something large, ``big``."""
    nodes = [*makers, node("ReduceMean", ["big"], ["mean"], keepdims=0), node("Add", ["c", "mean"], ["m"])]
    return sound(*nodes, constants=constants).SerializeToString()


def _large(*shape: int) -> dict[str, np.ndarray]:
    return {"shape": np.array(shape, np.int64), "one": np.ones((1,) * len(shape), np.float32)}


def _slow() -> bytes:
    """Products of two large matrices, one after the other: nothing is large in the file, and it takes hours."""
    nodes = [node("ConstantOfShape", ["shape"], ["zeros"]), node("ReduceMean", ["c"], ["s"], keepdims=0)]
    nodes += [node("Add", ["zeros", "s"], ["a0"])]
    nodes += [node("MatMul", [f"a{n}", "a0"], [f"a{n + 1}"]) for n in range(200)]
    nodes += [node("Identity", ["a200"], ["big"])]
    return _added(*nodes, constants={"shape": np.array([12_000, 12_000], np.int64)})


def _graph(code: str | None, build: Callable[[], bytes]) -> Hostile:
    return Hostile(code, build, "teacher.onnx", by_worker=True, asked={"architecture": "onnx"})


def _corrupt(build: Callable[[], bytes]) -> Hostile:
    return _graph("upload_corrupt", build)


def _unsafe(build: Callable[[], bytes]) -> Hostile:
    return _graph("unsafe_file", build)


def _unrunnable(build: Callable[[], bytes]) -> Hostile:
    return _graph("unsupported_format", build)


GRAPHS: dict[str, Hostile] = {
    "weights in another file": _unsafe(lambda: _changed(external)),
    "weights in another file, within a branch": _unsafe(_external_inside),
    "weights in another file, within a function": _unsafe(lambda: _changed(_external_function)),
    "operation of its own": _unsafe(lambda: _changed(foreign)),
    "function that calls itself": _unsafe(lambda: _changed(function)),
    "weight of 10^9 rows in a few bytes": _corrupt(lambda: _changed(lying)),
    "loop of 2^62 rounds": _unsafe(lambda: _loop(2**62)),
    "scan": _unsafe(_scan),
    "branches in branches, 300 deep": _corrupt(lambda: _deeper(300)),
    "branches in branches, 20 deep": _graph(None, lambda: _nested(20)),
    "4 TB of a constant": _unrunnable(
        lambda: _added(node("ConstantOfShape", ["shape"], ["big"]), constants=_large(10**6, 10**6))
    ),
    "4 TB by Expand": _unrunnable(
        lambda: _added(node("Expand", ["one", "shape"], ["big"]), constants=_large(10**6, 10**6))
    ),
    "4 TB by Tile": _unrunnable(
        lambda: _added(node("Tile", ["one", "shape"], ["big"]), constants=_large(10**6, 10**6))
    ),
    "10^19 bytes by Pad": _unrunnable(
        lambda: _added(
            node("Pad", ["one", "pads"], ["big"]),
            constants={"one": np.ones((1, 1), np.float32), "pads": np.array([0, 0, 2**31, 2**31], np.int64)},
        )
    ),
    "4 TB by Range": _unrunnable(
        lambda: _added(
            node("Range", ["zero", "stop", "step"], ["big"]),
            constants={name: np.array(v, np.float32) for name, v in (("zero", 0), ("stop", 1e12), ("step", 1))},
        )
    ),
    "products that take hours": _unsafe(_slow),
    "mean nested deeply": _graph(None, lambda: sound(metadata={"mean": "[" * 10**5, "std": "[1]"}).SerializeToString()),
    "cut short": _corrupt(lambda: sound().SerializeToString()[:-100]),
    "zip": _corrupt(lambda: b"PK\x03\x04 no"),
    "pickle": _corrupt(lambda: b"\x80\x04cos\nsystem\n"),
    "field of 2 GB": _corrupt(lambda: b"\x3a\xff\xff\xff\xff\x07" + bytes(100)),
    "groups in groups": _corrupt(lambda: b"\x3b" * 10**6),
}
