"""A sample's picture as a small JPEG for an export."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlcompare.errors import VLCompareError
from vlcompare.evaluate.results.run_folder import RunFolder

if TYPE_CHECKING:
    from vlcompare.render.draw import Mark


def thumbnail_base64(run: RunFolder, i: int, side: int, quality: int, marks: Sequence[Mark] = ()) -> str:
    """Row `i`'s picture at no more than `side` pixels a side, with `marks` drawn on it; "" where it cannot be shown."""
    from vlcompare.render.draw import annotate, thumbnail
    from vlcompare.runtime.image import open_image

    try:
        picture = thumbnail(open_image(run.picture(i)), side)
    except VLCompareError:
        return ""
    out = io.BytesIO()
    annotate(picture, marks).save(out, "JPEG", quality=quality)
    return base64.b64encode(out.getvalue()).decode()
