"""The plain loop that ours is measured against: what public distillation scripts do, written with Pillow and torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from distill.anatomy import LAST
from distill.registry import build_network
from distill.spec import NetworkOptions
from distill.taps import Tap, linear_head
from distill.teachers import freeze
from distill.viewing import ImagePreparation

RATE, DECAY, SEED = 0.01, 5e-4, 0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What all loops train on.

    Attributes:
        images_NCHW: uint8.
        mean: per channel, of values in 0..1.
    """

    images_NCHW: NDArray[np.uint8]
    labels_N: NDArray[np.int64]
    mean: list[float]
    std: list[float]
    num_classes: int
    source: str
    batch_size: int
    teacher: tuple[str, NetworkOptions]
    student: tuple[str, NetworkOptions]
    device: torch.device

    def network(self, which: tuple[str, NetworkOptions]) -> nn.Module:
        """A fresh network for this task, always from the same seed."""
        torch.manual_seed(SEED)
        channels = self.images_NCHW.shape[1]
        return build_network(which[0], options=which[1], num_classes=self.num_classes, in_channels=channels)

    def frozen_teacher(self) -> nn.Module:
        """A teacher of random weights whose batch norms have seen the data, so that its features are of usual size."""
        network = self.network(self.teacher)
        images = torch.from_numpy(self.images_NCHW[:256])
        prepare = ImagePreparation(mean_C=torch.tensor(self.mean), std_C=torch.tensor(self.std))
        with torch.no_grad():
            for _ in range(20):
                network(prepare(images))
        return freeze(network)


class PerImage(Dataset[tuple[Tensor, int]]):
    """Random crop with zero padding, random flip, to tensor, normalise: one image at a time, as torchvision does it."""

    def __init__(self, task: Task) -> None:
        self._images_NHWC = task.images_NCHW.transpose(0, 2, 3, 1).copy()
        self._labels = task.labels_N.tolist()
        self._padding = max(1, min(task.images_NCHW.shape[2:]) // 8)
        self._mean = torch.tensor(task.mean)[:, None, None]
        self._std = torch.tensor(task.std)[:, None, None]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self._images_NHWC[index]
        image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        width, height = image.size
        padded = ImageOps.expand(image, border=self._padding, fill=0)
        top, left = (int(torch.randint(0, 2 * self._padding + 1, (1,)).item()) for _ in range(2))
        image = padded.crop((left, top, left + width, top + height))
        if torch.rand(1) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image, copy=True)).view(height, width, -1)
        scaled = tensor.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return scaled.sub_(self._mean).div_(self._std), self._labels[index]


class PlainLoop:
    """SRRL as a script: float32 in NCHW throughout, and a wait for the device at every step."""

    def __init__(self, task: Task, *, num_workers: int) -> None:
        self._device = task.device
        self.teacher = Tap(task.frozen_teacher().to(task.device))
        self.student = Tap(task.network(task.student).to(task.device).train(), maps=[LAST])
        self._classifier = linear_head(self.teacher.network)
        widths = [linear_head(tap.network).in_features for tap in (self.student, self.teacher)]
        self.connector = nn.Sequential(
            nn.Conv2d(widths[0], widths[1], 1, bias=False), nn.BatchNorm2d(widths[1]), nn.ReLU()
        ).to(task.device)
        trained = [*self.student.network.parameters(), *self.connector.parameters()]
        self._optimizer = torch.optim.SGD(trained, lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY)
        self._loader = DataLoader(
            PerImage(task),
            batch_size=task.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=task.device.type == "cuda",
        )
        self.sums = dict.fromkeys(("loss", "ce", "fm", "sr"), 0.0)

    def losses(self, images_BCHW: Tensor, labels_B: Tensor) -> dict[str, Tensor]:
        """``loss`` and its parts ``ce``, ``fm``, ``sr`` of normalised images."""
        with torch.no_grad():
            teacher = self.teacher(images_BCHW)
        student = self.student(images_BCHW)
        connected = self.connector(student.maps[LAST]).mean(dim=(2, 3))
        ce = F.cross_entropy(student.logits_BK, labels_B)
        fm = F.mse_loss(connected, teacher.pooled_BC)
        sr = F.mse_loss(self._classifier(connected), teacher.logits_BK)
        return {"loss": ce + fm + sr, "ce": ce, "fm": fm, "sr": sr}

    def train(self) -> Iterator[int]:
        """Train for ever; after each step, the number of images in it."""
        while True:
            for images, labels in self._loader:
                losses = self.losses(
                    images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True)
                )
                self._optimizer.zero_grad()
                losses["loss"].backward()  # type: ignore[no-untyped-call]
                self._optimizer.step()
                for name, value in losses.items():
                    self.sums[name] += value.item()
                yield len(images)
