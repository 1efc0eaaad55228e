"""The reader of uploads: a process of its own, with limits on memory and time, that checks and converts them.

Standard input: one JSON line, the order. Standard output: one JSON line, ``{"report": ...}`` or ``{"error": ...}``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from distill.errors import DistillError, InputError
from worker import cage, lifeline

_MEMORY_BYTES = 8 * 2**30
_CPU_SECONDS = 1800


def main() -> None:
    """Do what one order says."""
    order = json.loads(sys.stdin.buffer.readline())
    try:
        if order.get("pickled"):
            cage.lock()  # before there are other threads, which it would not hold
        lifeline.watch(lambda: os._exit(1))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
        answer = {"report": _DUTIES[order["kind"]](order)}
    except DistillError as error:
        answer = {"error": error.as_json()}
    except MemoryError:
        message = f"Reading the file takes more than the {_MEMORY_BYTES:,} bytes of memory that are allowed."
        refusal = InputError("unsafe_file", message, hint="Send fewer or smaller images, or a smaller network.")
        answer = {"error": refusal.as_json()}
    sys.stdout.write(json.dumps(answer) + "\n")


def _check_teacher(order: dict[str, Any]) -> dict[str, Any]:
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


def _pack_dataset(order: dict[str, Any]) -> dict[str, Any]:
    from distill.data.overview import pack_and_describe
    from distill.data.readers import read, read_preset

    source, target = Path(order["source"]), Path(order["target"])
    if "preset" in order:
        return pack_and_describe(read_preset(source, name=order["preset"], sha256=order["sha256"]), target)
    return pack_and_describe(read(source, format=order["format"]), target)


def _convert_start(order: dict[str, Any]) -> dict[str, Any]:
    from distill import architectures
    from distill.conversion import convert

    convert(Path(order["source"]), Path(order["target"]), unwrap=architectures.unwrap_student)
    return {}


_DUTIES = {"teacher": _check_teacher, "dataset": _pack_dataset, "start": _convert_start}


if __name__ == "__main__":
    main()
