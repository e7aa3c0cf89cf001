"""AI2D's questions about lettered diagrams: their picture has letters where the diagram has words.

The set brings such pictures along (`abc_images`); where they are missing they are drawn from its annotations, whose
texts have a rectangle and a `replacementText` each.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompare.errors import SampleError
from vlcompare.evaluate.readers.opening import RowError, json_object
from vlcompare.evaluate.readers.pictures import picture_path
from vlcompare.evaluate.readers.source import DatasetSource

MAX_LABELS = 200
_ROOM = 0.8  # of a rectangle's height: the letter's


@dataclass(frozen=True, slots=True)
class LetteredPicture:
    """A diagram whose words are covered by letters: drawn when it is wanted. `labels`: (x0, y0, x1, y1, letter)."""

    path: Path
    labels: tuple[tuple[float, float, float, float, str], ...]

    def __call__(self) -> bytes:
        from PIL import ImageDraw, ImageFont

        from vlcompare.runtime.image import open_image

        image = open_image(self.path)
        draw = ImageDraw.Draw(image)
        for x0, y0, x1, y1, letter in self.labels:
            draw.rectangle((x0, y0, x1, y1), fill="white", outline="black")
            font = ImageFont.load_default(max(8.0, min(80.0, _ROOM * (y1 - y0))))
            draw.text(((x0 + x1) / 2, (y0 + y1) / 2), letter, fill="black", font=font, anchor="mm")
        data = io.BytesIO()
        image.save(data, "PNG")
        return data.getvalue()


def lettered_picture(source: DatasetSource, name: str) -> tuple[Any, str]:
    """(picture, key) of a lettered diagram: the set's own, else one that is drawn.

    Raises RowError where the set has neither.
    """
    if not source.need_pictures:
        return None, name
    plain, base = picture_path(source, name), name.rpartition("/")[2]
    for folder in ("abc_images", "../abc_images"):
        path = source.image_root / folder / base
        if path.is_file() and path.resolve().parent.is_relative_to(source.image_root.resolve().parent):
            return path.resolve(), str(plain)
    return LetteredPicture(plain, _labels(source, base)), str(plain)


def _labels(source: DatasetSource, base: str) -> tuple[tuple[float, float, float, float, str], ...]:
    """The rectangles and letters of a picture's annotation."""
    path = source.path / "annotations" / f"{base}.json"
    try:
        texts = json_object(path).get("text")
    except SampleError:
        texts = None
    labels: list[tuple[float, float, float, float, str]] = []
    for text in texts.values() if isinstance(texts, dict) else ():
        letter, corners = text.get("replacementText"), text.get("rectangle")
        if isinstance(letter, str) and letter.strip() and len(labels) < MAX_LABELS:
            (x0, y0), (x1, y1) = corners
            x0, x1, y0, y1 = *sorted((float(x0), float(x1))), *sorted((float(y0), float(y1)))
            labels.append((x0, y0, x1, y1, letter.strip()[:3]))
    if not labels:
        raise RowError(
            f"the question is about letters, and there is neither abc_images/{base[:60]} nor a `replacementText` in "
            f"annotations/{base[:60]}.json"
        )
    return tuple(labels)
