"""What every ``auto`` of a request becomes, as far as it follows from request and data alone. Free of torch.

What depends on the device or on the teacher's features (precision, the connector's activation) is
resolved by the trainer and reported by its :class:`distill.events.Resolved`.
"""

from __future__ import annotations

from typing import Any, Literal, cast

from distill import recipes
from distill.anatomy import LAST
from distill.markup import Normaliser
from distill.method_specs import ExtraMethod, SRRLMethod, negatives, settings_of, warmup
from distill.spec import DistillSpec, LandmarkSpec, TrainingSpec

BANK_BYTES = 2 * 2**30
"""What the teacher's features of all views may take; beyond it the teacher is asked at every step."""
_POOLED_ALONE = frozenset({"kd", "dkd", "dist", "rkd", "pkt", "cc", "crd"})
_IMAGES_PER_RUN = 200_000
_UNFLIPPED: dict[str, Literal["none", "crop"]] = {
    "none": "none",
    "flip": "none",
    "crop_flip": "crop",
    "resized_crop_flip": "crop",
}


def base_of(spec: DistillSpec, *, num_images: int, image_size: tuple[int, int] | None = None) -> recipes.Base:
    """Whose settings ``auto`` stands for: those of the recipe's kind of data, or of the nearest kind.

    Args:
        spec: the request.
        num_images: images in the training split.
        image_size: (height, width) in pixels, where known.
    """
    if spec.recipe is not None:
        return recipes.find(spec.recipe).data.base
    return recipes.nearest(num_images=num_images, image_size=image_size)


def resolve(
    spec: DistillSpec,
    *,
    num_images: int,
    num_labelled: int | None = None,
    image_size: tuple[int, int] | None = None,
    can_flip: bool = True,
    normaliser: Normaliser | None = None,
) -> DistillSpec:
    """The spec with every ``auto`` replaced that request and data decide.

    The rules are those of docs/decisions/0005-defaults.md and 0012-recipes-and-auto.md: about 200,000 images
    a run but no fewer than 20 and no more than 100 epochs, whatever the recipe; batches of the nearest
    recipe's size, smaller for very small sets; its peak rate, growing with the root of the batch; its
    schedule, with the milestones at the same shares of the run; its augmentation. Without labels there is no
    baseline to train.

    Args:
        spec: the request.
        num_images: images in the training split, those without a label included.
        num_labelled: how many have one; None: all.
        image_size: (height, width) in pixels, where known.
        can_flip: whether mirrored images make sense: of points it must be known which change places.
        normaliser: the data set's own length, of one with landmarks.
    """
    training = spec.training
    base = base_of(spec, num_images=num_images, image_size=image_size)
    batch_size = training.batch_size
    if batch_size == "auto":
        batch_size = max(2, min(base.batch_size, num_images // 4))
    epochs = training.epochs
    if epochs == "auto":
        epochs = max(20, min(100, round(_IMAGES_PER_RUN / num_images)))
    rate = training.learning_rate
    if rate == "auto":
        assert isinstance(batch_size, int)
        rate = base.peak_rate(spec.student.name, batch_size=batch_size)
    assert isinstance(epochs, int)
    augmentation = training.augmentation
    if augmentation == "auto":
        augmentation = base.augmentation
        if normaliser is not None and augmentation == "resized_crop_flip":
            augmentation = "crop_flip"  # a crop to any scale leaves most points outside of the image
        augmentation = augmentation if can_flip else _UNFLIPPED[augmentation]
    resolved = training.model_copy(
        update={
            "batch_size": batch_size,
            "epochs": epochs,
            "learning_rate": rate,
            "weight_decay": base.weight_decay if training.weight_decay == "auto" else training.weight_decay,
            "nesterov": _nesterov(training, base),
            **_schedule(training, base, epochs=epochs),
            "augmentation": augmentation,
            "views": _views(training, augmentation),
            "baseline": training.baseline and num_labelled != 0,
        }
    )
    method = _settled(spec.method, epochs=epochs, num_images=num_images)
    landmarks = None if normaliser is None else _landmarks(spec.landmarks or LandmarkSpec(), normaliser)
    return spec.model_copy(update={"training": resolved, "method": method, "landmarks": landmarks or spec.landmarks})


def _landmarks(asked: LandmarkSpec, normaliser: Normaliser) -> LandmarkSpec:
    return asked.model_copy(update={"normaliser": normaliser}) if asked.normaliser == "auto" else asked


def _schedule(training: TrainingSpec, base: recipes.Base, *, epochs: int) -> dict[str, str | list[int]]:
    """The schedule and its milestones; who names milestones means a stepped one."""
    schedule: str = training.schedule
    if schedule == "auto":
        schedule = base.schedule if training.milestones in ("auto", []) else "step"
    given = training.milestones
    if given != "auto":
        # Given with "epochs": "auto", some may lie beyond the end, where they change nothing.
        return {"schedule": schedule, "milestones": [place for place in given if place < epochs]}
    milestones = recipes.milestones(base.drops, epochs=epochs) if schedule == "step" else []
    return {"schedule": schedule, "milestones": milestones}


def _settled(method: Any, *, epochs: int, num_images: int) -> Any:
    """The method, and what stands in its extra, without an ``auto`` that the run's length or the data decide."""
    settings = settings_of(method)
    update: dict[str, Any] = {}
    found: dict[str, int] = {}
    if getattr(settings, "warmup_epochs", None) == "auto":
        found["warmup_epochs"] = warmup("auto", epochs=epochs)
    if getattr(settings, "num_negatives", None) == "auto":
        found["num_negatives"] = negatives("auto", num_images=num_images)
    if found:
        update[method.type] = settings.model_copy(update=found)
    if extra := getattr(method, "extra", []):
        update["extra"] = [_settled(term, epochs=epochs, num_images=num_images) for term in extra]
    return method.model_copy(update=update) if update else method


def _nesterov(training: TrainingSpec, base: recipes.Base) -> bool:
    if training.nesterov == "auto":
        return base.nesterov and training.momentum > 0
    return training.nesterov


def _views(training: TrainingSpec, augmentation: str) -> int | str:
    if training.views != "auto":
        return training.views
    # Few views let the teacher see each once and its features be kept; crops have too many for that, and crops
    # to any scale are no finite choice at all.
    if augmentation == "resized_crop_flip":
        return "fresh"
    return {"none": 1, "flip": 2}.get(augmentation, 10)


def total_steps(spec: DistillSpec, *, num_images: int, num_labelled: int | None = None) -> int:
    """Optimizer steps of a resolved spec, the baseline's included, which sees labelled images alone."""
    training = spec.training
    assert isinstance(training.epochs, int)
    assert isinstance(training.batch_size, int)
    counts = [num_images]
    if has_baseline(spec):
        counts.append(num_images if num_labelled is None else num_labelled)
    return training.epochs * sum(max(1, count // training.batch_size) for count in counts)


def bank_bytes(spec: DistillSpec, *, num_images: int, feature_width: int) -> int | None:
    """Memory that the teacher's features of all views take in a resolved spec; 0: it is asked at every step, or never.

    None where the method reads maps as well, whose sizes only the built network tells.

    Args:
        num_images: images in the training split.
        feature_width: of the teacher.
    """
    training, method = spec.training, spec.method
    if method.type == "ce" or not isinstance(training.views, int) or training.views > cast(int, training.epochs):
        return 0
    if not all(_reads_pooled_alone(each) for each in (method, *method.extra)):
        return None
    size = 4 * num_images * training.views * feature_width
    return size if size <= BANK_BYTES else 0


def _reads_pooled_alone(method: ExtraMethod) -> bool:
    if isinstance(method, SRRLMethod):
        return {*(method.srrl.feature_stages or method.srrl.stages)} <= {LAST}
    return method.type in _POOLED_ALONE


def has_baseline(spec: DistillSpec) -> bool:
    """Whether a plainly trained twin is asked for; plain training is its own baseline."""
    return spec.training.baseline and spec.method.type != "ce"
