"""Single byte ranges (RFC 9110, section 14); what is malformed or multiple is answered with the whole."""

from __future__ import annotations

import re

from service.errors import RangeNotSatisfiable

_RANGE = re.compile(r"bytes=\s*(\d{0,19})\s*-\s*(\d{0,19})\s*", re.IGNORECASE)


def requested(header: str | None, *, if_range: str | None, etag: str, size: int) -> tuple[int, int] | None:
    """Start and stop (exclusive) of the bytes that are asked for, or None for all of them.

    Args:
        header: Range.
        if_range: If-Range; anything but this strong ``etag`` means that the bytes have changed.

    Raises:
        RangeNotSatisfiable: the range begins behind the end.
    """
    match = _RANGE.fullmatch(header) if header else None
    if match is None or (if_range is not None and if_range.strip() != etag):
        return None
    first, last = match[1], match[2]
    if not first and not last:
        return None
    if first and last and int(last) < int(first):
        return None
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size or start >= stop:
        error = RangeNotSatisfiable(f"There are {size} bytes.", hint="Ask for a range that begins before the end.")
        error.headers = {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"}
        raise error
    return start, stop
