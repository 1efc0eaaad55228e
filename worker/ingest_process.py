"""The reader of uploads: a process of its own, with limits on memory and time, that checks and converts them.

Standard input: one JSON line, the order. Standard output: one JSON line, ``{"report": ...}`` or ``{"error": ...}``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from distill.architectures import ONNX
from distill.errors import DistillError, InputError
from worker import cage, lifeline

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_CPU_SECONDS = 1800  # where the order tells no other limit
_FREE_ROOM = "Free room there, and make the data set again."


def main() -> None:
    """Do what one order says."""
    order = json.loads(sys.stdin.buffer.readline())
    try:
        if order.get("pickled"):
            cage.lock()  # before there are other threads, which it would not hold
        _go_first()
        lifeline.watch(lambda: os._exit(1))
        _limit_memory(order["memory_bytes"], of_mappings=order["kind"] != "dataset")
        seconds = order.get("cpu_seconds", _CPU_SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))  # the first ends it by SIGXCPU
        answer = {"report": _DUTIES[order["kind"]](order)}
    except DistillError as error:
        answer = {"error": error.as_json()}
    except MemoryError:
        message = f"Reading the file takes more than the {order['memory_bytes']:,} bytes of memory that are allowed."
        refusal = InputError("unsafe_file", message, hint="Send fewer or smaller images, or a smaller network.")
        answer = {"error": refusal.as_json()}
    except OSError as error:
        if error.errno not in _FULL_DISK:
            raise
        answer = {"error": InputError("storage_full", "The worker's disk is full.", hint=_FREE_ROOM).as_json()}
    sys.stdout.write(json.dumps(answer) + "\n")


def _limit_memory(num_bytes: int, *, of_mappings: bool) -> None:
    """Bound what the process takes for itself.

    Linux counts as data what is private and can be written to: all that a decompressor fills, and no data set that is
    mapped from its file, which may be larger than memory.

    Args:
        num_bytes: of memory.
        of_mappings: bound mapped files too, by the same number.
    """
    resource.setrlimit(resource.RLIMIT_DATA, (num_bytes, num_bytes))
    if of_mappings or sys.platform != "linux":  # elsewhere such a limit may not see what is mapped without a file
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, num_bytes))


def _go_first() -> None:
    """Should the machine run out of memory, this process is to end and no other."""
    with contextlib.suppress(OSError):  # where there is no Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def _check_teacher(order: dict[str, Any]) -> dict[str, Any]:
    if order["architecture"] == ONNX:
        _look_at_graph(Path(order["source"]))
    from distill.adoption import adopt
    from distill.conversion import convert
    from distill.teacher_files import TeacherFile, check_teacher_file

    source, target = Path(order["source"]), Path(order["target"])
    found: dict[str, Any] = {}
    if order.get("folder"):
        found = adopt(source, target, may_unpickle=order["pickled"])
        source = target
    elif order["pickled"]:
        convert(source, target)
        source = target
    return found | check_teacher_file(TeacherFile.of({**order, **found, "path": source}))


def _look_at_graph(path: Path) -> None:
    """Refuse what an ONNX file may not hold; before PyTorch is loaded, which takes longer than to read it twice."""
    with contextlib.suppress(ImportError):  # the check itself tells what is missing
        from distill.onnx_graph import read_graph

        read_graph(path)


def _pack_dataset(order: dict[str, Any]) -> dict[str, Any]:
    from distill.data.readers import RawDataset, RawLandmarks, read, read_preset

    source, target, share = Path(order["source"]), Path(order["target"]), order["max_broken_share"]
    raw: RawDataset | RawLandmarks
    if "preset" in order:
        raw = read_preset(
            source, name=order["preset"], sha256=order["sha256"], max_broken_share=share, folder=target.parent
        )
    else:
        raw = read(source, format=order["format"], max_broken_share=share, folder=target.parent)
    # Not above: PyTorch takes a second to load, and a refusal needs none of it.
    from distill.data.overview import pack_and_describe

    return pack_and_describe(raw, target)


def _convert_start(order: dict[str, Any]) -> dict[str, Any]:
    from distill import architectures
    from distill.conversion import convert

    convert(Path(order["source"]), Path(order["target"]), unwrap=architectures.unwrap_student)
    return {}


_DUTIES = {"teacher": _check_teacher, "dataset": _pack_dataset, "start": _convert_start}


if __name__ == "__main__":
    main()
