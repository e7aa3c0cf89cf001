"""The one door for pictures: limits before decoding, then upright RGB; and the transform to what a model sees.

Knows nothing of models or tasks. JPEG, PNG and WebP, told by their content and never by their name; the size is read
from the header and refused there, so that a small file which claims a huge picture costs no memory. Of animations the
first frame is taken. Colours become RGB as Pillow's `convert("RGB")` makes them, which is what the published
checkpoints were trained and evaluated on: palettes are looked up, CMYK is converted, and **transparency is dropped, not
composited** (a transparent pixel shows the colour that is stored under it). 16 bits a channel are reduced to the upper
8, as Pillow does for colour; its clipping of 16-bit grey is not followed, since it turns such pictures white.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vlcompare.errors import ImageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

FORMATS = ("JPEG", "PNG", "WEBP")
DAMAGED = "The picture is damaged or cut off; save it again, or take another."

# a JPEG's markers but the stuffed zero, TEM, RST and SOI, which have no segment behind them (ITU-T T.81, table B.1)
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_MOST_SEGMENTS = 10_000  # a real file has a few dozen
_MOST_SCANS = 64  # a progressive file has ten or twenty; 75 bytes of one more can cost a large picture 50 ms

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

Source = str | Path | bytes | bytearray | memoryview | Image.Image | Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Limits:
    """What is let in: bytes of a file, pixels of a picture."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000


DEFAULT_LIMITS = Limits()
_reading = threading.Lock()  # a Pillow image that is still to be read from its file can be read by one thread only


def open_image(source: Source, limits: Limits = DEFAULT_LIMITS) -> Image.Image:
    """The picture as upright RGB, in memory, without metadata; the source itself is never changed.

    `source` is a path, the bytes of a file, a function that returns them, or a Pillow image. Web addresses are not
    opened. Raises ImageError with one sentence for whatever is refused.
    """
    if isinstance(source, Image.Image):
        _check_size(source.size, limits)
        with _reading:
            return _upright_rgb(source)
    if callable(source):
        source = source()
    data = _read(source, limits) if isinstance(source, (str, Path)) else source
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ImageError(f"A picture is a path, bytes, or a Pillow image, not {type(data).__name__}.")
    if len(data) > limits.max_bytes:
        raise ImageError(_too_many_bytes(len(data), limits))
    data = bytes(data)
    _check_size(_header_size(data), limits)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("The picture claims too many pixels; make it smaller.") from error
    except Exception as error:  # the decoders raise whatever damaged bytes make them stumble over
        raise ImageError(DAMAGED) from error
    _check_size(image.size, limits)
    return _upright_rgb(image)


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Picture -> what the model sees: resized straight to a square (no crop, no bars), scaled, normalised.

    Shares of width and height (0..1) are the same before and behind it; for pixels, `to_model` and `to_image` are each
    other's exact inverse.
    """

    size: int

    def apply(self, image: Image.Image) -> np.ndarray:
        """float32 (3, size, size): bilinear on 8 bits, / 255, CLIP's mean and standard deviation."""
        square = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        scaled = np.asarray(square, dtype=np.float32) / np.float32(255)  # (S, S, 3)
        normal = (scaled - np.asarray(CLIP_MEAN, np.float32)) / np.asarray(CLIP_STD, np.float32)
        return np.ascontiguousarray(normal.transpose(2, 0, 1))  # (3, S, S)

    def to_model(self, xyxy: tuple[float, ...], image_wh: tuple[int, int]) -> tuple[float, ...]:
        """Pixels of the picture -> pixels of the square; `xyxy` is any run of x, y pairs."""
        return tuple(value * self.size / image_wh[place % 2] for place, value in enumerate(xyxy))

    def to_image(self, xyxy: tuple[float, ...], image_wh: tuple[int, int]) -> tuple[float, ...]:
        """Pixels of the square -> pixels of the picture."""
        return tuple(value * image_wh[place % 2] / self.size for place, value in enumerate(xyxy))


def _read(path: str | Path, limits: Limits) -> bytes:
    if str(path).lower().startswith(("http:", "https:", "data:", "ftp:")):
        raise ImageError("Web addresses are not opened; save the picture as a file and give that.")
    try:
        about = Path(path).stat()
        if not stat.S_ISREG(about.st_mode):
            raise ImageError(f"{path} is not a file; give the path of a JPEG, PNG or WebP picture.")
        if about.st_size > limits.max_bytes:
            raise ImageError(_too_many_bytes(about.st_size, limits))
        with open(path, "rb") as file:
            return file.read(limits.max_bytes + 1)
    except FileNotFoundError as error:
        raise ImageError(f"The picture {path} does not exist.") from error
    except (OSError, ValueError) as error:  # no permission, a NUL in the name, ...
        raise ImageError(f"The picture {str(path)[:200]!r} cannot be read ({error}).") from error


def _too_many_bytes(count: int, limits: Limits) -> str:
    return (
        f"The picture's file has {count / 2**20:,.0f} MiB; at most {limits.max_bytes / 2**20:,.0f} are taken, "
        "so save it smaller."
    )


def _check_size(size: tuple[int, int], limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError("The picture has no pixels; take another.")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"The picture has {width:,} x {height:,} pixels; at most {limits.max_pixels / 1e6:,.0f} million are taken, "
            "so make it smaller."
        )


def _header_size(data: bytes) -> tuple[int, int]:
    """Width and height out of the file's header, before any decoder is started."""
    if not data:
        raise ImageError("The picture's file is empty; take another.")
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack(">II", data[16:24])
        if data.startswith(b"\xff\xd8\xff"):
            return _jpeg_size(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except (struct.error, IndexError, ValueError) as error:
        raise ImageError("The picture's header is damaged or cut off; save it again, or take another.") from error
    name = next((name for at, start, name in _OTHERS if data[at : at + len(start)].lower() == start.lower()), None)
    found = f"This file is {name}, not" if name else "This file is not"
    raise ImageError(f"{found} a JPEG, PNG or WebP picture; save it as one of these (its name does not matter).")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """The frame header (SOF0..15 but DHT, JPG, DAC), found by walking the segments (ITU-T T.81, annex B).

    Every scan makes the decoder walk over the whole picture again, so that a small file can ask for hours of work:
    scans are counted here.
    """
    size, scans = None, 0
    for marker, at in _jpeg_segments(data):
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", data[at + 3 : at + 7])
            size = size or (width, height)
        scans += marker == 0xDA
        if scans > _MOST_SCANS:
            raise ImageError(f"The picture is a JPEG of more than {_MOST_SCANS} scans; save it again, or take another.")
    if size is None:
        raise ValueError("no frame header")
    return size


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Each segment's marker and where its length stands, up to the end of the picture; more may lie behind that.

    Decoders skip stray bytes between segments, too; behind the start of a scan these are the picture itself.
    """
    at = 2
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or found[1] == b"\xd9":
            return
        yield found[1][0], found.end()
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    raise ValueError("too many segments")


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


def _upright_rgb(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # truncated data, bad checksums, ...: each decoder has its own way to say so
        raise ImageError(DAMAGED) from error
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # unreadable metadata: the picture stands as it is stored
        image = image.copy()
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    image.info = {}  # place and camera do not travel on
    return image
