"""Pictures that want to harm, each in a zip of class folders. One of seven that cannot be read refuses the data set."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from tests.fixtures.archives import zipped
from tests.hostile.case import Hostile, dataset

_PNG = b"\x89PNG\r\n\x1a\n"


def png(value: int = 0, *, side: int = 4) -> bytes:
    """A small grey picture."""
    return encoded(Image.new("L", (side, side), value), "PNG")


def folders() -> dict[str, bytes]:
    """Six pictures of two classes."""
    return {f"{name}/{number}.png": png(number) for name in ("cat", "dog") for number in range(3)}


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_of(width: int, height: int, *chunks: bytes, depth: int = 8) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", header) + b"".join(chunks) + _chunk(b"IEND", b"")


def _bomb(side: int) -> bytes:
    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    return _png_of(side, side, _chunk(b"IDAT", rows))


def _pixels_unending() -> bytes:
    """Four by four pixels, whose compressed rows go on for 64 MB."""
    return _png_of(4, 4, _chunk(b"IDAT", zlib.compress(bytes(64 * 2**20), 9)))


def _with_text(kind: bytes, before: bytes, *, count: int = 1) -> bytes:
    """Before the pixels, ``count`` chunks that unpack to 64 MB each."""
    chunk = _chunk(kind, before + zlib.compress(bytes(64 * 2**20), 9))
    return _png_of(4, 4, *[chunk] * count, _chunk(b"IDAT", zlib.compress(bytes(20))))


def _noise(side: int = 64) -> Image.Image:
    return Image.frombytes("RGB", (side, side), random.Random(0).randbytes(3 * side * side))


def _jpeg_of(width: int, height: int) -> bytes:
    """A JPEG of 64 x 64 pixels whose header says otherwise."""
    data = bytearray(encoded(_noise(), "JPEG"))
    struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


def _scans_without_end() -> bytes:
    """A progressive JPEG of 16 million pixels that refines them 20,000 times, which takes minutes."""
    data = encoded(Image.new("L", (4096, 4096), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 20_000 + data[-2:]


def _animation(format: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), (n % 256, n // 256, 0)) for n in range(3000)]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=1)


def _apng() -> bytes:
    """An animated PNG that promises four thousand million frames, and has none after the first."""
    control = _chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0))
    return _png_of(4, 4, control, _chunk(b"IDAT", zlib.compress(bytes(20))))


def _tiff_strips() -> bytes:
    data = bytearray(encoded(_noise(), "TIFF"))
    entry = data.index(struct.pack("<H", 256), 8)  # ImageWidth
    struct.pack_into("<I", data, entry + 8, 2**31 - 1)
    return bytes(data)


_POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(limbeck-was-here) (w) file\n%%EOF\n"
_SVG = b"""<?xml version="1.0"?><!DOCTYPE s [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>"""


def _one(code: str | None, build: Callable[[], bytes], name: str = "cat/x.png") -> Hostile:
    return dataset(code, lambda: zipped({**folders(), name: build()}), "images.zip", by_worker=True)


def _unreadable(build: Callable[[], bytes], name: str = "cat/x.png") -> Hostile:
    return _one("dataset_unreadable", build, name)


IMAGES: dict[str, Hostile] = {
    "PNG bomb of 169 million pixels": _unreadable(lambda: _bomb(13_000)),
    "PNG of 2^62 pixels": _unreadable(lambda: _png_of(2**31 - 1, 2**31 - 1, _chunk(b"IDAT", b"x"))),
    "PNG of no pixels": _unreadable(lambda: _png_of(0, 0, _chunk(b"IDAT", b""))),
    "PNG whose rows go on for 64 MB": _one(None, _pixels_unending),
    "PNG whose text is a bomb": _unreadable(lambda: _with_text(b"zTXt", b"a\0\0")),
    "PNG of 50 texts that are bombs": _unreadable(lambda: _with_text(b"iTXt", b"a\0\1\0\0\0", count=50)),
    "PNG whose profile is a bomb": _unreadable(lambda: _with_text(b"iCCP", b"a\0\0")),
    "PNG chunk of 4 GB": _unreadable(lambda: _PNG + struct.pack(">I", 2**32 - 1) + b"IHDR" + bytes(20)),
    "animated PNG of 2^32 frames": _one(None, _apng),
    "JPEG cut short": _unreadable(lambda: encoded(_noise(), "JPEG")[:2000], "cat/x.jpg"),
    "JPEG of 65,535 x 65,535": _unreadable(lambda: _jpeg_of(65_535, 65_535), "cat/x.jpg"),
    "JPEG that fills no more than its corner": _one(None, lambda: _jpeg_of(7000, 7000), "cat/x.jpg"),
    "JPEG of 20,000 scans": _unreadable(_scans_without_end, "cat/x.jpg"),
    "JPEG of CMYK": _one(None, lambda: encoded(Image.new("CMYK", (4, 4), (9, 8, 7, 6)), "JPEG"), "cat/x.jpg"),
    "PNG of 16 bits": _one(None, lambda: encoded(Image.new("I;16", (4, 4), 40_000), "PNG")),
    "PNG of 32 bits, as a BMP": _unreadable(lambda: b"BM" + bytes(12) + b"\x28\0\0\0" + b"\xff" * 40, "cat/x.bmp"),
    "BMP of 2^62 pixels": _unreadable(
        lambda: (
            b"BM" + bytes(8) + b"\x36\0\0\0" + struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, 2**31 - 1, 1, 24, *[0] * 6)
        ),
        "cat/x.bmp",
    ),
    "WebP of 3,000 frames": _one(None, lambda: _animation("WEBP"), "cat/x.webp"),
    "WebP cut short": _unreadable(lambda: encoded(_noise(), "WEBP", lossless=True)[:900], "cat/x.webp"),
    "GIF by another name": _unreadable(lambda: encoded(_noise(), "GIF")),
    "TIFF by another name": _unreadable(_tiff_strips),
    "ICO by another name": _unreadable(lambda: encoded(_noise(), "ICO")),
    "PDF by another name": _unreadable(lambda: encoded(_noise(), "PDF")),
    "Photoshop file by another name": _unreadable(lambda: b"8BPS\0\1" + bytes(6) + b"\0\3" + b"\x7f" * 2000),
    "SVG that names a file, by another name": _unreadable(lambda: _SVG),
    "PostScript by another name": _unreadable(lambda: _POSTSCRIPT),
}
