"""What a run is asked for: the request body, the stored JSON and the trainer's input in one. Free of torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill.method_specs import Auto, MethodSpec, Spec, SRRLMethod

DatasetFormat = Literal["auto", "npz", "idx", "cifar", "imagefolder"]


class NetworkOptions(Spec):
    """What may be varied about a network of the zoo."""

    width: float = Field(default=1.0, gt=0, le=16)
    """Multiplies every channel count; the result is rounded to whole channels, in a ShuffleNet to whole groups.
    MobileNetV2 keeps the 1280 of its last convolution below a width of 1."""
    stem_stride: Literal[1, 2] = 1
    """Stride of the first convolution: 2 halves every map and quarters the work. Not for mobilenetv2, whose stem
    has it already, nor for the shufflenets, whose stem is 1x1."""


class TeacherRef(Spec):
    """A teacher by id, or given inline by its upload."""

    id: str | None = None
    upload_id: str | None = None
    architecture: str | None = None
    options: NetworkOptions = NetworkOptions()

    @model_validator(mode="after")
    def _one_way(self) -> TeacherRef:
        if (self.id is None) == (self.upload_id is None):
            raise ValueError("give either id, or upload_id with architecture")
        if self.upload_id is not None and self.architecture is None:
            raise ValueError("upload_id needs an architecture")
        return self


class DatasetRef(Spec):
    """A data set by id, or given inline by its upload or by the name of a public one."""

    id: str | None = None
    upload_id: str | None = None
    preset: str | None = None
    """A name from GET /presets; its files must be in the operator's folder."""
    format: DatasetFormat = "auto"

    @model_validator(mode="after")
    def _one_way(self) -> DatasetRef:
        if [self.id, self.upload_id, self.preset].count(None) != 2:
            raise ValueError("give exactly one of id, upload_id and preset")
        return self


class StudentSpec(Spec):
    """The small network."""

    architecture: str
    """A name from GET /networks."""
    options: NetworkOptions = NetworkOptions()


class TrainingSpec(Spec):
    """How long, how fast, on what."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=2, le=8192)] | Auto = "auto"
    learning_rate: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    """The peak; the schedule starts or ends below it."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    optimizer: Literal["sgd"] = "sgd"
    """SGD with Nesterov momentum 0.9."""
    schedule: Literal["auto", "one_cycle", "cosine", "constant"] = "auto"
    augmentation: Literal["auto", "none", "flip", "crop_flip"] = "auto"
    """crop_flip: zero-pad by an eighth of the side, crop back, flip; the same for student and baseline."""
    views: Annotated[int, Field(ge=1, le=1024)] | Literal["auto", "fresh"] = "auto"
    """How many augmented views of each image are used; the teacher sees each once. fresh: new ones each epoch."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)
    baseline: bool = True
    """Also train the same student on labels alone with the same budget, for comparison."""
    max_runtime_seconds: int = Field(default=14400, ge=10, le=30 * 86400)
    """Counted over all attempts; the student so far is kept."""


class DistillSpec(Spec):
    """The body of POST /distill."""

    name: str = Field(default="", max_length=200)
    teacher: TeacherRef
    student: StudentSpec
    dataset: DatasetRef
    method: MethodSpec = SRRLMethod(type="srrl")
    training: TrainingSpec = TrainingSpec()
    outputs: list[Literal["safetensors", "connector"]] = Field(default=["safetensors"], max_length=2)
    """connector: also the connector and the teacher's head, for further work on the features."""
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default={}, max_length=16
    )
