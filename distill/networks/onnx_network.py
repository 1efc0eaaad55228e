"""A teacher that is an ONNX file: onnxruntime runs its body, and its head is a linear layer of torch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distill.anatomy import Anatomy
from distill.architectures import ImageInput
from distill.errors import InputError
from distill.networks.opaque import OpaqueNetwork
from distill.onnx_graph import find_head, image_entry, num_parameters, read_graph, with_outputs

# Read at its import: else it reports on its use to its makers, and keeps files at home for that.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime


class OnnxNetwork(OpaqueNetwork):
    """Normalised images (B, C, H, W) in float32 to the logits (B, K) of the file, never to gradients.

    The feature passes through ``head``, so that taps see it, and where it is the mean of a map, the map through
    ``pool``. The answer is what the file itself computes, in ``order``; that ``head`` computes it too is to be proven.

    Args:
        path: of the file.

    Raises:
        InputError: ``upload_corrupt``, ``unsafe_file``, ``unsupported_format``, or ``teacher_head_unsupported``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        model = read_graph(path)
        self.entry = image_entry(model.graph)
        found = find_head(model.graph)
        self.squashed = found.squashed
        self.num_parameters = num_parameters(model.graph)
        height, width = self.entry.size or (_ANY_SIDE, _ANY_SIDE)
        self.input = ImageInput(
            channels=self.entry.channels, height=height, width=width, fixed=self.entry.size is not None
        )
        self.metadata = {entry.key: entry.value for entry in model.metadata_props}
        self.anatomy = Anatomy(stages=(), pooling=None if found.pooled_map is None else "pool", classifiers=("head",))
        self._seen = found.pooled_map or found.feature
        self._logits = found.logits
        self._session = _session(with_outputs(model, [self._seen, self._logits]).SerializeToString())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(found.weight_KC.shape[1], found.weight_KC.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(found.weight_KC))
            self.head.bias.copy_(torch.from_numpy(found.bias_K))

    @property
    def num_classes(self) -> int:
        return self.head.out_features

    @torch.no_grad()
    def forward(self, images_BCHW: Tensor) -> Tensor:
        seen, logits_BK = self._run(images_BCHW)
        feature = self.pool(seen) if self.anatomy.pooling is not None else seen
        self.head(feature.flatten(1))
        return logits_BK if self.order is None else logits_BK[:, self.order.to(logits_BK.device)]

    def _run(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The map or feature, and the logits, on the images' device in float32."""
        device = images_BCHW.device
        given = images_BCHW.detach().float().cpu()
        if self.entry.channels_last:
            given = given.permute(0, 2, 3, 1)
        images = np.ascontiguousarray(given.numpy().astype(self.entry.dtype, copy=False))
        size = self.entry.batch or len(images)
        parts = [self._ask(images[start : start + size]) for start in range(0, len(images), size)]
        seen, logits = (torch.from_numpy(np.concatenate(each)).float().to(device) for each in zip(*parts, strict=True))
        return seen, logits.reshape(len(images), -1)

    def _ask(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One batch; a graph of one size only gets its last one filled up."""
        count, size = len(images), self.entry.batch or len(images)
        if count < size:
            images = np.concatenate([images, np.repeat(images[-1:], size - count, axis=0)])
        names = [self._seen, self._logits]
        try:
            seen, logits = self._session.run(names, {self.entry.name: images})
        except _RUNTIME_ERRORS as error:
            shape = " x ".join(map(str, images.shape[1:]))
            reason = str(error).splitlines()[0][:200]
            raise InputError(
                "unsupported_format",
                f"The graph cannot take images of {shape}: {reason}",
                hint="Export it for images of the data set's size, or with free height and width.",
                param="/teacher",
            ) from error
        return seen[:count], logits[:count]


_ANY_SIDE = 224
"""Of the images that a graph of free height and width is said to be made for; in pixels."""
_RUNTIME_ERRORS = (
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
    onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
)


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except _RUNTIME_ERRORS as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(
            "unsupported_format",
            f"onnxruntime cannot run the graph: {reason}",
            hint="Export it with standard operations, opset 18.",
            param="/teacher",
        ) from error
