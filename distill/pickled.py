"""What the pickle inside a PyTorch file describes, told without unpickling it. Free of torch.

The standard library splits the pickle into its instructions; here they are followed with names instead of things:
nothing is imported, called or allocated, so that a tensor of 10^12 elements costs what its three numbers cost.
Known are the instructions that PyTorch's own ``weights_only`` reader knows; of names those that a dictionary of weights
and the optimizer beside it need, and those of plain objects that training scripts save beside them: these are passed
over.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from distill.errors import InputError
from distill.tensorfile import ITEM_BYTES, MAX_NUMBERS, MAX_RANK, MAX_TENSORS

MAX_PICKLE_BYTES = 8 * 2**20
MAX_INSTRUCTIONS = 500_000
SAVE_WEIGHTS = (
    "Save the weights alone: torch.save(network.state_dict(), path), or "
    "safetensors.torch.save_file(network.state_dict(), path)."
)
_PROTOCOL = 2  # what torch.save writes and weights_only reads
_STORAGES = {
    "torch DoubleStorage": "F64",
    "torch FloatStorage": "F32",
    "torch HalfStorage": "F16",
    "torch BFloat16Storage": "BF16",
    "torch LongStorage": "I64",
    "torch IntStorage": "I32",
    "torch ShortStorage": "I16",
    "torch CharStorage": "I8",
    "torch ByteStorage": "U8",
    "torch BoolStorage": "BOOL",
}
_PASSED_OVER = re.compile(
    r"""(argparse\ Namespace | types\ SimpleNamespace | collections\ (defaultdict|deque) | _codecs\ encode
    | (__builtin__|builtins)\ (bool|complex|dict|float|frozenset|int|list|long|range|set|slice|str|tuple|unicode)
    | typing\ \w+ | pathlib(\._local)?\ (Pure)?(Posix|Windows)?Path | datetime\ (datetime|date|time|timedelta|timezone)
    | numpy\ (dtype|ndarray|bool|u?int(8|16|32|64)|float(16|32|64)) | numpy\.dtypes\ \w+
    | numpy\.(_core|core)\.(multiarray\ (scalar|_reconstruct)|numeric\ _frombuffer)
    | torch\ (bool|uint8|u?int(8|16|32|64)|b?float(16|32|64)|float|half|double|long)
    | omegaconf(\.\w+)*\ \w+ | yacs\.config\ CfgNode | easydict\ EasyDict | addict(\.addict)?\ Dict
    | (pytorch_)?lightning(\.\w+)*\ AttributeDict | lightning_fabric(\.\w+)*\ AttributeDict)""",
    re.VERBOSE,
)
"""Settings, numbers and paths that lie beside weights. They are never made, so that it does not matter what they would
do; the list is short so that a file with anything else is told to be what it is."""
_SPARSE = ("torch._utils _rebuild_sparse_tensor", "torch.serialization _get_layout")
_SCALARS = (str, int, float, bool, type(None))


@dataclass(frozen=True, slots=True)
class Storage:
    """A file's record of numbers.

    Attributes:
        key: its name among the records.
        dtype: in the words of safetensors, such as ``F32``.
        numel: how many numbers it is said to hold.
    """

    key: str
    dtype: str
    numel: int

    @property
    def num_bytes(self) -> int:
        return self.numel * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class TensorOutline:
    """A dense tensor that its storage covers: of no more elements than that holds."""

    storage: Storage
    offset: int
    """Of its first element in the storage, in elements, as the strides."""
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * ITEM_BYTES[self.storage.dtype]


@dataclass(frozen=True, slots=True)
class _Name:
    """What the pickle asks to import, never imported; ``module name``."""

    text: str


@dataclass(frozen=True, slots=True)
class _Other:
    """Something that is passed over: no weights are in it."""


_OTHER = _Other()


@dataclass
class Pickled:
    """What a pickle holds.

    Attributes:
        root: the object itself, of dictionaries, lists, tuples, scalars and tensors' outlines; it may be a part of
            itself.
        storages: every storage by its key.
    """

    root: Any
    storages: dict[str, Storage]


def outline(data: bytes) -> Pickled:
    """Follow a pickle.

    Raises:
        InputError: ``unsafe_file`` when it asks for anything but tensors and plain values, or goes beyond the
            limits; ``unsupported_format`` when PyTorch's reader would not know its instructions;
            ``upload_corrupt`` when it is damaged.
    """
    try:
        return _Machine().run(data)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise InputError(
            "upload_corrupt", f"Its pickle is damaged: {str(error)[:120]}.", hint="Save it again, and upload it whole."
        ) from error


@dataclass
class _Machine:
    """The stack, its marks and the memo of one pickle; wrong turns end in Python's own errors."""

    stack: list[Any] = field(default_factory=list)
    outer: list[list[Any]] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    storages: dict[str, Storage] = field(default_factory=dict)
    num_tensors: int = 0

    def run(self, data: bytes) -> Pickled:
        for number, (code, argument, _) in enumerate(pickletools.genops(data)):
            if number >= MAX_INSTRUCTIONS:
                _refuse(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")
            if code.name == "STOP":
                return Pickled(self.stack.pop(), self.storages)
            step = _STEPS.get(code.name)
            if step is None:
                _unknown_instruction(code.name)
            step(self, argument)
        raise ValueError("it has no end")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def protocol(self, number: int) -> None:
        if number != _PROTOCOL:
            _unknown_instruction(f"PROTO {number}")

    def mark(self, _: None) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def pack(self, count: int | None) -> None:
        """A tuple of the uppermost ``count``, or of those since the mark."""
        if count is None:
            self.push(tuple(self.since_mark()))
            return
        if len(self.stack) < count:
            raise IndexError("a tuple of fewer things than it has")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def store(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if target is _OTHER and len(pairs) % 2 == 0:
            return
        if type(target) is not dict or len(pairs) % 2:
            raise TypeError("items are put into something that is no dictionary")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, _SCALARS):  # a tuple of tuples of tuples takes for ever to hash
                _refuse("a key of a dictionary is neither text nor a number")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if target is _OTHER:
            return
        if type(target) is not list:
            raise TypeError("items are put into something that is no list")
        target.extend(items)

    def name(self, text: str) -> None:
        if text in _SPARSE:
            _refuse("it holds a sparse tensor", hint="Save dense tensors: tensor.to_dense().")
        if text not in _NAMES and not _PASSED_OVER.fullmatch(text):
            _refuse(f"it asks for {_shown(text)}, which is code or an object and not weights")
        self.push(_NAMES.get(text) or _Name(text))

    def call(self, _: None) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, _Name) or called.text in _STORAGES or type(arguments) is not tuple:
            raise TypeError("something is called that cannot be")
        self.push(_CALLS[called.text](self, *arguments) if called.text in _CALLS else _OTHER)

    def new(self, _: None) -> None:
        """An object without its constructor having run; of those that are passed over."""
        arguments, of = self.stack.pop(), self.stack.pop()
        if not isinstance(of, _Name) or of.text in _NAMES or type(arguments) is not tuple:
            raise TypeError("an object of something that is no class")
        self.push(_OTHER)

    def build(self, _: None) -> None:
        """The state of an ordered dictionary, where ``state_dict()`` keeps versions of layers; it is not needed."""
        state = self.stack.pop()
        if self.stack[-1] is _OTHER:
            return
        if type(self.stack[-1]) is not dict or type(state) is not dict or not state.keys() <= {"_metadata"}:
            _refuse("it gives attributes to an object")

    def persistent(self, _: None) -> None:
        kind, storage, key, location, numel = self.stack.pop()
        if (
            kind != "storage"
            or not isinstance(storage, _Name)
            or not isinstance(key, str)
            or not isinstance(location, str)
        ):
            raise TypeError("a storage is described in another way")
        found = Storage(key, _STORAGES[storage.text], _count(numel))
        known = self.storages.setdefault(key, found)
        if known != found:
            _refuse(f"storage {_shown(key)} is described in two ways")
        self.push(known)

    def dictionary(self, *arguments: Any) -> dict[Any, Any]:
        if arguments:
            raise TypeError("an ordered dictionary with arguments")
        return {}

    def counter(self, counts: Any) -> _Other:
        if type(counts) is not dict:
            raise TypeError("a counter of something that is no dictionary")
        return _OTHER

    def size(self, numbers: Any) -> tuple[int, ...]:
        return tuple(_count(number) for number in numbers)

    def device(self, *arguments: Any) -> _Other:
        if not all(isinstance(argument, str | int) for argument in arguments):
            raise TypeError("a device by something that is no name")
        return _OTHER

    def parameter(self, tensor: Any, needs_gradient: Any, hooks: Any) -> TensorOutline:
        if not isinstance(tensor, TensorOutline) or hooks != {} or type(needs_gradient) is not bool:
            raise TypeError("a parameter that is no tensor, or with hooks")
        return tensor

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> TensorOutline:
        needs_gradient, hooks, *metadata = rest
        if not isinstance(storage, Storage) or type(needs_gradient) is not bool or hooks != {} or any(metadata):
            raise TypeError("a tensor that is described in another way")
        if type(size) is not tuple or type(stride) is not tuple or len(size) != len(stride):
            raise TypeError("a tensor's size and stride do not go together")
        if len(size) > MAX_RANK:
            _refuse(f"a tensor of rank {len(size)}; at most {MAX_RANK}")
        shape, steps = self.size(size), self.size(stride)
        _check_covered(storage, _count(offset), shape, steps)
        self.num_tensors += 1
        if self.num_tensors > MAX_TENSORS:
            _refuse(f"more than {MAX_TENSORS:,} tensors")
        return TensorOutline(storage, offset, shape, steps)


def _check_covered(storage: Storage, offset: int, shape: tuple[int, ...], steps: tuple[int, ...]) -> None:
    """Every element lies in the storage, and there are no more of them than it holds: no expanded tensors."""
    if math.prod(n for n in shape if n) > MAX_NUMBERS:
        _refuse(f"a tensor of shape {list(shape)}")
    count = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) if count else 0
    if count > storage.numel or last >= max(storage.numel, 1):
        _refuse(
            f"a tensor of shape {list(shape)} and stride {list(steps)} needs more than the {storage.numel:,} "
            "numbers of its storage",
            hint="Save contiguous tensors: tensor.contiguous().clone().",
        )


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError("a size that is no count")
    return value


def _shown(text: str) -> str:
    printable = "".join(c if c.isprintable() else "�" for c in text.replace(" ", "."))
    return repr(printable[:80])


def _unknown_instruction(name: str) -> NoReturn:
    raise InputError(
        "unsupported_format",
        f"Its pickle has the instruction {name}, which PyTorch's safe reader does not know.",
        hint="Save it with torch.save as it is, without a pickle module or a protocol of your own. " + SAVE_WEIGHTS,
    )


def _refuse(message: str, *, hint: str = SAVE_WEIGHTS) -> NoReturn:
    raise InputError("unsafe_file", f"Not a usable PyTorch file: {message}.", hint=hint)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": _Machine.dictionary,
    "collections Counter": _Machine.counter,  # milestones of a schedule
    "torch Size": _Machine.size,
    "torch device": _Machine.device,
    "torch._utils _rebuild_parameter": _Machine.parameter,
    "torch._utils _rebuild_tensor_v2": _Machine.tensor,
}
_NAMES = {text: _Name(text) for text in (*_CALLS, *_STORAGES)}
_PUSHED = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(_PUSHED, _Machine.push),
    "PROTO": _Machine.protocol,
    "MARK": _Machine.mark,
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.pack(None),
    "TUPLE1": lambda machine, _: machine.pack(1),
    "TUPLE2": lambda machine, _: machine.pack(2),
    "TUPLE3": lambda machine, _: machine.pack(3),
    "SETITEM": lambda machine, _: machine.store([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.store(machine.since_mark()),
    "APPEND": lambda machine, _: machine.extend([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "BINPUT": lambda machine, place: machine.memo.__setitem__(place, machine.stack[-1]),
    "LONG_BINPUT": lambda machine, place: machine.memo.__setitem__(place, machine.stack[-1]),
    "BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "GLOBAL": _Machine.name,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.new,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent,
}
