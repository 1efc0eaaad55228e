"""Children that end with their parent: on Linux by the kernel's parent-death signal.

The signal fires when the *thread* that started the child ends, so that thread must live as long as the child.
Elsewhere nothing happens here, and a pipe whose end means stop does the work alone.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

# A program of its own instead of `preexec_fn`, which is unsafe in a process with threads. The parent may have
# died before prctl (1 is PR_SET_PDEATHSIG): then nobody will send the signal, and the answer is to end here.
_LAUNCHER = """
import ctypes, os, sys
signum, parent, *argv = sys.argv[1:]
ctypes.CDLL(None).prctl(1, int(signum), 0, 0, 0)
if os.getppid() != int(parent):
    sys.exit(0)
os.execv(argv[0], argv)
"""


def argv_dying_with_parent(
    argv: Sequence[str | os.PathLike[str]], *, signum: signal.Signals = signal.SIGTERM
) -> list[str]:
    """The command line that starts ``argv`` and has it sent ``signum`` when the calling thread ends.

    The first word must be a full path; the program keeps the pid that ``Popen`` gave. Outside Linux the
    command comes back as it is.
    """
    command = [os.fspath(word) for word in argv]
    if not sys.platform.startswith("linux"):
        return command
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(int(signum)), str(os.getpid()), *command]
