"""Opening pictures: limits before decoding, then upright RGB; and the transform to a model's input.

JPEG, PNG and WebP, recognised by content, never by file name. The size is checked in the header, so that a small file
that declares a huge picture costs no memory, and the decoder gets only the parts that hold pixels (`picture_file`). Of
animations the first frame is used. Colours become RGB as Pillow's `convert("RGB")` makes them,
as the published checkpoints were trained and evaluated: palettes are looked up, CMYK is converted, and
**transparency is dropped, not composited** (a transparent pixel shows the colour that is stored under it). 16 bits a
channel are reduced to the upper 8, as Pillow does for colour; its clipping of 16-bit grey is not followed, since it
turns such pictures white.
"""

from __future__ import annotations

import io
import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from vlcompare.errors import ImageError, reason
from vlcompare.runtime.picture_file import MAX_SCANNED, PictureFile, read_pixel_parts

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

FORMATS = ("JPEG", "PNG", "WEBP")
DAMAGED = "The picture is damaged or cut off; save it again, or take another."

# EXIF's orientation -> how the stored picture is turned upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

ImageSource = str | Path | bytes | bytearray | memoryview | Image.Image | Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Upper limits: bytes of a file, pixels of a picture, and pixels of its longer side."""

    max_bytes: int = 32 * 2**20
    max_pixels: int = 50_000_000
    max_side: int = 30_000


DEFAULT_IMAGE_LIMITS = ImageLimits()
_reading = threading.Lock()  # only one thread may load a Pillow image whose pixels are not read yet


def open_image(source: ImageSource, limits: ImageLimits = DEFAULT_IMAGE_LIMITS) -> Image.Image:
    """The picture as upright RGB, in memory, without metadata; the source itself is never changed.

    `source` is a path, the bytes of a file, a function that returns them, or a Pillow image. Web addresses are not
    opened. Raises ImageError, with one sentence, for a picture that is refused.
    """
    if isinstance(source, Image.Image):
        _check_size(source.size, limits)
        with _reading:
            return _upright_rgb(source)
    if callable(source):
        source = source()
    data = read_bytes(source, limits) if isinstance(source, (str, Path)) else source
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ImageError(f"A picture is a path, bytes, or a Pillow image, not {type(data).__name__}.")
    image, orientation = _opened(data, limits)
    del data
    return _rgb(_loaded(image), orientation)


def check_image(data: bytes, limits: ImageLimits = DEFAULT_IMAGE_LIMITS) -> None:
    """Raise ImageError for a file that can be refused without decoding its pixels."""
    _opened(data, limits)


def _opened(data: bytes | bytearray | memoryview, limits: ImageLimits) -> tuple[Image.Image, int]:
    """The picture, whose pixels are not decoded yet, within the limits; and its orientation."""
    if len(data) > limits.max_bytes:
        raise ImageError(_too_many_bytes(len(data), limits))
    file = read_pixel_parts(bytes(data))
    _check_size(file.size, limits)
    _check_scans(file)
    try:
        image = Image.open(io.BytesIO(file.data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError("The picture claims too many pixels; make it smaller.") from error
    except Exception as error:  # decoders raise many types of exceptions for damaged data
        raise ImageError(DAMAGED) from error
    _check_size(image.size, limits)
    return image, file.orientation


@dataclass(frozen=True, slots=True)
class ImageTransform:
    """Picture -> model input: resized directly to a square (no crop, no padding), scaled, normalised.

    Relative coordinates (0..1) are the same before and after it.
    """

    size: int

    def apply(self, image: Image.Image) -> np.ndarray:
        """float32 (3, size, size): bilinear on 8 bits, / 255, CLIP's mean and standard deviation."""
        square = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        scaled = np.asarray(square, dtype=np.float32) / np.float32(255)  # (S, S, 3)
        normalised = (scaled - np.asarray(CLIP_MEAN, np.float32)) / np.asarray(CLIP_STD, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))  # (3, S, S)


def read_bytes(path: str | Path, limits: ImageLimits = DEFAULT_IMAGE_LIMITS) -> bytes:
    """The bytes of a picture's file. Raises ImageError where it is too large or cannot be read."""
    if str(path).lower().startswith(("http:", "https:", "data:", "ftp:")):
        raise ImageError("Web addresses are not opened; save the picture as a file and give that.")
    try:
        # opened once, without blocking on a pipe that has no writer, and checked by what was opened, not by its path
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{path} is not a file; give the path of a JPEG, PNG or WebP picture.")
            if status.st_size > limits.max_bytes:
                raise ImageError(_too_many_bytes(status.st_size, limits))
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(limits.max_bytes + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise ImageError(f"The picture {path} does not exist.") from error
    except (OSError, ValueError) as error:  # no permission, a NUL in the name, ...
        raise ImageError(f"The picture {str(path)[:200]!r} cannot be read ({reason(error)}).") from error


def _too_many_bytes(count: int, limits: ImageLimits) -> str:
    return (
        f"The picture's file has {count / 2**20:,.0f} MiB; at most {limits.max_bytes / 2**20:,.0f} are taken, "
        "so save it smaller."
    )


def _check_size(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError("The picture has no pixels; take another.")
    if width * height > limits.max_pixels:
        raise ImageError(
            f"The picture has {width:,} x {height:,} pixels; at most {limits.max_pixels / 1e6:,.0f} million are taken, "
            "so make it smaller."
        )
    if max(size) > limits.max_side:
        raise ImageError(
            f"The picture has a side of {max(size):,} pixels; at most {limits.max_side:,} are taken, "
            "so make it smaller."
        )


def _check_scans(file: PictureFile) -> None:
    """Refuse a JPEG of too many scans: the decoder goes over the whole picture for each."""
    width, height = file.size
    if file.scans * width * height > max(MAX_SCANNED, width * height):
        raise ImageError(
            f"The picture is a JPEG of {file.scans} scans over {width * height / 1e6:,.0f} million pixels; "
            f"at most {MAX_SCANNED // (width * height)} are taken at this size, so save it again."
        )


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # truncated data, bad checksums, ...: each decoder raises its own exceptions
        raise ImageError(DAMAGED) from error
    return image


def _upright_rgb(source: Image.Image) -> Image.Image:
    """Upright RGB of a caller's Pillow image, whose metadata may be anything; the image itself is not changed."""
    image = _loaded(source)
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # unreadable metadata: keep the orientation as stored
        image = image.copy()
    return _rgb(image, 1)


def _rgb(image: Image.Image, orientation: int) -> Image.Image:
    """Upright RGB without metadata; `image` may be changed in place."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    image = image.convert("RGB")
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    image.info = {}  # drop metadata such as location and camera
    return image
