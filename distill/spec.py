"""What a run is asked for: the request body, the stored JSON and the trainer's input in one. Free of torch."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from distill import recipes
from distill.class_names import MAX_CLASS_NAME
from distill.errors import InputError
from distill.method_specs import Auto, MethodSpec, Spec, SRRLMethod

Finite = Annotated[float, Field(ge=-1e6, le=1e6)]
Positive = Annotated[float, Field(ge=1e-6, le=1e6)]
ClassName = Annotated[str, Field(min_length=1, max_length=MAX_CLASS_NAME)]
PointIndex = Annotated[int, Field(ge=0, le=10_000)]
BrokenShare = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Up to which share images that cannot be read are left out and reported; more refuse the data set. "
        "null: the server's, 0.05 unless the operator says otherwise.",
    ),
]
Architecture = Annotated[
    str,
    Field(
        description=(
            "A name from GET /networks; `onnx` for an ONNX file. Left out, or `auto`: what a folder's config.json "
            "says, or the header of one of Limbeck's own students."
        )
    ),
]
HubName = Annotated[
    str,
    Field(
        max_length=250,
        description=(
            "`hf-hub:owner/name`, or `timm:name` for `hf-hub:timm/name`, where the operator lets the service fetch "
            "from a hub."
        ),
    ),
]
Revision = Annotated[str, Field(max_length=200, description="Branch, tag or commit on the hub; left out: main.")]
DatasetFormat = Literal[
    "auto", "npz", "idx", "cifar", "imagefolder", "manifest", "webdataset", "parquet", "wflw", "300w"
]


Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


def public_part(url: str) -> str:
    """A URL without what may be a secret: user, password, query (signatures stand there) and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # what can be read by nobody is nobody's to see
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


RemoteUrl = Annotated[str, Field(max_length=4096), PlainSerializer(public_part, return_type=str, when_used="json")]
"""As JSON, which is what is stored and shown, it is the public part alone."""
Sha256 = Annotated[str, Field(pattern="^[0-9a-fA-F]{64}$")]


class NetworkOptions(Spec):
    """What may be varied about a network of the zoo."""

    width: float = Field(default=1.0, gt=0, le=16)
    """Multiplies every channel count; the result is rounded to whole channels, in a ShuffleNet to whole groups.
    MobileNetV2 keeps the 1280 of its last convolution below a width of 1."""
    stem_stride: Literal[1, 2] = 1
    """Stride of the first convolution: 2 halves every map and quarters the work. Not for mobilenetv2, whose stem
    has it already, nor for the shufflenets, whose stem is 1x1."""


class TeacherPreprocessing(Spec):
    """What is done to images before a teacher sees them: values to 0..1, channels in order, then (x - mean) / std."""

    mean: list[Finite] | None = Field(default=None, min_length=1, max_length=16)
    """Per channel, of values in 0..1 and in the order in which the teacher takes them; left out with std: what the
    file says, else what its architecture is published with, else the data set's own."""
    std: list[Positive] | None = Field(default=None, min_length=1, max_length=16)
    """1/255 with a mean in 255ths is for a teacher of values in 0..255."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """bgr: as OpenCV reads images."""

    @model_validator(mode="after")
    def _both(self) -> TeacherPreprocessing:
        if (self.mean is None) != (self.std is None):
            raise ValueError("give mean and std together")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std {len(self.std)}")
        return self


class TeacherTraits(Spec):
    """What a file of weights does not always say of itself."""

    options: NetworkOptions = NetworkOptions()
    classes: list[ClassName] | None = Field(default=None, min_length=2, max_length=100_000)
    """Names of the classes in the order of the teacher's outputs: its answers are then put into the data set's order.
    Left out: what the file says, else the data set's own order."""
    preprocessing: TeacherPreprocessing = TeacherPreprocessing()

    @field_validator("classes")
    @classmethod
    def _each_once(cls, classes: list[str] | None) -> list[str] | None:
        if classes is not None and len(set(classes)) != len(classes):
            raise ValueError("two classes have the same name")
        return classes


def check_hub(hub: str | None, revision: str | None, architecture: str | None) -> None:
    """What goes together where a teacher may come from a hub; raises ValueError."""
    if revision is not None and hub is None:
        raise ValueError("revision belongs to hub")
    if hub is not None and architecture not in (None, "auto"):
        raise ValueError("a network on a hub says its architecture itself: leave it out")


class TeacherRef(TeacherTraits):
    """A teacher by id, or given inline by its upload or by its name on a hub."""

    id: str | None = None
    upload_id: str | None = None
    hub: HubName | None = None
    revision: Revision | None = None
    architecture: Architecture | None = None

    @property
    def traits(self) -> TeacherTraits:
        return TeacherTraits(options=self.options, classes=self.classes, preprocessing=self.preprocessing)

    @model_validator(mode="after")
    def _one_way(self) -> TeacherRef:
        if [self.id, self.upload_id, self.hub].count(None) != 2:
            raise ValueError("give exactly one of id, upload_id and hub")
        check_hub(self.hub, self.revision, self.architecture)
        if self.id is not None and self.traits != TeacherTraits():
            raise ValueError(
                "options, classes and preprocessing belong to an upload_id: a teacher with an id has its own"
            )
        return self


class DatasetRef(Spec):
    """A data set by id, or given inline by its upload, by the name of a public one, or by its URL."""

    id: str | None = None
    upload_id: str | None = None
    preset: str | None = None
    """A name from GET /presets; its files must be in the operator's folder."""
    url: RemoteUrl | None = None
    """`https://host/path`, or `s3://bucket/key` of a bucket that the operator listed; a worker fetches it."""
    sha256: Sha256 | None = None
    """Of the file behind the URL, which is refused when it differs."""
    format: DatasetFormat = "auto"
    max_broken_share: BrokenShare | None = None
    """Not with an id: that data set has been read."""

    @model_validator(mode="after")
    def _one_way(self) -> DatasetRef:
        if [self.id, self.upload_id, self.preset, self.url].count(None) != 3:
            raise ValueError("give exactly one of id, upload_id, preset and url")
        if self.sha256 is not None and self.url is None:
            raise ValueError("sha256 goes with url")
        if self.id is not None and self.max_broken_share is not None:
            raise ValueError("max_broken_share goes with upload_id, preset or url, not with an id")
        return self


class StudentInit(Spec):
    """Weights to start from instead of random ones: of a pruned network, say, or of one trained on other data."""

    upload_id: str
    """Of weights that were announced for the purpose student_init: a safetensors file, also the student of an earlier
    job; or one of `torch.save`, where the operator lets these in."""


class Budget(Spec):
    """What a student may have at most; several limits hold together."""

    parameters: int | None = Field(default=None, ge=1, le=2**40)
    macs: int | None = Field(default=None, ge=1, le=2**50)
    """Multiply-adds of one image of the data's size."""
    file_bytes: int | None = Field(default=None, ge=1, le=2**50)
    """Of the student's safetensors file, with its own classifier."""

    @property
    def limits(self) -> dict[str, int]:
        """Those that were given, by their name."""
        return {name: limit for name, limit in self if limit is not None}

    @model_validator(mode="after")
    def _some_limit(self) -> Budget:
        if not self.limits:
            raise ValueError(f"give at least one of {', '.join(type(self).model_fields)}")
        return self


def _architecture_or_budget(schema: dict[str, Any]) -> None:
    """Says in the JSON schema that a budget stands for a name."""
    schema["anyOf"] = [{"required": ["architecture"]}, {"required": ["budget"]}]


class StudentSpec(Spec):
    """The small network: by name, or the best one within a budget."""

    model_config = ConfigDict(json_schema_extra=_architecture_or_budget)

    architecture: str | None = None
    """A name from GET /networks."""
    budget: Budget | None = None
    """In place of a name: POST /distill takes the best network within it, POST /distill/estimate shows three."""
    options: NetworkOptions = NetworkOptions()
    init: StudentInit | None = None
    """What student and baseline start from; null: random weights. Its names and shapes are those of the network; a
    classifier of another number of classes is left out. The rate that "auto" gives is one for random weights."""

    @property
    def name(self) -> str:
        """The architecture of a student that is not, or no more, left to a budget."""
        assert self.architecture is not None
        return self.architecture

    @model_validator(mode="after")
    def _one_way(self) -> StudentSpec:
        if self.budget is None and self.architecture is None:
            place = InitErrorDetails(type="missing", loc=("architecture",), input=None)
            raise ValidationError.from_exception_data(type(self).__name__, [place])
        if self.budget is not None and self.architecture is not None:
            raise ValueError("give either architecture or budget")
        if self.budget is not None and (self.init is not None or self.options != NetworkOptions()):
            raise ValueError("options and init belong to a named architecture; a budget chooses the options, too")
        return self


class TrainingSpec(Spec):
    """How long, how fast, on what."""

    epochs: Annotated[int, Field(ge=1, le=1000)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=2, le=8192)] | Auto = "auto"
    learning_rate: Annotated[float, Field(gt=0, le=10)] | Auto = "auto"
    """The peak; the schedule starts or ends below it."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    optimizer: Literal["sgd"] = "sgd"
    """SGD with momentum."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: Annotated[bool, Field(strict=True)] | Auto = "auto"
    """Nesterov's form of the momentum, which looks ahead; the published recipes do without."""
    schedule: Literal["auto", "one_cycle", "cosine", "constant", "step"] = "auto"
    """step: the peak from the start, multiplied by `gamma` after each of the `milestones`."""
    milestones: Annotated[list[Annotated[int, Field(ge=1, le=1000)]], Field(max_length=20)] | Auto = "auto"
    """Epochs after which a stepped rate drops, rising; auto: at the same shares of the run as the nearest recipe's."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """What is left of a stepped rate at a milestone."""
    augmentation: Literal["auto", "none", "flip", "crop", "crop_flip", "resized_crop_flip"] = "auto"
    """crop: zero-pad by an eighth of the side, crop back. resized_crop: a box of 8 to 100 % of the area, scaled to the
    image's size. Each with flip, or crop alone; the same for student and baseline."""
    views: Annotated[int, Field(ge=1, le=1024)] | Literal["auto", "fresh"] = "auto"
    """How many augmented views of each image are used; the teacher sees each once. fresh: new ones each epoch."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto: what the worker that takes the job has. cuda: the job waits for a worker that has it."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    baseline: bool = True
    """Also train the same student on labels alone with the same budget, for comparison."""
    max_runtime_seconds: int = Field(default=14400, ge=10, le=30 * 86400)
    """Counted over all attempts; the student so far is kept."""

    @field_validator("milestones")
    @classmethod
    def _rising_within(cls, milestones: list[int] | Auto, info: ValidationInfo) -> list[int] | Auto:
        if milestones == "auto" or not milestones:
            return milestones
        if any(later <= earlier for earlier, later in pairwise(milestones)):
            raise ValueError("milestones must rise")
        schedule, epochs = info.data.get("schedule"), info.data.get("epochs")
        if schedule not in ("auto", "step", None):
            raise ValueError(f"milestones belong to the schedule step, not to {schedule}")
        if isinstance(epochs, int) and milestones[-1] >= epochs:
            raise ValueError(f"the milestone {milestones[-1]} is not before the end, after {epochs} epochs")
        return milestones

    @field_validator("nesterov")
    @classmethod
    def _needs_momentum(cls, nesterov: bool | Auto, info: ValidationInfo) -> bool | Auto:
        if nesterov is True and info.data.get("momentum") == 0:
            raise ValueError("Nesterov's form needs a momentum above 0")
        return nesterov


def _student_or_recipe(schema: dict[str, Any]) -> None:
    """Says in the JSON schema that a recipe brings its student along."""
    schema["required"].remove("student")
    schema["anyOf"] = [{"required": ["student"]}, {"required": ["recipe"]}]


class LandmarkSpec(Spec):
    """Of data sets with landmarks: by what loss their points are learnt, and by what length errors are divided."""

    loss: Literal["l1", "l2", "smooth_l1", "wing"] = "l1"
    """In pixels of the image that the student sees, times 8 / side (l2: the square of that), which makes it about as
    large as that of classes; wing: Feng et al., CVPR 2018, with w 10 and epsilon 2 pixels."""
    normaliser: Literal["auto", "box"] | tuple[PointIndex, PointIndex] = "auto"
    """The length: between two points, or the root of the area of the box about all; auto: as the data set says, which
    is the outer corners of the eyes for WFLW and 300W."""


class DistillSpec(Spec):
    """The body of POST /distill."""

    model_config = ConfigDict(json_schema_extra=_student_or_recipe)

    recipe: str | None = Field(default=None, max_length=100)
    """An id from GET /recipes: gives the student, the method and the training where the request does not."""
    name: str = Field(default="", max_length=200)
    priority: Literal["low", "normal", "high"] = "normal"
    """Which of two waiting jobs is taken first; within one priority the older."""
    teacher: TeacherRef
    student: StudentSpec
    dataset: DatasetRef
    landmarks: LandmarkSpec | None = None
    """Only for data sets with landmarks; left out, its defaults hold."""
    method: MethodSpec = SRRLMethod(type="srrl")
    training: TrainingSpec = TrainingSpec()
    outputs: list[Literal["safetensors", "connector"]] = Field(default=["safetensors"], max_length=2)
    """connector: also the connector and the teacher's head, for further work on the features."""
    metadata: Metadata = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        try:
            return recipes.complete(body)
        except InputError as error:
            # The message last: pydantic fills in one name after the other, and it may hold braces of its own.
            told = {"hint": error.hint, "did_you_mean": error.did_you_mean, "message": error.message}
            # As an error of pydantic's own, which can say where: at the recipe and not at the whole body.
            kind = PydanticCustomError("recipe_unknown", "{message}", told)
            place = InitErrorDetails(type=kind, loc=("recipe",), input=body["recipe"])
            raise ValidationError.from_exception_data(cls.__name__, [place]) from error
