"""Backgrounds of rendered scenes: plain, graded and textured, all pale, so that every colour shows on them.

Each is drawn once per picture size and then only copied.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from vlcompare.synth.scenes.shapes import RGB, blend

TONES: tuple[RGB, ...] = (
    (244, 239, 228),
    (222, 234, 243),
    (226, 239, 222),
    (241, 226, 226),
    (232, 227, 243),
    (236, 236, 236),
    (250, 244, 214),
    (214, 236, 234),
)
GROUNDS = ("plain", "graded", "textured")
_TEXTURES = ("paper", "stripes", "dots", "checks", "waves", "clouds")


class Ground(NamedTuple):
    """One ground: `kind` as in GROUNDS, `tone` of TONES, and `style`: which gradient or texture."""

    kind: str
    tone: int
    style: int


def styles(kind: str) -> int:
    """How many styles a kind of ground has."""
    return {"plain": 1, "graded": 4, "textured": len(_TEXTURES)}[kind]


def _coordinates(size: int) -> tuple[np.ndarray, np.ndarray]:
    middles = (np.arange(size) + 0.5) / size
    return np.meshgrid(middles, middles)  # x, y in 0..1, (size, size)


def _soft(wave: np.ndarray, size: int, period: float) -> np.ndarray:
    """A step of `wave` at 0, as wide as one pixel: stripes without jagged edges."""
    return np.clip(wave * size * period / 4 + 0.5, 0, 1)


def _noise(size: int, cells: int) -> np.ndarray:
    """Smooth noise 0..1 that is the same at every size: a fixed lattice, enlarged."""
    lattice = np.random.RandomState(cells).rand(cells, cells)
    coarse = Image.fromarray((lattice * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(coarse.filter(ImageFilter.GaussianBlur(size / cells / 3)), dtype=float) / 255


def _graded(size: int, style: int) -> np.ndarray:
    x, y = _coordinates(size)
    if style == 0:
        return y
    if style == 1:
        return (x + y) / 2
    if style == 2:
        return np.clip(np.hypot(x - 0.5, y - 0.45) / 0.7, 0, 1)
    return _soft(y - 0.62 - 0.03 * np.sin(x * 7), size, 2) * 0.75 + 0.25 * y  # a horizon


_TEXTURE: dict[str, Callable[[np.ndarray, np.ndarray, int], np.ndarray]] = {
    "paper": lambda x, y, size: 0.8 * _noise(size, 48),
    "stripes": lambda x, y, size: 0.55 * _soft(np.sin((x + y) * np.pi * 9), size, 0.1),
    "dots": lambda x, y, size: 0.7 * _soft(0.22 - np.hypot((x * 9) % 1 - 0.5, (y * 9) % 1 - 0.5), size, 0.45),
    "checks": lambda x, y, size: 0.5 * (((x * 8).astype(int) + (y * 8).astype(int)) % 2),
    "waves": lambda x, y, size: 0.6 * _soft(np.sin((y + 0.02 * np.sin(x * 25)) * np.pi * 14), size, 0.1),
    "clouds": lambda x, y, size: _noise(size, 7),
}


@lru_cache(maxsize=128)
def paint(ground: Ground, size: int) -> Image.Image:
    """The ground at size x size pixels (RGB); shared, so copy it before drawing on it."""
    tone = TONES[ground.tone]
    if ground.kind == "plain":
        return Image.new("RGB", (size, size), tone)
    if ground.kind == "graded":
        share, other = _graded(size, ground.style), blend(tone, TONES[(ground.tone + 1) % len(TONES)], 0.5)
        other = blend(other, (120, 130, 140), 0.22)
    else:
        x, y = _coordinates(size)
        share = _TEXTURE[_TEXTURES[ground.style]](x, y, size)
        other = blend(tone, (120, 125, 140), 0.2)
    base, end = np.array(tone, dtype=float), np.array(other, dtype=float)
    return Image.fromarray(np.rint(base + (end - base) * share[..., None]).astype(np.uint8))
