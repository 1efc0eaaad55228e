"""Lists within an upload: their text, and the members that their paths mean. Standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import islice

from distill.data.archive import shown
from distill.data.source import Source
from distill.errors import InputError

MAX_LIST_BYTES = 64 * 2**20
_ASKED = 20


def read_lines(source: Source, member: str) -> list[tuple[int, str]]:
    """The lines of a list that are not empty, with their numbers from 1.

    Raises:
        InputError: ``unsafe_file`` beyond 64 MiB, ``dataset_unreadable`` when it is no text.
    """
    lines = read_text(source, member).split("\n")
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]


def read_text(source: Source, member: str) -> str:
    """A list as it is.

    Raises:
        InputError: as :func:`read_lines`.
    """
    if (size := source.files[member].file_size) > MAX_LIST_BYTES:
        message = f"{shown(member)} takes {size:,} bytes; the limit is {MAX_LIST_BYTES:,}"
        raise InputError("unsafe_file", message, hint="Send fewer rows, or only the columns that are read.")
    try:
        return source.read(member).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{shown(member)} is no text in UTF-8: {error.reason}"
        raise InputError("dataset_unreadable", message, hint="Save the list as UTF-8.") from error


def plain(path: str) -> str:
    """A path of a list as the archive would write it."""
    return path.replace("\\", "/").removeprefix("./")


def locate(paths: Sequence[str], *, among: Collection[str]) -> dict[str, str]:
    """The member that each path of a list means; paths without one are left out.

    Lists name images from some folder on, and archives wrap folders around. All paths are taken from the one
    folder in which most of the first paths are found.

    Args:
        paths: as :func:`plain` gives them.
        among: the archive's images.
    """
    asked = [(path, f"/{path}") for path in islice(dict.fromkeys(paths), _ASKED)]
    folders = Counter(
        member[: len(member) - len(path)]
        for member in among
        for path, end in asked
        if member == path or member.endswith(end)
    )
    folder = max(folders, key=lambda name: (folders[name], -len(name)), default="")
    known = set(among)
    return {path: folder + path for path in paths if folder + path in known}
