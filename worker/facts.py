"""What a worker has: told once, at its start, so that jobs come to where they can run. Without importing torch."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
from typing import Any

from service import __version__
from service.logs import logger
from service.settings import settings

log = logger(__name__)

_SECONDS = 10.0
_MIB = 2**20


def collect() -> dict[str, Any]:
    """``host``, ``pid``, ``cores``, ``version``, ``device`` (cpu, cuda or mps), ``device_name``, ``memory_bytes``.

    The memory is that of the device that trainers run on; None where it cannot be told.
    """
    device, name, memory = _device()
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "cores": os.cpu_count(),
        "version": __version__,
        "device": device,
        "device_name": name,
        "memory_bytes": memory,
    }


def _device() -> tuple[str, str, int | None]:
    asked = settings().device
    if asked in ("auto", "cuda") and (found := _nvidia()) is not None:
        return "cuda", *found
    if asked in ("cuda", "mps"):
        return asked, asked, None
    if asked == "auto" and platform.system() == "Darwin" and platform.machine() == "arm64":
        return "mps", "Apple", _main_memory()
    return "cpu", platform.processor() or platform.machine(), _main_memory()


def _nvidia() -> tuple[str, int] | None:
    """Name and memory of the first device that the driver shows."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True).stdout
        name, megabytes = said.splitlines()[0].rsplit(",", 1)
        return name.strip(), int(megabytes) * _MIB
    except FileNotFoundError:
        return None
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        log.warning("the driver of the GPU does not answer; jobs that need one are left to others", error=str(error))
        return None


def _main_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
