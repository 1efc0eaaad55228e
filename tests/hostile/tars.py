"""Tars and compressed tars that want to harm."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable

from tests.fixtures.archives import gzipped, tarred
from tests.hostile.case import Hostile, dataset
from tests.hostile.images import folders, png


def _member(
    kind: bytes = tarfile.REGTYPE,
    name: str = "cat/x.png",
    *,
    linkname: str = "",
    size: int = 0,
    pax: dict[str, str] | None = None,
) -> bytes:
    """A tar of one empty member that may say what it likes."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as file:
        info = tarfile.TarInfo(name)
        info.type, info.linkname, info.size, info.pax_headers = kind, linkname, size, pax or {}
        file.addfile(info)
    return data.getvalue()


def _header(kind: bytes = tarfile.REGTYPE, name: str = "cat/x.png", *, size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def _signed(field: bytes) -> bytes:
    """A header whose size is these twelve bytes, its checksum right."""
    head = bytearray(_header())
    head[124:136] = field
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + tarred(folders())


def _records_without_end() -> bytes:
    """Descriptions of 1 MB in 87,000 lines each."""
    lines = b"".join(b"%d a%06d=\n" % (len("11 a000000=\n"), number) for number in range(87_000))
    head = _header(tarfile.XHDTYPE, size=len(lines))
    return (head + lines + bytes(-len(lines) % 512)) * 10 + tarred(folders())


def _gzip_bomb() -> bytes:
    """A member of 4 GB, of which 200 MB of zeros are there."""
    packer = zlib.compressobj(9, wbits=31)
    data = packer.compress(_header(size=4_000_000_000))
    return data + b"".join(packer.compress(bytes(2**20)) for _ in range(200)) + packer.flush()


def _folders_without_end(count: int) -> bytes:
    return _header(tarfile.DIRTYPE, "a/") * count


def _tar(code: str | None, build: Callable[[], bytes], *, by_worker: bool = False) -> Hostile:
    return dataset(code, build, "images.tar", by_worker=by_worker)


def _packed(code: str, build: Callable[[], bytes], *, by_worker: bool = False) -> Hostile:
    return dataset(code, build, "images.tar.gz", by_worker=by_worker)


def _unsafe(build: Callable[[], bytes]) -> Hostile:
    return _tar("unsafe_file", build)


def _corrupt(build: Callable[[], bytes]) -> Hostile:
    return _tar("upload_corrupt", build)


TARS: dict[str, Hostile] = {
    "name that leads out": _unsafe(lambda: tarred({**folders(), "cat/../../x.png": png()})),
    "absolute name": _unsafe(lambda: tarred({**folders(), "/tmp/limbeck-was-here.png": png()})),
    "name with backslashes": _unsafe(lambda: tarred({**folders(), "..\\x.png": png()})),
    "name that leads out, in gzip": _packed("unsafe_file", lambda: gzipped({**folders(), "../x.png": png()})),
    "name that leads out in a description": _unsafe(lambda: _member(pax={"path": "../../x.png"})),
    "symbolic link": _unsafe(lambda: _member(tarfile.SYMTYPE, linkname="/etc/passwd")),
    "symbolic link of 5,000 letters": _unsafe(lambda: _member(tarfile.SYMTYPE, linkname="x" * 5000)),
    "hard link": _unsafe(lambda: _member(tarfile.LNKTYPE, linkname="/etc/passwd")),
    "character device": _unsafe(lambda: _member(tarfile.CHRTYPE)),
    "block device": _unsafe(lambda: _member(tarfile.BLKTYPE)),
    "named pipe": _unsafe(lambda: _member(tarfile.FIFOTYPE)),
    "member of an unknown kind": _unsafe(lambda: _member(b"Z")),
    "sparse file of GNU": _unsafe(lambda: _member(tarfile.GNUTYPE_SPARSE)),
    "sparse file of pax": _unsafe(lambda: _member(pax={"GNU.sparse.major": "1", "GNU.sparse.realsize": "9" * 12})),
    "name twice": _unsafe(lambda: _header(name="cat/1.png") + tarred(folders())),
    "name of 2,000 letters": _unsafe(lambda: tarred({**folders(), "a" * 2000: png()})),
    "description of 1 GB": _unsafe(lambda: _header(tarfile.XHDTYPE, size=8**10) + bytes(4096)),
    "long name of 1 GB": _unsafe(lambda: _header(tarfile.GNUTYPE_LONGNAME, size=8**10) + bytes(4096)),
    "description that goes on behind its end": _corrupt(
        lambda: _header(tarfile.XHDTYPE, size=512) + b"99999 path=x\n" + bytes(2000)
    ),
    "descriptions of a million lines": _unsafe(_records_without_end),
    "long names upon long names": _packed(
        "unsafe_file", lambda: gzip.compress(_header(tarfile.GNUTYPE_LONGNAME) * 200_001, 1), by_worker=True
    ),
    "size beyond the file": _corrupt(lambda: _header(size=10**6) + tarred(folders())),
    "size of 2^80": _corrupt(lambda: _signed(b"\x80" + (2**80).to_bytes(11))),
    "size below zero": _corrupt(lambda: _signed(b"\xff" * 12)),
    "size that is no number": _corrupt(lambda: _signed(b"0x7fffffff\0\0")),
    "size below zero in a description": _corrupt(lambda: _member(pax={"size": "-1"})),
    "size of 5,000 digits in a description": _corrupt(lambda: _member(pax={"size": "9" * 5000})),
    "50,000 folders": _tar("dataset_empty", lambda: _folders_without_end(50_000) + bytes(1024), by_worker=True),
    "a million folders in gzip": _packed(
        "unsafe_file", lambda: gzip.compress(_folders_without_end(1_000_000), 1), by_worker=True
    ),
    "gzip bomb": _packed("unsafe_file", _gzip_bomb),
    "gzip of parts without end": _packed(
        "unsafe_file", lambda: gzip.compress(tarred(folders())) + gzip.compress(b"") * 200_000
    ),
    "gzip in gzip": _packed("unsupported_format", lambda: gzip.compress(gzipped(folders()))),
    "tar in tar in tar": _tar(
        "dataset_empty",
        lambda: tarred({"inner.tar": tarred({"innermost.tar": tarred(folders())})}),
        by_worker=True,
    ),
    "cut short": _corrupt(lambda: tarred(folders())[:2000]),
    "gzip cut short": _packed("upload_corrupt", lambda: gzipped(folders())[:-20]),
    "wrong checksum": _corrupt(lambda: _header() + _header().replace(b"cat", b"dog") + tarred(folders())),
}
