"""A child must not outlive its parent: standard input is the lifeline, and its end means exit."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable


def watch(on_parent_gone: Callable[[], None]) -> None:
    """Call back, from a thread, once standard input ends: the parent closed it or died."""

    descriptor = sys.stdin.fileno()

    def wait() -> None:
        # Not through sys.stdin: its lock, held by a waiting thread, is fatal when the interpreter ends.
        while os.read(descriptor, 4096):
            pass
        on_parent_gone()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
