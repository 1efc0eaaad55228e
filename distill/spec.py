"""What a run is asked for: the request body, the stored JSON and the trainer's input in one. Free of torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Auto = Literal["auto"]
DatasetFormat = Literal["auto", "npz", "idx", "cifar", "imagefolder", "wflw", "300w"]


class Spec(BaseModel):
    """Frozen, finite, and without room for a misspelt field."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class NetworkOptions(Spec):
    """What may be varied about a network of the zoo."""

    width: float = Field(default=1.0, gt=0, le=16)
    """Multiplies every channel count; the result is rounded to whole channels."""
    stem_stride: Literal[1, 2] = 1
    """Stride of the first convolution: 2 halves every map and quarters the work."""


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


class SRRLSettings(Spec):
    """Softmax regression representation learning (Yang et al., ICLR 2021)."""

    feature_weight: float = Field(default=1.0, ge=0)
    """alpha, the weight of L_FM: the student's connected, pooled feature against the teacher's."""
    regression_weight: float = Field(default=1.0, ge=0)
    """beta, the weight of L_SR: the student's connected feature through the teacher's frozen classifier."""
    label_weight: float = Field(default=1.0, ge=0)
    """The weight of the cross-entropy of the student's own head."""
    regression_loss: Literal["l2", "ce", "kl"] = "l2"
    """How L_SR compares: on logits (l2, the paper's choice), or on probabilities."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over channels and classes: mean as in the authors' code, sum as in the paper. The batch is always averaged."""
    activation: Literal["auto", "relu", "none"] = "auto"
    """What ends the connector; auto is relu when the teacher's features are never negative."""
    head: Literal["own", "teacher"] = "own"
    """What classifies in the result: the student's own linear layer, or the connector and the teacher's classifier."""


class SRRLMethod(Spec):
    """Feature matching and softmax regression at the penultimate layer."""

    type: Literal["srrl"]
    srrl: SRRLSettings = SRRLSettings()


class CEMethod(Spec):
    """Labels alone: plain training, the control that every report shows."""

    type: Literal["ce"]


MethodSpec = Annotated[SRRLMethod | CEMethod, Field(discriminator="type")]


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
    augmentation: Literal["auto", "none", "flip", "crop", "crop_flip", "resized_crop_flip"] = "auto"
    """crop: zero-pad by an eighth of the side, crop back. resized_crop: a box of 8 to 100 % of the area, scaled to the
    image's size. Each with flip, or crop alone; the same for student and baseline."""
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


def method_schemas() -> list[dict[str, Any]]:
    """Name, summary and JSON schema with defaults of every method."""
    methods: list[type[Spec]] = [SRRLMethod, CEMethod]
    return [
        {
            "type": m.model_fields["type"].annotation.__args__[0],  # type: ignore[union-attr]
            "summary": m.__doc__,
            "schema": m.model_json_schema(),
        }
        for m in methods
    ]
