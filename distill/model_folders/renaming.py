"""From the names that one library gives to a network's tensors to those of another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from distill.architectures import Shape
from distill.data.archive import shown
from distill.errors import InputError

Parts = Mapping[str, tuple[str, ...]]
"""New name -> the old names of what it is made of, joined along the first axis; mostly one."""


@dataclass(frozen=True)
class Rule:
    """How the tensors of one layer are called.

    Attributes:
        pattern: of the layer's whole name, or of a tensor that belongs to no layer; ``#`` stands for a number.
        to: the new name, of those numbers.
        part: which piece it is, where several layers become one; counted from 0.
    """

    pattern: str
    to: Callable[..., str]
    part: int = 0


@dataclass(frozen=True)
class Renaming:
    """Rules, the first that fits is taken; a name that none fits stays as it is.

    Attributes:
        rules: in their order.
        prefix: is taken off all names first.
        dropped: beginnings of names of what the network does not need.
    """

    rules: tuple[Rule, ...] = ()
    prefix: str = ""
    dropped: tuple[str, ...] = ()

    def parts(self, names: Iterable[str]) -> Parts:
        """What the tensors become.

        Raises:
            InputError: ``state_dict_mismatch``, two come to have one name, or a piece of one is missing.
        """
        found: dict[str, dict[int, str]] = {}
        for name in names:
            if self.dropped and name.startswith(self.dropped):
                continue
            new, part = self._renamed(name.removeprefix(self.prefix))
            pieces = found.setdefault(new, {})
            if part in pieces:
                _refuse(f"{shown(name)} and {shown(pieces[part])} are both {shown(new)}")
            pieces[part] = name
        for new, pieces in found.items():
            if sorted(pieces) != list(range(len(pieces))):
                _refuse(f"a piece of {shown(new)} is missing: there is only {shown(', '.join(pieces.values()))}")
        return {new: tuple(pieces[part] for part in sorted(pieces)) for new, pieces in found.items()}

    def _renamed(self, name: str) -> tuple[str, int]:
        for rule in self.rules:
            found = _compiled(rule.pattern).fullmatch(name)
            if found is not None:
                *numbers, leaf = found.groups()
                return rule.to(*map(int, numbers)) + (f".{leaf}" if leaf else ""), rule.part
        return name, 0


PLAIN = Renaming()


def shapes_of(parts: Parts, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes under the new names.

    Raises:
        InputError: ``state_dict_mismatch``, pieces do not fit together.
    """
    return {new: _joined(new, [shapes[name] for name in names]) for new, names in parts.items()}


def _joined(name: str, shapes: list[Shape]) -> Shape:
    if len(shapes) == 1:
        return shapes[0]
    if any(not shape for shape in shapes) or len({shape[1:] for shape in shapes}) != 1:
        _refuse(f"the pieces of {shown(name)} have shapes that do not fit together: {shapes}")
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d{1,3})") + r"(?:\.([^.]+))?")


def _refuse(message: str) -> None:
    hint = "Send the weights as the library saved them, by save_pretrained."
    raise InputError("state_dict_mismatch", f"The weights are not those of the config: {message}.", hint=hint)
