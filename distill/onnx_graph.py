"""An ONNX file as a teacher: what may stand in it, and where its classifier is.

The last linear layer is found by walking back from the output: its weights become the frozen head, its input the
penultimate feature. Where that feature is the mean of a map, the map is found, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from distill.errors import InputError

Array = NDArray[np.float32]
ImageType = type[np.float32] | type[np.float16]

_IMAGE_TYPES: dict[int, ImageType] = {int(TensorProto.FLOAT): np.float32, int(TensorProto.FLOAT16): np.float16}
_DOMAINS = {"", "ai.onnx"}
_MAX_BYTES = 2**31 - 1
_LOOPS = {"Loop", "Scan", "SequenceMap"}
"""A loop may go on for ever, or only from some image on; no network of layers needs one."""
_SAME = {"Identity", "Dropout", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast"}
"""Between pooling, feature, head and output: they change no number."""
_SQUASHING = {"Softmax", "LogSoftmax", "Sigmoid"}
_HINT = (
    "Export the network up to its last linear layer (Gemm, or MatMul and Add, or a 1x1 Conv), its weights as constants."
)


@dataclass(frozen=True, kw_only=True)
class Head:
    """The last linear layer of a graph.

    Attributes:
        weight_KC: ``W``.
        bias_K: ``b``, zero where there is none.
        feature: name of its input, (B, C) or with places of one pixel.
        pooled_map: name of the map (B, C, H, W) whose mean the feature is; None where it is no such mean.
        logits: name of its output.
        squashed: what came behind it, such as ``Softmax``; None where the file answers logits.
    """

    weight_KC: Array
    bias_K: Array
    feature: str
    pooled_map: str | None
    logits: str
    squashed: str | None


@dataclass(frozen=True, kw_only=True)
class ImageEntry:
    """The graph's input.

    Attributes:
        name: of the tensor.
        channels_last: (B, H, W, C) instead of (B, C, H, W).
        channels: of the images.
        size: (height, width) in pixels; None where the graph takes any.
        batch: the only batch size that the graph takes; None where it takes any.
        dtype: of its numbers.
    """

    name: str
    channels_last: bool
    channels: int
    size: tuple[int, int] | None
    batch: int | None
    dtype: ImageType


def read_graph(path: Path) -> ModelProto:
    """The model in a file, if it is one that may be run.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file`` or ``unsupported_format``.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise _refused("unsafe_file", "The file is larger than 2 GiB.", "One ONNX file holds no more.")
    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError as error:
        raise _refused("upload_corrupt", f"It is no ONNX file, or cut short: {error}.", "Export it again.") from error
    if not model.graph.node:
        raise _refused("upload_corrupt", "It is no ONNX file: there is no graph in it.", "Export it again.")
    for graph in _graphs(model):
        for node in graph.node:
            _check_domain(node.domain)
            _check_operation(node.op_type)
        for tensor in _tensors(graph):
            _check_tensor(tensor)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = str(error).splitlines()[0][:200]
        raise _refused("upload_corrupt", f"The graph is not valid: {reason}", "Export it again.") from error
    return model


def image_entry(graph: GraphProto) -> ImageEntry:
    """Where images go in.

    Raises:
        InputError: ``unsupported_format``, the graph does not take a batch of images alone.
    """
    constants = {tensor.name for tensor in graph.initializer}
    entries = [entry for entry in graph.input if entry.name not in constants]
    if len(entries) != 1:
        names = ", ".join(entry.name for entry in entries) or "none"
        raise _refused("unsupported_format", f"The graph has {len(entries)} inputs ({names}).", "Images alone go in.")
    entry = entries[0]
    tensor = entry.type.tensor_type
    if tensor.elem_type not in _IMAGE_TYPES:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        raise _refused("unsupported_format", f"The graph takes {kind}.", "Let it take normalised float32 images.")
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    if len(sizes) != 4:
        message = f"The graph takes tensors of {len(sizes)} dimensions, not images (B, C, H, W)."
        raise _refused("unsupported_format", message, "A teacher of vision is needed.")
    channels_last = sizes[1] not in (1, 3) and sizes[3] in (1, 3)
    batch, channels, height, width = sizes if not channels_last else (sizes[0], sizes[3], sizes[1], sizes[2])
    if channels is None:
        raise _refused("unsupported_format", "The graph does not say how many channels it takes.", "Fix that size.")
    return ImageEntry(
        name=entry.name,
        channels_last=channels_last,
        channels=channels,
        size=(height, width) if height and width else None,
        batch=batch or None,
        dtype=_IMAGE_TYPES[tensor.elem_type],
    )


def find_head(graph: GraphProto) -> Head:
    """The last linear layer, walking back from the first output.

    Raises:
        InputError: ``teacher_head_unsupported``, naming the operation that is in the way.
    """
    return _Walk(graph).head()


class _Walk:
    """Backwards through a graph, from a tensor to the node that makes it."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._makers = {name: node for node in graph.node for name in node.output if name}
        self._initial = {tensor.name: tensor for tensor in graph.initializer}

    def head(self) -> Head:
        name, squashed = self._graph.output[0].name, None
        logits = name
        while (node := self._made_by(name)).op_type in _SAME | _SQUASHING:
            if node.op_type in _SQUASHING:
                squashed, logits = node.op_type, node.input[0]
            name = node.input[0]
        found = self._linear(node)
        if found is None:
            raise _no_head(f"behind the last {node.op_type} there is no linear layer with constant weights")
        feature, weight_KC, bias_K = found
        return Head(
            weight_KC=weight_KC,
            bias_K=np.zeros(len(weight_KC), np.float32) if bias_K is None else bias_K,
            feature=feature,
            pooled_map=self._pooled_map(feature),
            logits=logits,
            squashed=squashed,
        )

    def _made_by(self, name: str) -> NodeProto:
        if name not in self._makers:
            raise _no_head("the output is the input")
        node: NodeProto = self._makers[name]
        return node

    def _linear(self, node: NodeProto) -> tuple[str, Array, Array | None] | None:
        """Input, weight (K, C) and bias (K,) of a node that is a linear layer, or the end of one."""
        if node.op_type == "Gemm":
            return self._gemm(node)
        if node.op_type == "MatMul":
            return self._matmul(node)
        if node.op_type == "Conv":
            return self._pointwise(node)
        if node.op_type == "Add":
            for given, constant in (node.input, reversed(node.input)):
                bias = self._constant(constant)
                maker = self._makers.get(given)
                if bias is not None and maker is not None and maker.op_type == "MatMul":
                    found = self._matmul(maker)
                    if found is not None and bias.size in (1, len(found[1])):
                        return found[0], found[1], np.broadcast_to(bias.reshape(-1), (len(found[1]),)).copy()
        return None

    def _gemm(self, node: NodeProto) -> tuple[str, Array, Array | None] | None:
        given = _attributes(node)
        weight = self._constant(node.input[1])
        bias = self._constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if weight is None or weight.ndim != 2 or given.get("transA"):
            return None
        if bias is None and len(node.input) > 2 and node.input[2]:
            return None
        weight_KC = np.float32(given.get("alpha", 1.0)) * (weight if given.get("transB") else weight.T)
        if bias is not None:
            scaled = np.float32(given.get("beta", 1.0)) * bias.reshape(-1)
            bias = np.broadcast_to(scaled, (len(weight_KC),)).copy() if scaled.size in (1, len(weight_KC)) else None
        return node.input[0], np.ascontiguousarray(weight_KC), bias

    def _matmul(self, node: NodeProto) -> tuple[str, Array, Array | None] | None:
        weight = self._constant(node.input[1])
        if weight is None or weight.ndim != 2:
            return None
        return node.input[0], np.ascontiguousarray(weight.T), None

    def _pointwise(self, node: NodeProto) -> tuple[str, Array, Array | None] | None:
        weight = self._constant(node.input[1])
        bias = self._constant(node.input[2]) if len(node.input) > 2 else None
        if weight is None or weight.ndim != 4 or weight.shape[2:] != (1, 1) or _attributes(node).get("group", 1) != 1:
            return None
        return node.input[0], weight[:, :, 0, 0], bias

    def _constant(self, name: str, *, depth: int = 8) -> Array | None:
        """The value of a tensor that does not depend on the images, in float32."""
        if name in self._initial:
            return _array(self._initial[name])
        node = self._makers.get(name)
        if node is None or depth == 0:
            return None
        if node.op_type == "Constant":
            value = _attributes(node).get("value")
            return _array(value) if isinstance(value, TensorProto) else None
        inner = self._constant(node.input[0], depth=depth - 1) if node.op_type in ("Identity", "Transpose") else None
        if inner is None or node.op_type == "Identity":
            return inner
        axes = _attributes(node).get("perm")
        return np.transpose(inner, axes if isinstance(axes, list) else None)

    def _pooled_map(self, feature: str) -> str | None:
        node = self._makers.get(feature)
        while node is not None and node.op_type in _SAME:
            node = self._makers.get(node.input[0])
        if node is None:
            return None
        if node.op_type == "GlobalAveragePool":
            return str(node.input[0])
        if node.op_type == "ReduceMean":
            axes = _attributes(node).get("axes")
            if axes is None and len(node.input) > 1:
                tensor = self._initial.get(node.input[1])
                maker = self._makers.get(node.input[1])
                value = tensor if tensor is not None else maker and _attributes(maker).get("value")
                axes = numpy_helper.to_array(value).tolist() if isinstance(value, TensorProto) else None
            return str(node.input[0]) if axes and sorted(axis % 4 for axis in axes) == [2, 3] else None
        return None


def with_outputs(model: ModelProto, names: list[str]) -> ModelProto:
    """The same graph, answering these tensors instead of its own outputs."""
    changed = ModelProto()
    changed.CopyFrom(model)
    del changed.graph.output[:]
    changed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(names))
    return changed


def num_parameters(graph: GraphProto) -> int:
    """Of all constants of floating point."""
    floating = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
    return sum(int(np.prod(t.dims, dtype=np.int64)) for t in graph.initializer if t.data_type in floating)


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _array(tensor: TensorProto) -> Array:
    return numpy_helper.to_array(tensor).astype(np.float32)


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    """The main graph and all within it; functions are refused."""
    if model.functions:
        raise _refused("unsafe_file", "The file defines functions of its own.", "Export plain operations (opset 18).")
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting.extend([attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors
            sparse_tensors = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
            for sparse in [*sparse_tensors, *attribute.sparse_tensors]:
                yield from (sparse.values, sparse.indices)


def _check_domain(domain: str) -> None:
    if domain not in _DOMAINS:
        message = f"The file uses operations of {domain[:50]!r}, which are no part of ONNX."
        raise _refused("unsafe_file", message, "Export standard operations only (opset 18).")


def _check_operation(name: str) -> None:
    if name in _LOOPS:
        raise _refused("unsafe_file", f"The graph has a loop ({name}).", "Export the network with its loops unrolled.")


def _check_tensor(tensor: TensorProto) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        message = f"The weights of {tensor.name[:50]!r} lie in another file."
        raise _refused("unsafe_file", message, "Export one file: torch.onnx.export(..., external_data=False).")


def _refused(code: str, message: str, hint: str) -> InputError:
    return InputError(code, message, hint=hint, param="/teacher")


def _no_head(why: str) -> InputError:
    return InputError("teacher_head_unsupported", f"No linear head was found: {why}.", hint=_HINT, param="/teacher")
