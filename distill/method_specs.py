"""The settings of every method, each with the defaults of its paper or of the CRD benchmark. Free of torch.

``weight`` scales what the method adds, ``label_weight`` the loss of the labels beside it. The defaults are those of
github.com/HobbitLong/RepDistiller (CRD benchmark), of github.com/megvii-research/mdistiller where it says so, or of
the authors' own code.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Auto = Literal["auto"]
_PUBLISHED_NEGATIVES, _PUBLISHED_IMAGES = 16_384, 50_000
"""Of CRD, on CIFAR."""
Weight = Annotated[float, Field(ge=0, le=1e6)]
Temperature = Annotated[float, Field(gt=0, le=1000)]
StageName = Annotated[str, Field(pattern=r"^(stage[1-9]|last)$")]
Stages = Annotated[list[StageName], Field(min_length=1, max_length=10)]


class Spec(BaseModel):
    """Frozen, finite, and without room for a misspelt field."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Settings(Spec):
    """Base of all methods' settings."""

    label_weight: Weight = 1.0
    """The weight of the labels' own loss. In `extra` it is left out: the main method weighs the labels."""
    parts_of_weight: ClassVar[tuple[str, ...]] = ()
    """Fields that `weight` multiplies; all zero is as `weight` zero."""

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        values: dict[str, float] = {name: getattr(self, name) for name in type(self).model_fields if "weight" in name}
        parts = [values.pop(name) for name in self.parts_of_weight]
        if parts and not any(parts):
            values.pop("weight")
        if not any(values.values()):
            raise ValueError("all weights are zero: nothing would be learnt")
        return self


class SRRLSettings(Settings):
    """Softmax regression representation learning (Yang et al., ICLR 2021)."""

    feature_weight: Weight = 1.0
    """alpha, the weight of L_FM: the student's connected, pooled feature against the teacher's."""
    regression_weight: Weight = 1.0
    """beta, the weight of L_SR: the student's connected feature through the teacher's frozen classifier."""
    label_weight: Weight = 1.0
    """The weight of the loss of the student's own head on the labels."""
    regression_loss: Literal["l2", "ce", "kl"] = "l2"
    """How L_SR compares: on logits (l2, the paper's choice), or on probabilities."""
    reduction: Literal["mean", "sum"] = "mean"
    """Over channels and classes: mean as in the authors' code, sum as in the paper. The batch is always averaged."""
    activation: Literal["auto", "relu", "none"] = "auto"
    """What ends the connector; auto is relu where the teacher's features are never negative."""
    head: Literal["own", "teacher"] = "own"
    """What classifies in the result: the student's own linear layer, or the connector and the teacher's classifier."""
    stages: Stages = ["last"]
    """Where both losses act: `last`, the penultimate layer (the paper's conv4), and `stage1`, `stage2`, ...
    (conv2, conv3, ...). From an earlier stage the connected map goes through the rest of the frozen teacher."""
    feature_stages: Stages | None = None
    """Where L_FM acts, if elsewhere than `stages`."""
    regression_stages: Stages | None = None
    """Where L_SR acts, if elsewhere than `stages`."""

    @model_validator(mode="after")
    def _the_reused_head_is_taught(self) -> Self:
        losses = ((self.feature_weight, self.feature_stages), (self.regression_weight, self.regression_stages))
        if self.head == "teacher" and not any(weight and "last" in (at or self.stages) for weight, at in losses):
            raise ValueError("head is teacher, and no loss acts at last: the connector before it would learn nothing")
        return self


class KDSettings(Settings):
    """Knowledge distillation (Hinton et al. 2015): T² KL(teacher || student) of softened probabilities."""

    weight: Weight = 0.9
    label_weight: Weight = 0.1
    temperature: Temperature = 4.0


class FitNetSettings(Settings):
    """FitNets (Romero et al., ICLR 2015): the student's map at one stage, regressed, against the teacher's."""

    weight: Weight = 100.0
    stage: StageName | Auto = "auto"
    """auto: the middle one of the stages that the networks have in common."""


class ATSettings(Settings):
    """Attention transfer (Zagoruyko and Komodakis, ICLR 2017): where the energy of each stage's map lies."""

    weight: Weight = 1000.0


class RKDSettings(Settings):
    """Relational knowledge distillation (Park et al., CVPR 2019): distances and angles between images."""

    weight: Weight = 1.0
    distance_weight: Weight = 25.0
    angle_weight: Weight = 50.0
    parts_of_weight: ClassVar[tuple[str, ...]] = ("distance_weight", "angle_weight")


class CRDSettings(Settings):
    """Contrastive representation distillation (Tian et al., ICLR 2020), with two memory banks on the device."""

    weight: Weight = 0.8
    num_negatives: Annotated[int, Field(ge=1, le=2**20)] | Auto = "auto"
    """Drawn on the device, with replacement, from the images of other classes; auto: the published 16,384 for 50,000
    images and more, as large a share of fewer."""
    temperature: Temperature = 0.07
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Of the memory: how much of an image's old embedding is kept."""
    width: int = Field(default=128, ge=1, le=4096)
    """Length of the embeddings."""


class SPSettings(Settings):
    """Similarity-preserving distillation (Tung and Mori, ICCV 2019): Gram matrices of the last map over a batch."""

    weight: Weight = 3000.0


class PKTSettings(Settings):
    """Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018): affinities between images."""

    weight: Weight = 30000.0


class VIDSettings(Settings):
    """Variational information distillation (Ahn et al., CVPR 2019): the teacher's maps under a learnt Gaussian."""

    weight: Weight = 1.0


class CCSettings(Settings):
    """Correlation congruence (Peng et al., ICCV 2019), in the form of the CRD benchmark."""

    weight: Weight = 0.02
    width: int = Field(default=128, ge=1, le=4096)
    """Length of the embeddings."""


class NSTSettings(Settings):
    """Neuron selectivity transfer (Huang and Wang 2017): maximum mean discrepancy of channels' patterns."""

    weight: Weight = 50.0


class DKDSettings(Settings):
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022; defaults of mdistiller)."""

    target_weight: Weight = 1.0
    """alpha, of the target class against all others together."""
    nontarget_weight: Weight = 8.0
    """beta, of the distribution among the others; published pairs use 2 to 8, ImageNet 0.5 to 2."""
    temperature: Temperature = 4.0
    warmup_epochs: Annotated[int, Field(ge=0, le=1000)] | Auto = "auto"
    """Over so many epochs the weights grow linearly; auto: a twelfth of the epochs, as 20 of 240."""


class ReviewKDSettings(Settings):
    """Knowledge review (Chen et al., CVPR 2021; defaults of mdistiller): fused stages against the teacher's."""

    weight: Weight = 5.0
    warmup_epochs: Annotated[int, Field(ge=0, le=1000)] | Auto = "auto"
    """Over so many epochs the weight grows linearly; auto: a twelfth of the epochs, as 20 of 240."""
    max_width: int = Field(default=512, ge=1, le=4096)
    """Channels of the fusion at most."""


class SimKDSettings(Settings):
    """SimKD (Chen et al., CVPR 2022): the projected last map alone; the teacher's classifier is reused."""

    weight: Weight = 1.0
    label_weight: Weight = 0.0
    factor: int = Field(default=2, ge=1, le=64)
    """The projector's inner width is the teacher's divided by it."""


class DISTSettings(Settings):
    """DIST (Huang et al., NeurIPS 2022): correlation of probabilities within images and within classes."""

    weight: Weight = 2.0
    inter_weight: Weight = 1.0
    """Of the correlation over the classes of an image."""
    intra_weight: Weight = 1.0
    """Of the correlation over the images of a batch, class by class."""
    temperature: Temperature = 4.0
    """4 as for CIFAR; ImageNet is trained with 1."""
    parts_of_weight: ClassVar[tuple[str, ...]] = ("inter_weight", "intra_weight")


Extra = Annotated[
    list["ExtraMethod"],
    Field(max_length=8, description="More methods whose losses are added, each with its own weight."),
]


class MethodBase(Spec):
    """What all methods have in common."""

    @property
    def _extra(self) -> list[ExtraMethod]:
        extra: list[ExtraMethod] = getattr(self, "extra", [])
        return extra

    @model_validator(mode="after")
    def _extra_adds_up(self) -> Self:
        types = [self.type, *(term.type for term in self._extra)]  # type: ignore[attr-defined]
        for term in self._extra:
            if term.extra:
                raise ValueError("what stands in extra has no extra of its own")
            settings = settings_of(term)
            if settings.label_weight != type(settings).model_fields["label_weight"].default:
                raise ValueError(f"{term.type} in extra: label_weight belongs to the main method alone")
        if len(set(types)) != len(types):
            raise ValueError("each method may come once, in extra too")
        return self


class CEMethod(Spec):
    """Labels alone: plain training, the control that every report shows."""

    type: Literal["ce"]


class SRRLMethod(MethodBase):
    """Feature matching and softmax regression at the penultimate layer, or at any stages."""

    type: Literal["srrl"]
    srrl: SRRLSettings = SRRLSettings()
    extra: Extra = []


class KDMethod(MethodBase):
    """The teacher's softened probabilities."""

    type: Literal["kd"]
    kd: KDSettings = KDSettings()
    extra: Extra = []


class FitNetMethod(MethodBase):
    """One middle map, regressed onto the teacher's."""

    type: Literal["fitnet"]
    fitnet: FitNetSettings = FitNetSettings()
    extra: Extra = []


class ATMethod(MethodBase):
    """Spatial attention of every stage."""

    type: Literal["at"]
    at: ATSettings = ATSettings()
    extra: Extra = []


class RKDMethod(MethodBase):
    """Distances and angles between the images of a batch."""

    type: Literal["rkd"]
    rkd: RKDSettings = RKDSettings()
    extra: Extra = []


class CRDMethod(MethodBase):
    """Contrast of an image's two embeddings against those of many others."""

    type: Literal["crd"]
    crd: CRDSettings = CRDSettings()
    extra: Extra = []


class SPMethod(MethodBase):
    """Similarities between the images of a batch, of the last maps."""

    type: Literal["sp"]
    sp: SPSettings = SPSettings()
    extra: Extra = []


class PKTMethod(MethodBase):
    """Affinities between the images of a batch, as probabilities."""

    type: Literal["pkt"]
    pkt: PKTSettings = PKTSettings()
    extra: Extra = []


class VIDMethod(MethodBase):
    """Likelihood of the teacher's maps given the student's."""

    type: Literal["vid"]
    vid: VIDSettings = VIDSettings()
    extra: Extra = []


class CCMethod(MethodBase):
    """Correlation of embeddings' differences within a batch."""

    type: Literal["cc"]
    cc: CCSettings = CCSettings()
    extra: Extra = []


class NSTMethod(MethodBase):
    """Distributions of channels' spatial patterns."""

    type: Literal["nst"]
    nst: NSTSettings = NSTSettings()
    extra: Extra = []


class DKDMethod(MethodBase):
    """Target and non-target knowledge of the logits, weighed apart."""

    type: Literal["dkd"]
    dkd: DKDSettings = DKDSettings()
    extra: Extra = []


class ReviewKDMethod(MethodBase):
    """Stages fused from the last one back, against the teacher's."""

    type: Literal["reviewkd"]
    reviewkd: ReviewKDSettings = ReviewKDSettings()
    extra: Extra = []


class SimKDMethod(MethodBase):
    """The last map, projected onto the teacher's, behind the teacher's classifier."""

    type: Literal["simkd"]
    simkd: SimKDSettings = SimKDSettings()
    extra: Extra = []


class DISTMethod(MethodBase):
    """Correlations of probabilities, within images and within classes."""

    type: Literal["dist"]
    dist: DISTSettings = DISTSettings()
    extra: Extra = []


_Added = (
    SRRLMethod | KDMethod | FitNetMethod | ATMethod | RKDMethod | CRDMethod | SPMethod | PKTMethod | VIDMethod
    | CCMethod | NSTMethod | DKDMethod | ReviewKDMethod | SimKDMethod | DISTMethod
)  # fmt: skip
ExtraMethod = Annotated[_Added, Field(discriminator="type")]
MethodSpec = Annotated[_Added | CEMethod, Field(discriminator="type")]
METHODS: tuple[type[Spec], ...] = (
    SRRLMethod, CEMethod, KDMethod, FitNetMethod, ATMethod, RKDMethod, CRDMethod, SPMethod, PKTMethod, VIDMethod,
    CCMethod, NSTMethod, DKDMethod, ReviewKDMethod, SimKDMethod, DISTMethod,
)  # fmt: skip
for _method in METHODS:
    _method.model_rebuild()


def negatives(setting: int | Auto, *, num_images: int) -> int:
    """How many CRD draws for an image."""
    if setting != "auto":
        return setting
    return max(1, min(_PUBLISHED_NEGATIVES, round(num_images * _PUBLISHED_NEGATIVES / _PUBLISHED_IMAGES)))


def warmup(setting: int | Auto, *, epochs: int) -> int:
    """Over how many epochs a weight grows: as asked for, or the 20 of 240 that dkd and reviewkd were published with."""
    return math.ceil(epochs / 12) if setting == "auto" else setting


def settings_of(method: Any) -> Any:
    """The settings of a method, which stand under the name of its type; None for labels alone."""
    return getattr(method, method.type, None)


def method_schemas() -> list[dict[str, Any]]:
    """Name, summary and JSON schema with defaults of every method."""
    return [
        {
            "type": method.model_fields["type"].annotation.__args__[0],  # type: ignore[union-attr]
            "summary": method.__doc__,
            "schema": method.model_json_schema(),
        }
        for method in METHODS
    ]
