"""What every ``auto`` of a request becomes, as far as it follows from request and data alone. Free of torch.

What depends on the device or on the teacher's features (precision, the connector's activation) is
resolved by the trainer and reported by its :class:`distill.events.Resolved`.
"""

from __future__ import annotations

import math

from distill.spec import DistillSpec, TrainingSpec

_IMAGES_PER_RUN = 200_000


def resolve(spec: DistillSpec, *, num_images: int) -> DistillSpec:
    """The spec with every ``auto`` replaced that request and data decide.

    The rules are those measured in docs/decisions/0005-defaults.md: about 200,000 images a run but no
    fewer than 20 and no more than 100 epochs; batches of 64, smaller for very small sets; a peak rate of
    0.1 at batch 64, growing with the root of the batch.

    Args:
        spec: the request.
        num_images: images in the training split.
    """
    training = spec.training
    batch_size = training.batch_size
    if batch_size == "auto":
        batch_size = max(2, min(64, num_images // 4))
    epochs = training.epochs
    if epochs == "auto":
        epochs = max(20, min(100, round(_IMAGES_PER_RUN / num_images)))
    rate = training.learning_rate
    if rate == "auto":
        assert isinstance(batch_size, int)
        rate = round(0.1 * math.sqrt(batch_size / 64), 6)
    augmentation = "flip" if training.augmentation == "auto" else training.augmentation
    resolved = training.model_copy(
        update={
            "batch_size": batch_size,
            "epochs": epochs,
            "learning_rate": rate,
            "weight_decay": 5e-4 if training.weight_decay == "auto" else training.weight_decay,
            "schedule": "one_cycle" if training.schedule == "auto" else training.schedule,
            "augmentation": augmentation,
            "views": _views(training, augmentation),
        }
    )
    return spec.model_copy(update={"training": resolved})


def _views(training: TrainingSpec, augmentation: str) -> int | str:
    if training.views != "auto":
        return training.views
    # Few views let the teacher see each once and its features be kept; crops have too many for that.
    return {"none": 1, "flip": 2}.get(augmentation, 10)


def total_steps(spec: DistillSpec, *, num_images: int) -> int:
    """Optimizer steps of a resolved spec, the baseline's included."""
    training = spec.training
    assert isinstance(training.epochs, int)
    assert isinstance(training.batch_size, int)
    steps = training.epochs * max(1, num_images // training.batch_size)
    return steps * (2 if has_baseline(spec) else 1)


def has_baseline(spec: DistillSpec) -> bool:
    """Whether a plainly trained twin is asked for; plain training is its own baseline."""
    return spec.training.baseline and spec.method.type != "ce"
