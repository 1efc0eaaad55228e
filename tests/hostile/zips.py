"""Zips that want to harm. What is inside does not matter: their directory is looked at before."""

from __future__ import annotations

import io
import random
import stat
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable

from tests.fixtures.archives import zipped
from tests.hostile.case import Hostile, dataset
from tests.hostile.images import folders, png

_DIRECTORY, _END = b"PK\x01\x02", b"PK\x05\x06"
_METHOD, _PACKED, _SIZE, _EXTRA_LENGTH = 10, 20, 24, 30  # of the fields in an entry of the directory


def _stored() -> bytearray:
    return bytearray(zipped(folders(), compression=zipfile.ZIP_STORED))


def _changed(field: int, format: str, value: int) -> bytes:
    """The first entry of the directory says otherwise."""
    data = _stored()
    struct.pack_into(format, data, data.index(_DIRECTORY) + field, value)
    return bytes(data)


def _flagged(bits: int) -> bytes:
    return _changed(8, "<H", bits)


def _of_kind(kind: int) -> bytes:
    data = io.BytesIO(bytes(_stored()))
    with zipfile.ZipFile(data, "a") as file:
        link = zipfile.ZipInfo("cat/9.png")
        link.external_attr = (kind | 0o777) << 16
        file.writestr(link, "/etc/passwd")
    return data.getvalue()


def _named(name: str) -> bytes:
    return zipped({**folders(), name: png()}, compression=zipfile.ZIP_STORED)


def _with_nul() -> bytes:
    return _named("cat/evil#.png").replace(b"evil#", b"evil\0")


def _twice() -> bytes:
    data = io.BytesIO(bytes(_stored()))
    with warnings.catch_warnings(), zipfile.ZipFile(data, "a") as file:
        warnings.simplefilter("ignore")  # that it is a duplicate is the point
        file.writestr("cat/1.png", png(9))
    return data.getvalue()


def _sharing() -> bytes:
    """Many entries of the directory for one body."""
    body = random.Random(0).randbytes(50_000)
    data = bytearray(zipped({f"cat/{i}.png": b"" if i else body for i in range(9)}, compression=zipfile.ZIP_STORED))
    start, end = data.index(_DIRECTORY), data.index(_END)
    first = data[start : start + 46]
    while start < end:
        data[start + 16 : start + 28], data[start + 42 : start + 46] = first[16:28], first[42:46]
        start += 46 + struct.unpack_from("<H", data, start + 28)[0]
    return bytes(data)


def _quoting() -> bytes:
    """Each member holds the headers and bytes of all that follow, as in https://www.bamsoftware.com/hacks/zipbomb/."""
    kernel = zlib.compress(bytes(2**20))[2:-4]
    names = [b"cat/%02d.png" % number for number in range(64)]
    head = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 33, 0, len(kernel), 2**20, len(names[0]), 0)
    step = len(head) + len(names[0])
    body = b"".join(head + name for name in names) + kernel
    entries = b""
    for number, name in enumerate(names):
        packed = len(body) - (number + 1) * step
        sizes = (0, packed, 2**20 + step * (len(names) - number))
        entries += struct.pack(
            "<4s6H3I5H2I", _DIRECTORY, 20, 20, 0, 8, 0, 33, *sizes, len(name), *[0] * 5, number * step
        )
        entries += name
    return body + entries + _end(len(names), len(entries), len(body))


def _end(count: int, length: int, offset: int) -> bytes:
    return struct.pack("<4s4H2IH", _END, 0, 0, min(count, 0xFFFF), min(count, 0xFFFF), length, offset, 0)


def _in_zip(depth: int, width: int) -> bytes:
    """Zips of zips, as 42.zip is: 16 times 16 times ... a file of zeros."""
    content = zipped({"zeros.dll": bytes(16 * 2**20)})
    for _ in range(depth):
        content = zipped({f"lib {number:x}.zip": content for number in range(width)})
    return content


def _crowd(count: int, name: bytes = b"n") -> bytes:
    """``count`` times the same empty member."""
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 0, 0, 33, 0, 0, 0, len(name), 0) + name
    entry = struct.pack("<4s6H3I5H2I", _DIRECTORY, 20, 20, 0, 0, 0, 33, 0, 0, 0, len(name), *[0] * 5, 0) + name
    return (
        local + entry * count + _zip64_end(count, count * len(entry), len(local)) + _end(0xFFFF, 2**32 - 1, 2**32 - 1)
    )


def _zip64_end(count: int, length: int, offset: int) -> bytes:
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, offset)
    return record + struct.pack("<4sIQI", b"PK\x06\x07", 0, offset + length, 1)


def _zip64(*, count: int | None = None, length: int | None = None) -> bytes:
    """A sound zip, and an end in the large form that lies."""
    data = bytes(_stored())
    start, end = data.index(_DIRECTORY), data.index(_END)
    record = _zip64_end(count or 6, length or end - start, start)
    locator = record[-20:-12] + struct.pack("<Q", end) + record[-4:]
    return data[:end] + record[:-20] + locator + _end(0xFFFF, 2**32 - 1, 2**32 - 1)


def _many_files(count: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for number in range(count):
            file.writestr(zipfile.ZipInfo(f"{number}.txt"), b"")
    return data.getvalue()


def _claiming_less() -> bytes:
    """64 MB of which the directory says that they are 1,000 bytes."""
    data = bytearray(zipped({"cat/x.png": bytes(64 * 2**20), **folders()}))
    struct.pack_into("<I", data, data.index(_DIRECTORY) + _SIZE, 1000)
    return bytes(data)


def _two_names() -> bytes:
    """The member's own header has another name than the directory."""
    return bytes(_stored()).replace(b"cat/0.png", b"../../.sh", 1)


def _headless() -> bytes:
    data = _stored()
    data[:30] = bytes(30)
    return b"PK\x03\x04" + bytes(data[4:])


def _wrong_extra() -> bytes:
    """A field that should hold the sizes in 64 bits, and ends before."""
    info = zipfile.ZipInfo("cat/9.png")
    info.extra = struct.pack("<HH", 0x7777, 4) + bytes(4)
    data = io.BytesIO(bytes(_stored()))
    with zipfile.ZipFile(data, "a") as file:
        file.writestr(info, png())
    at = data.getvalue().rindex(struct.pack("<HH", 0x7777, 4))
    return data.getvalue()[:at] + struct.pack("<HH", 1, 60_000) + data.getvalue()[at + 4 :]


def _zip(code: str | None, build: Callable[[], bytes], *, by_worker: bool = False) -> Hostile:
    return dataset(code, build, "images.zip", by_worker=by_worker)


def _unsafe(build: Callable[[], bytes]) -> Hostile:
    return _zip("unsafe_file", build)


def _corrupt(build: Callable[[], bytes]) -> Hostile:
    return _zip("upload_corrupt", build)


ZIPS: dict[str, Hostile] = {
    "bomb among images": _unsafe(lambda: zipped({**folders(), "cat/zeros.bmp": bytes(40 * 2**20)})),
    "members that share their bytes": _unsafe(_sharing),
    "members that quote each other": _unsafe(_quoting),
    "zip in zip in zip": _zip("unsupported_format", lambda: _in_zip(3, 16)),
    "4 GB promised": _unsafe(lambda: _changed(_SIZE, "<I", 2**32 - 2)),
    "member longer than the archive": _corrupt(lambda: _changed(_PACKED, "<I", 2**31 - 1)),
    "64 MB said to be 1,000 bytes": _zip("dataset_unreadable", _claiming_less, by_worker=True),
    "2^63 members said": _zip(None, lambda: _zip64(count=2**63)),
    "directory of 2^62 bytes said": _corrupt(lambda: _zip64(length=2**62)),
    "a million members": _unsafe(lambda: _crowd(1_000_000)),
    "directory of 70 MB": _unsafe(lambda: _crowd(1_000_000, b"n" * 24)),
    "150,000 members of nothing": _zip("unsupported_format", lambda: _many_files(150_000), by_worker=True),
    "name that leads out": _unsafe(lambda: _named("../cat/1.png")),
    "name that leads out later": _unsafe(lambda: _named("cat/../../1.png")),
    "absolute name": _unsafe(lambda: _named("/tmp/limbeck-was-here.png")),
    "name with backslashes": _unsafe(lambda: _named("..\\cat\\1.png")),
    "name on a drive": _unsafe(lambda: _named("C:\\cat\\1.png")),
    "name with NUL": _unsafe(_with_nul),
    "name of 64 KiB": _unsafe(lambda: _named("c" * 65_535)),
    "name twice": _unsafe(_twice),
    "names that differ in case": _zip(None, lambda: zipped({**folders(), "CAT/1.PNG": png(), "Cat/1.png": png()})),
    "symbolic link": _unsafe(lambda: _of_kind(stat.S_IFLNK)),
    "device": _unsafe(lambda: _of_kind(stat.S_IFCHR)),
    "named pipe": _unsafe(lambda: _of_kind(stat.S_IFIFO)),
    "encrypted": _unsafe(lambda: _flagged(0x1)),
    "directory encrypted": _unsafe(lambda: _flagged(0x2000)),
    "AES": _zip("unsupported_format", lambda: _changed(_METHOD, "<H", 99)),
    "LZMA": _zip("unsupported_format", lambda: zipped(folders(), compression=zipfile.ZIP_LZMA)),
    "version of the future": _corrupt(lambda: _changed(6, "<H", 99)),
    "extra field beyond its end": _corrupt(lambda: _changed(_EXTRA_LENGTH, "<H", 2000)),
    "extra field that lies": _corrupt(_wrong_extra),
    "other name in the member": _zip("dataset_unreadable", _two_names, by_worker=True),
    "no header before a member": _zip("dataset_unreadable", _headless, by_worker=True),
    "cut in the middle": _corrupt(lambda: bytes(_stored()[:500])),
    "cut before its end": _corrupt(lambda: bytes(_stored()[:-10])),
    "nothing but an end": _zip("dataset_empty", lambda: _end(0, 0, 0)),
}
