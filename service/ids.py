"""Ids: a type prefix and a ULID, so that they sort by creation."""

from __future__ import annotations

from ulid import ULID


def new_id(prefix: str) -> str:
    """A fresh id such as ``dj_01K...``; prefixes: dj job, tch teacher, ds data set, up upload, sw sweep."""
    return f"{prefix}_{ULID()}"
