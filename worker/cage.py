"""No network, no other programs, no reach into other processes: Linux's seccomp, for a process that reads pickles.

Should a hostile file ever get code to run in spite of everything before, this is what it finds. The filter is
inherited by all that the process starts, and nothing takes it off again.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from typing import NoReturn

from distill.errors import InputError

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_EQUAL, _JUMP_GREATER_OR_EQUAL, _RETURN = 0x20, 0x15, 0x35, 0x06  # of the Berkeley packet filter
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in what the kernel shows to a filter
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000
_FOREIGN_NUMBERS = 0x40000000  # of x86's third way to call the kernel
# socket, execve, execveat, ptrace, process_vm_readv, process_vm_writev, kill, rt_sigqueueinfo, pidfd_send_signal,
# io_uring_setup (which opens sockets, too)
_FORBIDDEN = {
    "x86_64": (0xC000003E, (41, 59, 322, 101, 310, 311, 62, 129, 424, 425)),
    "aarch64": (0xC00000B7, (198, 221, 281, 117, 270, 271, 129, 138, 424, 425)),
}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def lock() -> None:
    """Shut this thread in, and all that it will start.

    Raises:
        InputError: ``unsupported_format``, this machine cannot; then no pickle is read on it.
    """
    known = _FORBIDDEN.get(platform.machine()) if sys.platform == "linux" else None
    if known is None:
        _give_up(f"{sys.platform} on {platform.machine()}")
    instructions = _filter(*known)
    program = _Program(len(instructions), b"".join(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))):
        if libc.prctl(*call) != 0:
            _give_up(f"errno {ctypes.get_errno()}")


def _filter(architecture: int, forbidden: tuple[int, ...]) -> list[bytes]:
    """Fail what is forbidden or made for another architecture; allow the rest."""
    checks = [(_JUMP_GREATER_OR_EQUAL, _FOREIGN_NUMBERS), *((_JUMP_EQUAL, number) for number in forbidden)]
    lines = [
        _instruction(_LOAD_WORD, value=_ARCHITECTURE_AT),
        _instruction(_JUMP_EQUAL, value=architecture, otherwise=len(checks) + 2),
        _instruction(_LOAD_WORD, value=_NUMBER_AT),
    ]
    lines += [_instruction(code, value=value, then=len(checks) - place) for place, (code, value) in enumerate(checks)]
    return [*lines, _instruction(_RETURN, value=_ALLOW), _instruction(_RETURN, value=_FAIL | errno.EPERM)]


def _instruction(code: int, *, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    """One line of the filter; ``then`` and ``otherwise`` say how many lines to skip."""
    return struct.pack("=HBBI", code, then, otherwise, value)


def _give_up(why: str) -> NoReturn:
    raise InputError(
        "unsupported_format",
        f"This machine cannot confine the reading of pickles ({why}).",
        hint="Save it with safetensors.torch.save_file(network.state_dict(), path).",
    )
