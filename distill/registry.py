"""From names and specs to networks and methods: the explicit tables, and the way back from a student's file."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from distill import architectures
from distill.architectures import StartFacts, Unwrap
from distill.batch import Method, ResultHead
from distill.errors import InputError
from distill.method_specs import CEMethod, ExtraMethod, MethodSpec, settings_of
from distill.methods.at import AT
from distill.methods.cc import CC
from distill.methods.crd import CRD
from distill.methods.dist import DIST
from distill.methods.dkd import DKD
from distill.methods.fitnet import FitNet
from distill.methods.kd import KD
from distill.methods.nst import NST
from distill.methods.pkt import PKT
from distill.methods.reviewkd import ReviewKD
from distill.methods.rkd import RKD
from distill.methods.simkd import Projector, SimKD
from distill.methods.sp import SP
from distill.methods.srrl import SRRL, Connector, VectorConnector
from distill.methods.vid import VID
from distill.networks import binary, mobilenetv2, resnet, resnet4stage, shufflenetv1, shufflenetv2, timm_zoo, vgg, wrn
from distill.networks.binarisation import unpack_bits
from distill.objective import LabelLoss, Objective
from distill.pairs import Pair
from distill.spec import NetworkOptions, StudentSpec
from distill.students import ReusedHead
from distill.tensorfile import read_header


def _build_timm(name: str, *, options: NetworkOptions, num_classes: int, in_channels: int) -> nn.Module:
    network = timm_zoo.build(name, num_classes=num_classes, in_channels=in_channels)
    network.anatomy = timm_zoo.anatomy_of(network)  # type: ignore[assignment]
    return network


_SAVE_HINT = "Save it with safetensors.torch.save_file(network.state_dict(), path)."
_START = "/student/init"
_FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "resnet": resnet.build,
    "wrn": wrn.build,
    "resnet4stage": resnet4stage.build,
    "vgg": vgg.build,
    "mobilenetv2": mobilenetv2.build,
    "shufflenetv1": shufflenetv1.build,
    "shufflenetv2": shufflenetv2.build,
    "binary": binary.build,
    "timm": _build_timm,
}
_METHODS: dict[str, Callable[..., Method]] = {
    "srrl": SRRL,
    "kd": KD,
    "fitnet": FitNet,
    "at": AT,
    "rkd": RKD,
    "crd": CRD,
    "sp": SP,
    "pkt": PKT,
    "vid": VID,
    "cc": CC,
    "nst": NST,
    "dkd": DKD,
    "reviewkd": ReviewKD,
    "simkd": SimKD,
    "dist": DIST,
}


def build_network(architecture: str, *, options: NetworkOptions, num_classes: int, in_channels: int) -> nn.Module:
    """A freshly initialised network of the zoo.

    Raises:
        InputError: ``architecture_unknown``, with the nearest names; ``invalid_value`` for an option that the
            network does not take.
    """
    family = architectures.blueprint(architecture, options=options).family
    return _FAMILIES[family](architecture, options=options, num_classes=num_classes, in_channels=in_channels)


def build_objective(spec: MethodSpec, *, pair: Pair, label_loss: LabelLoss, label_part: str) -> Objective:
    """What a run descends on, with the layers of its methods made for this pair."""
    if isinstance(spec, CEMethod):
        return Objective(label_loss, label_part=label_part)
    methods = [build_method(spec, pair=pair)]
    for number, term in enumerate(spec.extra):
        with _pointing_at(f"/method/extra/{number}"):
            methods.append(build_method(term, pair=pair))
    weight = settings_of(spec).label_weight
    return Objective(label_loss, label_part=label_part, label_weight=weight, methods=methods)


def build_method(spec: ExtraMethod, *, pair: Pair) -> Method:
    """One method, without its extra terms.

    Raises:
        InputError: ``invalid_value`` when it cannot work between these networks.
    """
    return _METHODS[spec.type](settings_of(spec), pair=pair)


@contextmanager
def _pointing_at(place: str) -> Iterator[None]:
    """What a method refuses is said of its place in the request: by itself it takes its place for ``/method``."""
    try:
        yield
    except InputError as error:
        error.param = (error.param or "/method").replace("/method", place, 1)
        raise


def load_weights(
    network: nn.Module, path: Path, *, without: Collection[str] = (), unwrap: Unwrap = architectures.unwrap
) -> dict[str, str]:
    """Strictly load a safetensors file into a network and return the file's metadata.

    Prefixes that wrappers add to names are removed, and what stands beside the weights is left out; every value
    must be finite.

    Args:
        without: names of layers that keep what they have, whatever the file holds for them.
        unwrap: finds the weights among the file's names.

    Raises:
        InputError: ``state_dict_mismatch`` or ``upload_corrupt``.
    """
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise InputError("upload_corrupt", f"{path.name}: {error}.", hint=_SAVE_HINT, param="/teacher") from error
    weights = unwrap({name: tuple(tensor.shape) for name, tensor in tensors.items()})
    clean = architectures.clean_names(weights.shapes)
    given = {clean[name]: tensors[weights.prefix + name] for name in weights.shapes}
    state = {name: tensor for name, tensor in given.items() if _layer_of(name) not in without}
    own = {name: value for name, value in network.state_dict().items() if _layer_of(name) in without}
    try:
        network.load_state_dict(unpack_bits(network, state) | own, strict=True)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "state_dict_mismatch",
            str(error)[:500],
            hint="Name the architecture that these are the weights of; GET /networks lists them.",
            param="/teacher/architecture",
            details=_differences(network, state),
        ) from error
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise InputError(
            "upload_corrupt",
            f"{len(bad)} tensors hold NaN or infinity, the first is {bad[0]!r}.",
            hint="Save the weights of a finished, healthy training.",
            param="/teacher",
        )
    return _metadata(path)


def _differences(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The first ten names that are missing, unexpected and of another shape."""
    expected = network.state_dict()
    misshapen = [
        {"name": name, "expected": list(tensor.shape), "found": list(state[name].shape)}
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    found: dict[str, list[Any]] = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "misshapen": misshapen,
    }
    return {kind: names[: architectures.NUM_REPORTED] for kind, names in found.items()}


def load_start(
    network: nn.Module, path: Path, *, student: StudentSpec, num_classes: int, in_channels: int
) -> StartFacts:
    """Load the weights that a student starts from; classifiers of another number of classes stay as they are.

    The file may be a student's of an earlier job: of weights that were packed the signs are known and become 1 and -1,
    and of a student that classifies with its teacher's head its own network is taken. It is held to the limits on
    headers and to the network's names and shapes before a library reads it.

    Raises:
        InputError: ``state_dict_mismatch``, ``upload_corrupt``, ``unsupported_format`` or ``unsafe_file``.
    """
    name, options = student.name, student.options
    try:
        weights = architectures.unwrap_student(read_header(path).shapes)
        found = architectures.match_start(
            name,
            weights.shapes,
            options=options,
            num_classes=num_classes,
            in_channels=in_channels,
            param=_START,
        )
        heads = architectures.blueprint(name, options=options).classifiers
        without = () if found.keeps_head else heads
        load_weights(network, path, without=without, unwrap=architectures.unwrap_student)
    except InputError as error:
        error.param = _START
        raise
    return replace(found, ignored=weights.ignored)


def _layer_of(name: str) -> str:
    """The layer that holds a tensor of this name."""
    return name.rpartition(".")[0]


def load_student(path: Path) -> nn.Module:
    """A distilled student, in eval mode, ready for normalised images: (B, C, H, W) to logits (B, K).

    Everything needed stands in the file's header, see :func:`distill.students.save`.

    Raises:
        InputError: ``state_dict_mismatch`` when header and tensors disagree, ``unsupported_format`` when the
            file is not one of Limbeck's students.
    """
    try:
        network = _student(_metadata(path))
    except (SafetensorError, KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise InputError(
            "unsupported_format",
            f"{path.name} is not one of Limbeck's students: {error!r}.",
            hint="Give the student.safetensors of a finished job.",
        ) from error
    load_weights(network, path)
    return network.eval()


def _student(metadata: dict[str, str]) -> nn.Module:
    classes, channels = int(metadata["num_classes"]), int(metadata["in_channels"])
    options = NetworkOptions.model_validate_json(metadata["options"])
    network = build_network(metadata["architecture"], options=options, num_classes=classes, in_channels=channels)
    if metadata["head"] == "own":
        return network
    facts: dict[str, Any] = json.loads(metadata["connector"])
    classifier = nn.Linear(facts["widths"][1], classes)
    return ReusedHead(network, head=ResultHead(connector=_connector(facts), classifier=classifier, facts=facts))


def _connector(facts: dict[str, Any]) -> nn.Module:
    """An empty connector, as :meth:`distill.batch.Method.result_head` described it."""
    student_width, teacher_width = facts["widths"]
    kinds: dict[str, Callable[[], nn.Module]] = {
        "map": lambda: Connector(student_width, teacher_width, relu=facts["relu"]),
        "vector": lambda: VectorConnector(student_width, teacher_width, relu=facts["relu"]),
        "projector": lambda: Projector(student_width, teacher_width, factor=facts["factor"], size=facts["size"]),
    }
    return kinds[facts["kind"]]()


def _metadata(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})
