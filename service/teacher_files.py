"""What an uploaded file of weights is, by its outline alone: names, shapes, and what stands beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill import architectures, model_folders
from distill.architectures import AUTO, ONNX, TeacherFacts, Unwrap, Weights
from distill.data.archive import LongOutline
from distill.data.opening import open_upload
from distill.errors import InputError
from distill.pickled import SAVE_WEIGHTS
from distill.spec import NetworkOptions
from distill.tensorfile import read_header
from distill.torchfile import TorchFile, kind_of
from service.settings import settings

_PICKLED = "pytorch"
_OUTLINE_BYTES = 128 * 2**20  # to which a tar.gz is unpacked here; a worker unpacks larger ones


@dataclass(frozen=True)
class Found:
    """The weights in a file.

    Attributes:
        weights: by name.
        format: ``safetensors`` or ``pytorch``.
        metadata: of the file's header.
    """

    weights: Weights
    format: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    def report(self) -> dict[str, Any]:
        """For the teacher's report: which dictionary was taken, and what was not."""
        return {"format": self.format, **self.weights.report()}


@dataclass(frozen=True, kw_only=True)
class Outlined:
    """What an upload's outline tells of a teacher.

    Attributes:
        architecture: ``auto`` where only a worker can find out.
        facts: None where only a worker can look into the file.
        classes: their names; None where the outline has none.
        report: for the teacher.
    """

    architecture: str
    options: NetworkOptions
    facts: TeacherFacts | None = None
    classes: list[str] | None = None
    report: dict[str, Any]


def outline(path: Path, *, architecture: str | None, options: NetworkOptions, at: str) -> Outlined:
    """Look into an upload, whatever its name.

    Args:
        path: of the upload.
        architecture: a name of the zoo, ``onnx``, or None and ``auto``: what the file says.
        options: of that network.
        at: JSON pointer of the teacher in the request.

    Raises:
        InputError: ``architecture_unknown``, ``invalid_value``, ``state_dict_mismatch``, ``unsupported_format``,
            ``upload_corrupt`` or ``unsafe_file``.
    """
    if architecture == ONNX:
        if options != NetworkOptions():
            raise InputError(
                "invalid_value", "An ONNX file takes no options.", hint="Leave them out.", param=f"{at}/options"
            )
        return Outlined(architecture=ONNX, options=options, report={})
    if architecture not in (None, AUTO):
        architectures.check(architecture or "", options=options, param=f"{at}/architecture")
    if kind_of(path) == "archive":
        found = _outline_of_folder(path, at=at)
        _check_same(found, architecture, options, at=at)
        return found
    return _outline_of_file(path, architecture, options, param=f"{at}/architecture")


def _outline_of_file(path: Path, architecture: str | None, options: NetworkOptions, *, param: str) -> Outlined:
    found = look(path)
    if architecture in (None, AUTO):
        architecture = found.metadata.get("architecture")
        if architecture is None:
            raise InputError(
                "architecture_unknown",
                "Nothing says what network these are the weights of.",
                hint="Give its architecture, a name from GET /networks, or send a folder with its config.json.",
                param=param,
            )
        given = model_folders.options_in(found.metadata.get("options"))
        options = NetworkOptions.model_validate({"width": given.width, "stem_stride": given.stem_stride})
    assert architecture is not None
    facts = architectures.match_state(architecture, found.weights.shapes, options=options, param=param)
    report = {"feature_width": facts.feature_width, "file": found.report()}
    return Outlined(architecture=architecture, options=options, facts=facts, report=report)


def _outline_of_folder(path: Path, *, at: str) -> Outlined:
    nothing = Outlined(architecture=AUTO, options=NetworkOptions(), report=unread_folder())
    try:
        with open_upload(path, at_most=_OUTLINE_BYTES) as source:
            contents = model_folders.find(source)
            description = model_folders.describe(contents)
            if contents.is_pickled:
                check_allowed(model_folders.SAVE_SAFELY)
                return Outlined(
                    architecture=AUTO, options=NetworkOptions(), report={"file": {"format": _PICKLED, "folder": {}}}
                )
            found = model_folders.outline_of(source, contents.weights)
    except LongOutline:
        return nothing
    except InputError as error:
        if error.code == "unsupported_format":
            error.hint = error.hint if "config.json" in error.hint else model_folders.NEEDED
        raise
    network = model_folders.match(description, found, param=f"{at}/upload_id")
    options = NetworkOptions.model_validate(
        {"width": network.options.width, "stem_stride": network.options.stem_stride}
    )
    report = {
        "feature_width": network.facts.feature_width,
        "file": model_folders.report(contents, description, network),
    }
    return Outlined(
        architecture=network.architecture,
        options=options,
        facts=network.facts,
        classes=list(description.classes) if description.classes is not None else None,
        report=report,
    )


def unread_folder() -> dict[str, Any]:
    """The report of a teacher that is a folder which a worker is yet to read."""
    return {"file": {"format": "safetensors", "folder": {}}}


def _check_same(found: Outlined, architecture: str | None, options: NetworkOptions, *, at: str) -> None:
    """A folder says itself what it is; a request may repeat it.

    Raises:
        InputError: ``invalid_value``.
    """
    hint = "Leave architecture and options out, or send the weights alone."
    if architecture not in (None, AUTO, found.architecture):
        message = f"The folder's config says {found.architecture}, and the request {architecture}."
        raise InputError("invalid_value", message, hint=hint, param=f"{at}/architecture")
    if options not in (NetworkOptions(), found.options):
        message = "The folder's config says what options its network has."
        raise InputError("invalid_value", message, hint=hint, param=f"{at}/options")


def look(path: Path, *, unwrap: Unwrap = architectures.unwrap) -> Found:
    """Find the weights in an upload that is no folder, whatever its name.

    Args:
        unwrap: finds them among dictionaries and names.

    Raises:
        InputError: ``unsupported_format``, it is a pickle and LIMBECK_ALLOW_PICKLE is not set, or of the old format;
            ``upload_corrupt`` or ``unsafe_file``.
    """
    kind = kind_of(path)
    if kind == "other":
        header = read_header(path)
        return Found(unwrap(header.shapes), "safetensors", header.metadata)
    if kind == "archive":
        raise InputError("unsupported_format", "This is an archive and no file of weights.", hint=SAVE_WEIGHTS)
    check_allowed()
    if kind == "pickle":
        raise InputError(
            "unsupported_format",
            "This is a pickle without a zip around it, as PyTorch wrote before version 1.6.",
            hint="Load it with a current PyTorch and save it again. " + SAVE_WEIGHTS,
        )
    with TorchFile(path) as file:
        return Found(unwrap(file.tree), _PICKLED)


def is_pickled(report: Mapping[str, Any]) -> bool:
    """Whether an upload has to be converted, by the report of a teacher or what a job keeps of its start."""
    return bool(report.get("file", {}).get("format") == _PICKLED)


def is_folder(report: Mapping[str, Any]) -> bool:
    """Whether it is a folder, whose weights have to be renamed."""
    return "folder" in report.get("file", {})


def check_request(request: Mapping[str, Any]) -> None:
    """Whether this machine's operator, too, lets an input be prepared: workers have settings of their own.

    Raises:
        InputError: ``unsupported_format``.
    """
    if request.get("pickled"):
        check_allowed()


def check_allowed(hint: str = "") -> None:
    """Whether the operator lets pickles in.

    Raises:
        InputError: ``unsupported_format``.
    """
    if not settings().allow_pickle:
        raise InputError(
            "unsupported_format",
            "Not a usable safetensors file: this is a pickle or a zip of pickles, which can carry code.",
            hint=hint
            or (
                "Save it with safetensors.torch.save_file(network.state_dict(), path), or have the operator set "
                "LIMBECK_ALLOW_PICKLE=1."
            ),
        )
