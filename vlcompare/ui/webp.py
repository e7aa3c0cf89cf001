"""Pictures as the page shows them: reduced, as WebP, in data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image


def encode(picture: Image.Image, side: int, quality: int) -> bytes:
    """The picture as WebP, its longer side reduced to `side` pixels where it is longer."""
    small = picture.convert("RGB")
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def data_uri(webp: bytes) -> str:
    """The WebP file as a data URI."""
    return "data:image/webp;base64," + base64.b64encode(webp).decode()
