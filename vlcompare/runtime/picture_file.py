"""A picture's file, taken apart and put together again: what a decoder needs, and nothing else.

JPEG (ITU-T T.81, annex B), PNG (W3C PNG, third edition) and WebP (RFC 9649) are sequences of named parts. A decoder
spends time and memory on every part, and on metadata far more than its bytes suggest: Pillow joins APP segments anew
at each one, and reads a list of EXIF entries that all point at the same megabytes. So only the parts that hold pixels
are handed on, PNG's pixel data as one part; of metadata only the orientation is read, here. Parts are counted while
they are walked over, as are the passes over the picture that a JPEG asks for. Decodes nothing itself.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from vlcompare.errors import ImageError

HEADER_DAMAGED = "The picture's header is damaged or cut off; save it again, or take another."
MOST_PARTS = 20_000  # a real JPEG has dozens, a PNG of 32 MiB some 4,000
MOST_SCANS = 64  # a progressive JPEG has ten or twenty
MOST_SCANNED = 1_000_000_000  # scans x pixels: every scan is a walk over the whole picture, of up to 1 ns a pixel
MOST_TABLES = 1 << 17  # bytes of a JPEG's tables; those of an honest scan take less than 2,000
MOST_PROFILE = 1 << 18  # bytes of a packed EXIF profile, unpacked

# a JPEG's markers but the stuffed zero, TEM, RST and SOI, which have no segment behind them (T.81, table B.1)
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_SOS, _EOI, _DHT, _DQT = 0xDA, 0xD9, 0xC4, 0xDB
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0..15, but DHT, JPG and DAC
_EXIF, _XMP, _JFIF, _ADOBE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"JFIF", b"Adobe"
_PNG_START = b"\x89PNG\r\n\x1a\n"

# other formats that people try, for a message that names them: (offset, bytes, name)
_OTHERS = (
    (0, b"GIF8", "a GIF"),
    (0, b"BM", "a BMP"),
    (0, b"II*\0", "a TIFF"),
    (0, b"MM\0*", "a TIFF"),
    (0, b"%PDF", "a PDF"),
    (4, b"ftypavif", "an AVIF"),
    (4, b"ftypheic", "a HEIC"),
    (4, b"ftypmif1", "a HEIC"),
    (0, b"<svg", "an SVG"),
    (0, b"<?xml", "an SVG or XML"),
)


@dataclass(frozen=True, slots=True)
class PictureFile:
    """A file that holds pixels alone.

    size: width and height as the header says; scans: passes over the picture; orientation: EXIF's, 1 to 8.
    """

    data: bytes
    size: tuple[int, int]
    orientation: int = 1
    scans: int = 1


def take_apart(data: bytes) -> PictureFile:
    """The picture without what it does not need. Raises ImageError for other formats, damage, and too many parts."""
    if not data:
        raise ImageError("The picture's file is empty; take another.")
    try:
        if data.startswith(_PNG_START):
            return _png(data)
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
    except (struct.error, IndexError, ValueError) as error:
        raise ImageError(HEADER_DAMAGED) from error
    name = next((name for at, start, name in _OTHERS if data[at : at + len(start)].lower() == start.lower()), None)
    found = f"This file is {name}, not" if name else "This file is not"
    raise ImageError(f"{found} a JPEG, PNG or WebP picture; save it as one of these (its name does not matter).")


def _too_many(kind: str) -> ImageError:
    return ImageError(f"The picture is a {kind}; save it again, or take another.")


# ---- JPEG


def _jpeg(data: bytes) -> PictureFile:
    size, scans, tables = None, 0, 0
    kept = [b"\xff\xd8"]
    exif = xmp = b""
    for marker, segment, behind in _segments(data):
        if marker in _FRAMES and size is None:
            height, width = struct.unpack(">HH", segment[5:9])
            size = width, height
        elif marker in (_DHT, _DQT):
            tables += len(segment)
        elif marker == _SOS:
            scans += 1
        elif marker == 0xFE or 0xE0 <= marker <= 0xEF:
            body = segment[4:]
            if marker == 0xE1 and body.startswith(_EXIF):
                exif = exif or body[len(_EXIF) :]
            elif marker == 0xE1 and body.startswith(_XMP):
                xmp = xmp or body[len(_XMP) :]
            if not (marker == 0xE0 and body.startswith(_JFIF)) and not (marker == 0xEE and body.startswith(_ADOBE)):
                continue
        kept.append(segment)
        if marker == _SOS:
            kept.append(behind)
        if scans > MOST_SCANS:
            raise _too_many(f"JPEG of more than {MOST_SCANS} scans")
        if tables > MOST_TABLES:
            raise _too_many(f"JPEG of more than {MOST_TABLES:,} bytes of tables")
    if size is None:
        raise ValueError("no frame header")
    return PictureFile(b"".join(kept), size, _orientation(exif, xmp), scans)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(marker, the segment with its marker, what lies between it and the next one) up to the end of the picture.

    Behind the start of a scan that is the picture itself; elsewhere stray bytes, which decoders skip, too. What lies
    behind the end of the picture is left out.
    """
    found = _MARKER.search(data, 2)
    for _ in range(MOST_PARTS):
        if found is None:
            return
        if found[1][0] == _EOI:
            yield _EOI, b"\xff\xd9", b""
            return
        end = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        following = _MARKER.search(data, end)
        yield found[1][0], data[found.start() : end], data[end : following.start() if following else len(data)]
        found = following
    raise _too_many(f"JPEG of more than {MOST_PARTS:,} segments")


# ---- PNG


def _png(data: bytes) -> PictureFile:
    heads: dict[bytes, bytes] = {}  # of each kind the first
    pixels: list[bytes] = []
    exif = xmp = profile = b""
    for kind, chunk in _chunks(data, 8, ">I4s", "PNG"):
        body = chunk[8:-4]
        if kind == b"IDAT":
            pixels.append(body)
        elif kind in (b"IHDR", b"PLTE", b"tRNS"):
            heads.setdefault(kind, chunk)
        elif kind == b"eXIf":
            exif = exif or body.removeprefix(_EXIF)
        elif kind == b"zTXt" and body.startswith(b"Raw profile type exif\0"):
            profile = profile or body
        elif kind == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            xmp = xmp or body
        elif kind == b"IEND":
            break
    exif = exif or _profile(profile)
    size: tuple[int, int] = struct.unpack(">II", heads.get(b"IHDR", b"")[8:16])
    packed = b"".join(pixels)
    idat = struct.pack(">I", len(packed)) + b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    end = b"\0\0\0\0IEND\xaeB`\x82"
    order = (heads.get(kind, b"") for kind in (b"IHDR", b"PLTE", b"tRNS"))
    return PictureFile(b"".join((_PNG_START, *order, idat, end)), size, _orientation(exif, xmp))


def _chunks(data: bytes, at: int, head: str, name: str) -> Iterator[tuple[bytes, bytes]]:
    """(kind, whole chunk) of a PNG (with its checksum) or a WebP (with its padding)."""
    png = head == ">I4s"
    for _ in range(MOST_PARTS):
        if at >= len(data):
            return
        first, second = struct.unpack_from(head, data, at)
        kind, length = (second, first) if png else (first, second)
        end = at + 8 + length + (4 if png else length & 1)
        yield kind, data[at:end]
        at = end
    raise _too_many(f"{name} of more than {MOST_PARTS:,} chunks")


def _profile(body: bytes) -> bytes:
    """EXIF as ImageMagick writes it: packed text of a name, a length and hexadecimal digits, a line each."""
    try:
        text = zlib.decompressobj().decompress(body.partition(b"\0")[2][1:], MOST_PROFILE)
        return bytes.fromhex(text.split(b"\n", 3)[3].decode("ascii")).removeprefix(_EXIF)
    except (zlib.error, ValueError, IndexError):
        return b""


# ---- WebP


def _webp(data: bytes) -> PictureFile:
    """Of an animation the first frame stays, in its place on the canvas."""
    kept: dict[bytes, bytes] = {}
    exif = xmp = b""
    for kind, chunk in _chunks(data, 12, "<4sI", "WebP"):
        if kind == b"EXIF":
            exif = exif or chunk[8:].removeprefix(_EXIF)
        elif kind == b"XMP ":
            xmp = xmp or chunk[8:]
        elif kind == b"VP8X" and kind not in kept:  # without the flags of what is left out (profile, EXIF, XMP)
            kept[kind] = chunk[:8] + bytes((chunk[8] & ~0x2C,)) + chunk[9:]
        elif kind in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.setdefault(kind, chunk)
    body = b"WEBP" + b"".join(kept.values())
    whole = b"RIFF" + struct.pack("<I", len(body)) + body
    return PictureFile(whole, _webp_size(data), _orientation(exif, xmp))


def _webp_size(data: bytes) -> tuple[int, int]:
    """The canvas of the three kinds of WebP (RFC 9649, section 2.5 to 2.7)."""
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return width & 0x3FFF, height & 0x3FFF
    raise ImageError("The picture's WebP header is damaged; save it again, or take another.")


# ---- metadata


def _orientation(exif: bytes, xmp: bytes) -> int:
    """How to turn the picture: tag 274 of the first EXIF directory (TIFF 6.0, section 2), else XMP's, else 1."""
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _ = struct.unpack_from(order + "HHI", exif, at)
            if tag == 274:
                (value,) = struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], exif, at + 8)
                return int(value) if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found else 1
