"""The methods as people write them. Free of torch."""

from __future__ import annotations

METHOD_NAMES = {
    "ce": "CE",
    "srrl": "SRRL",
    "kd": "KD",
    "fitnet": "FitNet",
    "at": "AT",
    "rkd": "RKD",
    "crd": "CRD",
    "sp": "SP",
    "pkt": "PKT",
    "vid": "VID",
    "cc": "CC",
    "nst": "NST",
    "dkd": "DKD",
    "reviewkd": "ReviewKD",
    "simkd": "SimKD",
    "dist": "DIST",
}
"""By their type in a request."""


def method_title(method: str) -> str:
    """``srrl + kd``, as reports have it, becomes SRRL + KD; a name that is not known stays as it is."""
    return " + ".join(METHOD_NAMES.get(name, name) for name in method.split(" + "))


def student_title(method: str | None) -> str:
    """What heads the column of a student that was trained by this method."""
    if method == "ce":
        return "Student, labels alone"
    return f"Student by {method_title(method)}" if method else "Student"
