"""A picture's file, rewritten with only the parts that a decoder needs.

JPEG (ITU-T T.81, annex B), PNG (W3C PNG, third edition) and WebP (RFC 9649) are sequences of named parts. A decoder
spends time and memory on every part, and on metadata far more than its bytes suggest: Pillow concatenates all APP
segments again at each one, and reads EXIF entries that all point at the same megabytes. So only the parts that hold
pixels are kept, PNG's pixel data as one chunk; of the metadata only the orientation is read. The numbers of parts, of
a JPEG's scans and of a lossless WebP's prefix codes are limited. Nothing is decoded here.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vlcompare.errors import ImageError
from vlcompare.runtime.webp_groups import count_groups

HEADER_DAMAGED = "The picture's header is damaged or cut off; save it again, or take another."
MAX_PARTS = 20_000  # a real JPEG has dozens, a PNG of 32 MiB some 4,000
MAX_SCANS = 64  # a progressive JPEG has ten or twenty
MAX_SCANNED = 1_000_000_000  # scans x pixels: a scan goes over the whole picture and takes up to 1 ns a pixel
MAX_TABLES = 1 << 17  # bytes of a JPEG's tables; those of an ordinary scan take less than 2,000
MAX_GROUPS = 16_384  # of prefix codes in a lossless WebP; decoders take some 25 us and 6 KB for each
MAX_PROFILE = 1 << 18  # decompressed bytes of a compressed EXIF profile

# a JPEG's markers except the stuffed zero, TEM, RST and SOI, which no segment follows (T.81, table B.1)
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_SOS, _EOI, _DHT, _DQT = 0xDA, 0xD9, 0xC4, 0xDB
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0..15, except DHT, JPG and DAC
_EXIF, _XMP, _JFIF, _ADOBE = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"JFIF", b"Adobe"
_PNG_START = b"\x89PNG\r\n\x1a\n"

# other common formats, named in the error message: (offset, bytes, name)
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
    """A file that holds only pixel data.

    size: width and height as the header says; scans: passes over the picture; orientation: EXIF's value, 1 to 8.
    """

    data: bytes
    size: tuple[int, int]
    orientation: int = 1
    scans: int = 1


def read_pixel_parts(data: bytes) -> PictureFile:
    """The file with only its pixel data. Raises ImageError for other formats, damage, and too many parts."""
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
    begin = f"This file is {name}, not" if name else "This file is not"
    raise ImageError(f"{begin} a JPEG, PNG or WebP picture; save it as one of these (its name does not matter).")


def _too_many(what: str) -> ImageError:
    return ImageError(f"The picture is a {what}; save it again, or take another.")


# ---- JPEG


def _jpeg(data: bytes) -> PictureFile:
    size, scans, tables = None, 0, 0
    kept = [b"\xff\xd8"]
    exif = xmp = b""
    for marker, segment, scan_data in _segments(data):
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
            kept.append(scan_data)
        if scans > MAX_SCANS:
            raise _too_many(f"JPEG of more than {MAX_SCANS} scans")
        if tables > MAX_TABLES:
            raise _too_many(f"JPEG of more than {MAX_TABLES:,} bytes of tables")
    if size is None:
        raise ValueError("no frame header")
    return PictureFile(b"".join(kept), size, _orientation(exif, xmp), scans)


def _segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """(marker, the segment with its marker, the bytes between it and the next one) up to the end of the picture.

    After a start of scan these bytes are the entropy-coded data; elsewhere they are stray bytes, which decoders skip.
    Whatever follows the end of the picture is dropped.
    """
    match = _MARKER.search(data, 2)
    for _ in range(MAX_PARTS):
        if match is None:
            return
        if match[1][0] == _EOI:
            yield _EOI, b"\xff\xd9", b""
            return
        end = match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")
        following = _MARKER.search(data, end)
        yield match[1][0], data[match.start() : end], data[end : following.start() if following else len(data)]
        match = following
    raise _too_many(f"JPEG of more than {MAX_PARTS:,} segments")


# ---- PNG


def _png(data: bytes) -> PictureFile:
    first_chunks: dict[bytes, bytes] = {}  # the first of each type
    pixels: list[bytes] = []
    exif = xmp = profile = b""
    for chunk_type, chunk in _chunks(data, 8, ">I4s", "PNG"):
        body = chunk[8:-4]
        if chunk_type == b"IDAT":
            pixels.append(body)
        elif chunk_type in (b"IHDR", b"PLTE", b"tRNS"):
            first_chunks.setdefault(chunk_type, chunk)
        elif chunk_type == b"eXIf":
            exif = exif or body.removeprefix(_EXIF)
        elif chunk_type == b"zTXt" and body.startswith(b"Raw profile type exif\0"):
            profile = profile or body
        elif chunk_type == b"iTXt" and body.startswith(b"XML:com.adobe.xmp\0"):
            xmp = xmp or body
        elif chunk_type == b"IEND":
            break
    exif = exif or _profile(profile)
    size: tuple[int, int] = struct.unpack(">II", first_chunks.get(b"IHDR", b"")[8:16])
    packed = b"".join(pixels)
    idat = struct.pack(">I", len(packed)) + b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    end = b"\0\0\0\0IEND\xaeB`\x82"
    order = (first_chunks.get(chunk_type, b"") for chunk_type in (b"IHDR", b"PLTE", b"tRNS"))
    return PictureFile(b"".join((_PNG_START, *order, idat, end)), size, _orientation(exif, xmp))


def _chunks(data: bytes, at: int, head: str, name: str) -> Iterator[tuple[bytes, bytes]]:
    """(type, whole chunk) of a PNG (with its checksum) or a WebP (with its padding)."""
    png = head == ">I4s"
    for _ in range(MAX_PARTS):
        if at >= len(data):
            return
        first, second = struct.unpack_from(head, data, at)
        chunk_type, length = (second, first) if png else (first, second)
        end = at + 8 + length + (4 if png else length & 1)
        yield chunk_type, data[at:end]
        at = end
    raise _too_many(f"{name} of more than {MAX_PARTS:,} chunks")


def _profile(body: bytes) -> bytes:
    """EXIF as ImageMagick writes it: compressed text of a name, a length and hexadecimal digits, a line each."""
    try:
        text = zlib.decompressobj().decompress(body.partition(b"\0")[2][1:], MAX_PROFILE)
        return bytes.fromhex(text.split(b"\n", 3)[3].decode("ascii")).removeprefix(_EXIF)
    except (zlib.error, ValueError, IndexError):
        return b""


# ---- WebP


def _webp(data: bytes) -> PictureFile:
    """Of an animation only the first frame is kept, at its position on the canvas."""
    kept: dict[bytes, bytes] = {}
    exif = xmp = b""
    for chunk_type, chunk in _chunks(data, 12, "<4sI", "WebP"):
        if chunk_type == b"EXIF":
            exif = exif or chunk[8:].removeprefix(_EXIF)
        elif chunk_type == b"XMP ":
            xmp = xmp or chunk[8:]
        elif chunk_type == b"VP8X" and chunk_type not in kept:  # without flags of dropped chunks (profile, EXIF, XMP)
            kept[chunk_type] = chunk[:8] + bytes((chunk[8] & ~0x2C,)) + chunk[9:]
        elif chunk_type in (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF"):
            kept.setdefault(chunk_type, chunk)
    _check_groups(kept)
    if b"ANMF" in kept:  # a frame: 16 bytes, then its chunks
        frame = list(_chunks(kept[b"ANMF"], 24, "<4sI", "WebP"))
        if len(frame) > len(dict(frame)):
            raise ValueError("a frame with several chunks of one type")
        _check_groups(dict(frame))
    body = b"WEBP" + b"".join(kept.values())
    whole = b"RIFF" + struct.pack("<I", len(body)) + body
    return PictureFile(whole, _webp_size(data), _orientation(exif, xmp))


def _check_groups(chunks: Mapping[bytes, bytes]) -> None:
    """Refuse lossless pixels, or lossless transparency beside lossy pixels, of too many groups of prefix codes."""
    streams = []
    if lossless := chunks.get(b"VP8L"):
        streams.append((lossless[8:], lossless, True))
    alpha, lossy = chunks.get(b"ALPH", b""), chunks.get(b"VP8 ")
    if lossy and alpha[8:9] and alpha[8] & 3 == 1:  # without a header, of the size of the pixels
        streams.append((alpha[9:], lossy, False))
    for stream, sized, header in streams:
        if count_groups(stream, _chunk_size(sized), header=header) > MAX_GROUPS:
            raise _too_many(f"WebP of more than {MAX_GROUPS:,} groups of prefix codes")


def _webp_size(data: bytes) -> tuple[int, int]:
    """The canvas of the three kinds of WebP (RFC 9649, section 2.5 to 2.7)."""
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] in (b"VP8L", b"VP8 "):
        return _chunk_size(data[12:30])
    raise ImageError("The picture's WebP header is damaged; save it again, or take another.")


def _chunk_size(chunk: bytes) -> tuple[int, int]:
    """Width and height of a chunk of pixels, "VP8L" or "VP8 "."""
    if chunk[:4] == b"VP8L":
        (bits,) = struct.unpack("<I", chunk[9:13])
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack("<HH", chunk[14:18])
    return width & 0x3FFF, height & 0x3FFF


# ---- metadata


def _orientation(exif: bytes, xmp: bytes) -> int:
    """The orientation, 1 to 8: tag 274 of the first EXIF directory (TIFF 6.0, section 2), else XMP's, else 1."""
    try:
        order = {b"II": "<", b"MM": ">"}[exif[:2]]
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for at in range(start + 2, start + 2 + 12 * count, 12):
            tag, field_type, _ = struct.unpack_from(order + "HHI", exif, at)
            if tag == 274:
                (value,) = struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[field_type], exif, at + 8)
                return int(value) if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    match = _XMP_ORIENTATION.search(xmp)
    return int(match[1]) if match else 1
