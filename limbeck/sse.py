"""Server-sent events from bytes, by the parsing rules of the WHATWG HTML standard, section 9.2.6."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_LINE_END = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True)
class Message:
    """One dispatched message; ``id`` is the last one seen, empty when there was none."""

    id: str
    event: str
    data: str


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """The complete lines of a stream; one that the stream breaks off is not complete.

    Not ``str.splitlines``, which also splits at characters that JSON may hold, such as U+2028.
    """
    rest = b""
    for chunk in chunks:
        rest += chunk
        # A carriage return at the very end may be half of a line end: wait for what follows.
        ready, held = (rest[:-1], b"\r") if rest.endswith(b"\r") else (rest, b"")
        *complete, rest = _LINE_END.split(ready)
        rest += held
        for line in complete:
            yield line.decode("utf-8", errors="replace")
    if rest.endswith(b"\r"):
        yield rest[:-1].decode("utf-8", errors="replace")


def messages(chunks: Iterable[bytes]) -> Iterator[Message]:
    """The messages of a stream. A message that the stream breaks off is dropped, as the standard says."""
    last_id, event, data = "", "", list[str]()
    for number, raw in enumerate(lines(chunks)):
        line = raw.removeprefix("\ufeff") if number == 0 else raw
        if not line:
            if data:
                yield Message(last_id, event or "message", "\n".join(data))
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_id = value
