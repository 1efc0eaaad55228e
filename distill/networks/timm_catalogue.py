"""Writes the table that ``distill.architectures.timm_names`` reads: ``python -m distill.networks.timm_catalogue``.

Every number in it comes from a network that was built. Parameters and multiply-adds are counted on the meta
device, where a network weighs nothing; what holds of the head and of the stages is shown with real numbers on
all but the largest. It takes about an hour of one core, and goes on where it was when it is started again; with
a higher ``--largest-proved`` it then shows what it left open.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from distill.architectures.timm_names import COLUMNS, NUM_CHANNELS, NUM_CLASSES, TABLE
from distill.networks.dissection import Findings
from distill.networks.timm_zoo import create, findings_of, import_timm, published

LARGEST_PROVED = 100  # million parameters
FEW_CLASSES, GREY = 10, 1
Row = dict[str, Any]


def describe(plain_name: str, *, largest_proved: float = LARGEST_PROVED) -> Row:
    """The row of one network by the names of ``COLUMNS``, its preprocessing written out.

    Args:
        plain_name: as timm lists it.
        largest_proved: in millions of parameters.

    Raises:
        ValueError: it does not classify.
    """
    network = _weightless(plain_name, NUM_CLASSES, NUM_CHANNELS)
    if not hasattr(network, "get_classifier"):
        raise ValueError("an encoder without a classifier")
    record = published(network)
    image_size = tuple(record["input_size"][1:])
    parameters = _num_parameters(network)
    findings = _findings(plain_name, network, is_proved=parameters <= largest_proved * 1e6)
    few = _weightless(plain_name, FEW_CLASSES, NUM_CHANNELS)
    per_channel = _parameters_per_channel(plain_name, parameters, image_size)
    if per_channel is None and not _trains(network, (NUM_CHANNELS, *image_size)):
        raise ValueError("it does not answer logits while it trains")
    return {
        "stage_widths": list(findings.stage_widths),
        "feature_widths": list(findings.feature_widths),
        "classifiers": list(findings.anatomy.classifiers),
        "pooled": findings.anatomy.pooling is not None if findings.proved else None,
        "parameters": parameters,
        "parameters_per_class": _exact(parameters - _num_parameters(few), NUM_CLASSES - FEW_CLASSES),
        "parameters_per_channel": per_channel,
        "macs": _macs(network, image_size),
        "image_size": list(image_size),
        "fixed_size": bool(record["fixed_input_size"]),
        "preprocessing": [list(record["mean"]), list(record["std"]), record["interpolation"], record["crop_pct"]],
    }


class _SkipInitialisation(TorchFunctionMode):
    """In-place arithmetic on the meta device changes nothing, and takes most of the time of building a network."""

    SKIPPED = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.SKIPPED and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def _weightless(plain_name: str, num_classes: int, in_channels: int) -> nn.Module:
    with torch.device("meta"), _SkipInitialisation():
        return create(plain_name, num_classes=num_classes, in_channels=in_channels)


def _num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _findings(plain_name: str, weightless: nn.Module, *, is_proved: bool) -> Findings:
    if not is_proved:
        return findings_of(weightless)
    return findings_of(create(plain_name, num_classes=NUM_CLASSES, in_channels=NUM_CHANNELS))


def _parameters_per_channel(plain_name: str, parameters: int, image_size: tuple[int, ...]) -> int | None:
    """None where the network is not to be had for grey images."""
    try:
        grey = _weightless(plain_name, NUM_CLASSES, GREY)
    except (RuntimeError, AssertionError, ValueError, TypeError):
        return None
    if not _trains(grey, (GREY, *image_size)):
        return None
    return _exact(parameters - _num_parameters(grey), NUM_CHANNELS - GREY)


def _trains(network: nn.Module, image_shape: tuple[int, ...]) -> bool:
    """Whether it takes such images and answers plain logits in train mode; false where it breaks."""
    try:
        logits = network.train()(torch.empty(2, *image_shape, device="meta"))
    except (RuntimeError, AssertionError, ValueError):
        return False
    return isinstance(logits, Tensor) and logits.shape == (2, NUM_CLASSES)


def _exact(difference: int, steps: int) -> int:
    each, rest = divmod(difference, steps)
    if rest:
        raise ValueError("its parameters do not grow in equal steps")
    return each


def _macs(network: nn.Module, image_size: tuple[int, ...]) -> int | None:
    counter = FlopCounterMode(display=False)
    try:
        with counter:  # without gradients it stumbles over modules that put out tuples
            network.eval()(torch.empty(1, NUM_CHANNELS, *image_size, device="meta"))
    except (RuntimeError, NotImplementedError):  # a path that depends on numbers
        return None
    return counter.get_total_flops() // 2


def _line(plain_name: str, *, largest_proved: float) -> Row:
    """One line of the work file; what fails says why and stops nothing."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # timm's own, of networks under their old names
    try:
        return {"name": plain_name, "row": describe(plain_name, largest_proved=largest_proved)}
    except Exception as error:
        return {"name": plain_name, "skipped": f"{type(error).__name__}: {error}"[:200]}


def survey(work: Path, *, num_workers: int, largest_proved: float) -> None:
    """Describe every network that the work file lacks, or leaves open and may now show; one JSON object a line."""
    done = {name for name, line in _lines(work).items() if not _is_open(line, largest_proved)}
    open_names = [name for name in import_timm().list_models() if name not in done]
    describe_line = functools.partial(_line, largest_proved=largest_proved)
    # Fresh processes now and then give memory back.
    with (
        work.open("a", encoding="utf-8") as file,
        multiprocessing.get_context("spawn").Pool(num_workers, maxtasksperchild=50) as pool,
    ):
        for line in pool.imap_unordered(describe_line, open_names):
            file.write(json.dumps(line) + "\n")
            file.flush()


def _is_open(line: Row, largest_proved: float) -> bool:
    row = line.get("row")
    return row is not None and row["pooled"] is None and row["parameters"] <= largest_proved * 1e6


def _lines(work: Path) -> dict[str, Row]:
    """Name -> its last line in the work file."""
    lines = work.read_text(encoding="utf-8").splitlines() if work.exists() else []
    return {line["name"]: line for line in map(json.loads, lines)}


def table(lines: Iterable[Row], *, version: str) -> str:
    """The table as JSON, one network a line, sorted by name."""
    by_name = sorted(lines, key=lambda line: str(line["name"]))
    rows = {line["name"]: line["row"] for line in by_name if "row" in line}
    skipped = {line["name"]: line["skipped"] for line in by_name if "skipped" in line}
    ways = sorted({json.dumps(row["preprocessing"]) for row in rows.values()})
    cells = {
        name: [ways.index(json.dumps(row[column])) if column == "preprocessing" else row[column] for column in COLUMNS]
        for name, row in rows.items()
    }
    parts = {
        "timm": json.dumps(version),
        "columns": json.dumps(COLUMNS),
        "skipped": json.dumps(skipped),
        "preprocessing": "[\n" + ",\n".join(ways) + "\n]",
        "networks": "{\n" + ",\n".join(f"{json.dumps(name)}:{_compact(cell)}" for name, cell in cells.items()) + "\n}",
    }
    return "{" + ",\n".join(f'"{key}":{value}' for key, value in parts.items()) + "}\n"


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def main(arguments: list[str]) -> None:
    """Survey timm, then write the table."""
    parser = argparse.ArgumentParser(prog="timm_catalogue", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("timm_catalogue.jsonl"), help="keeps what is done so far")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--largest-proved", type=float, default=LARGEST_PROVED, help="million parameters")
    parser.add_argument("--out", type=Path, default=TABLE)
    asked = parser.parse_args(arguments)
    survey(asked.work, num_workers=asked.workers, largest_proved=asked.largest_proved)
    asked.out.write_text(table(_lines(asked.work).values(), version=import_timm().__version__), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
