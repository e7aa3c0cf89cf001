"""The things in a rendered scene, drawn from vector shapes: kind, colour and size in pixels -> a sprite.

Every kind is drawn once at MASTER pixels in units of 0..100, outlined, cropped to its own pixels and reduced by area to
the size that is asked for, so a sprite always fills its rectangle: the rectangle is the exact box of the thing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache

from PIL import Image, ImageDraw, ImageFilter, ImageFont

RGB = tuple[int, int, int]

COLORS: dict[str, RGB] = {
    "red": (217, 44, 46),
    "orange": (247, 134, 26),
    "yellow": (250, 208, 36),
    "green": (52, 160, 72),
    "blue": (44, 108, 220),
    "purple": (132, 66, 176),
    "pink": (246, 146, 190),
    "black": (50, 52, 60),
}
# the longer side of a thing, as a share of the picture's: ranges far apart, so that a size is never a matter of taste
SIZES: dict[str, tuple[float, float]] = {"small": (0.135, 0.16), "medium": (0.215, 0.25), "large": (0.33, 0.39)}
SIGN = "sign"

MASTER = 512  # pixels that 120 units take: 100 of the drawing and a rim for the outline
_RIM = 10.0
_UNIT = MASTER / (100 + 2 * _RIM)

WHITE: RGB = (252, 251, 247)
INK: RGB = (58, 60, 70)
GLASS: RGB = (206, 230, 243)
WOOD: RGB = (133, 94, 62)
STEEL: RGB = (150, 156, 166)
LEAF: RGB = (104, 150, 84)


def blend(color: RGB, other: RGB, share: float) -> RGB:
    """`color` with `share` of `other` in it."""
    return tuple(round(a + (b - a) * share) for a, b in zip(color, other, strict=True))  # type: ignore[return-value]


class Pen:
    """Draws in units of 0..100 on a transparent master; `main`, `shade` and `tint` are one colour's three tones."""

    def __init__(self, color: str) -> None:
        self.main = COLORS[color]
        self.shade = blend(self.main, (0, 0, 0), 0.24) if color != "black" else (82, 85, 96)
        self.tint = blend(self.main, (255, 255, 255), 0.3)
        self.outline = blend(self.main, (18, 14, 30), 0.52)
        self.image = Image.new("RGBA", (MASTER, MASTER), (*self.outline, 0))
        self._draw = ImageDraw.Draw(self.image)

    @staticmethod
    def _at(values: tuple[float, ...]) -> list[float]:
        return [(value + _RIM) * _UNIT for value in values]

    def polygon(self, fill: RGB, *points: float) -> None:
        self._draw.polygon(self._at(points), fill=(*fill, 255))

    def ellipse(self, fill: RGB, x0: float, y0: float, x1: float, y1: float) -> None:
        self._draw.ellipse(self._at((x0, y0, x1, y1)), fill=(*fill, 255))

    def disc(self, fill: RGB, x: float, y: float, radius: float) -> None:
        self.ellipse(fill, x - radius, y - radius, x + radius, y + radius)

    def box(self, fill: RGB, x0: float, y0: float, x1: float, y1: float, radius: float = 0) -> None:
        self._draw.rounded_rectangle(self._at((x0, y0, x1, y1)), radius * _UNIT, fill=(*fill, 255))

    def line(self, fill: RGB, width: float, *points: float) -> None:
        self._draw.line(self._at(points), fill=(*fill, 255), width=round(width * _UNIT), joint="curve")

    def arc(self, fill: RGB, width: float, box: tuple[float, float, float, float], start: float, end: float) -> None:
        self._draw.arc(self._at(box), start, end, fill=(*fill, 255), width=round(width * _UNIT))

    def pie(self, fill: RGB, box: tuple[float, float, float, float], start: float, end: float) -> None:
        self._draw.pieslice(self._at(box), start, end, fill=(*fill, 255))


def _house(pen: Pen) -> None:
    pen.box(pen.shade, 66, 10, 79, 40)
    pen.box(pen.main, 14, 44, 86, 96)
    pen.polygon(pen.shade, 0, 50, 50, 4, 100, 50)
    pen.box(WHITE, 25, 58, 45, 78, 2)
    pen.box(WHITE, 57, 60, 76, 96, 2)


def _tree(pen: Pen) -> None:
    pen.box(WOOD, 41, 60, 59, 100, 2)
    for x, y, radius in ((28, 48, 22), (72, 48, 22), (50, 24, 24), (50, 50, 24)):
        pen.disc(pen.main, x, y, radius)
    pen.disc(pen.tint, 41, 22, 9)
    pen.disc(pen.shade, 68, 54, 8)


def _car(pen: Pen) -> None:
    pen.polygon(pen.main, 20, 46, 32, 24, 66, 24, 82, 46)
    pen.box(pen.main, 0, 44, 100, 72, 10)
    pen.polygon(GLASS, 30, 45, 37, 30, 47, 30, 47, 45)
    pen.polygon(GLASS, 53, 45, 53, 30, 63, 30, 72, 45)
    pen.box(pen.shade, 4, 60, 96, 68, 4)
    pen.disc((255, 238, 170), 94, 53, 5)
    for x in (24, 76):
        pen.disc(INK, x, 72, 15)
        pen.disc((225, 228, 233), x, 72, 6)


def _boat(pen: Pen) -> None:
    pen.box(WOOD, 47, 2, 53, 70)
    pen.polygon(WHITE, 57, 10, 57, 60, 92, 60)
    pen.polygon(pen.main, 43, 6, 43, 60, 8, 60)
    pen.polygon(pen.main, 0, 66, 100, 66, 82, 96, 20, 96)
    pen.polygon(pen.shade, 10, 82, 91, 82, 82, 96, 20, 96)


def _cup(pen: Pen) -> None:
    pen.arc(pen.shade, 10, (54, 28, 100, 74), 0, 360)
    pen.box(pen.main, 4, 14, 74, 92, 14)
    pen.box(pen.main, 4, 14, 74, 40)
    pen.box(WHITE, 4, 46, 74, 60)
    pen.ellipse(pen.shade, 4, 4, 74, 26)
    pen.ellipse((116, 76, 50), 12, 9, 66, 23)


def _fish(pen: Pen) -> None:
    pen.polygon(pen.shade, 66, 48, 98, 22, 92, 48, 98, 76)
    pen.polygon(pen.shade, 26, 32, 46, 12, 62, 32)
    pen.ellipse(pen.main, 0, 22, 78, 78)
    pen.arc(pen.shade, 5, (6, 28, 38, 72), 300, 60)
    pen.polygon(pen.shade, 46, 50, 62, 44, 62, 62)
    pen.disc(WHITE, 19, 44, 9)
    pen.disc(INK, 17, 44, 5)


def _star(pen: Pen) -> None:
    points: list[float] = []
    for corner in range(10):
        radius = 50 if corner % 2 == 0 else 22
        angle = math.pi * (corner / 5 - 0.5)
        points += [50 + radius * math.cos(angle), 50 + radius * math.sin(angle)]
    pen.polygon(pen.main, *points)
    pen.polygon(pen.tint, 50, 16, 50, 50, 36.5, 32)


def _flower(pen: Pen) -> None:
    pen.line(LEAF, 7, 50, 60, 50, 100)
    pen.ellipse(LEAF, 52, 78, 80, 92)
    pen.ellipse(LEAF, 20, 82, 48, 96)
    for petal in range(6):
        angle = math.pi * (petal / 3 + 1 / 6)
        pen.disc(pen.main, 50 + 22 * math.cos(angle), 36 + 22 * math.sin(angle), 15)
    pen.disc((255, 243, 196) if pen.main != COLORS["yellow"] else WOOD, 50, 36, 12)


def _heart(pen: Pen) -> None:
    pen.disc(pen.main, 26, 30, 25)
    pen.disc(pen.main, 74, 30, 25)
    pen.polygon(pen.main, 5, 43, 50, 94, 95, 43, 62, 22, 38, 22)
    pen.ellipse(pen.tint, 14, 15, 32, 30)


def _umbrella(pen: Pen) -> None:
    pen.box(INK, 47, 2, 53, 86)
    pen.arc(INK, 6, (47, 74, 71, 100), 0, 180)
    pen.pie(pen.main, (0, 8, 100, 104), 180, 360)
    pen.pie(pen.shade, (30, 8, 70, 104), 180, 360)
    for x0, x1 in ((0, 30), (30, 70), (70, 100)):
        pen.pie((0, 0, 0), (x0, 50, x1, 63), 180, 360)


def _butterfly(pen: Pen) -> None:
    for side in (-1, 1):

        def wing(fill: RGB, x: float, y: float, rx: float, ry: float, side: int = side) -> None:
            pen.ellipse(fill, 50 + side * x - rx, y - ry, 50 + side * x + rx, y + ry)

        wing(pen.main, 27, 32, 23, 26)
        wing(pen.main, 22, 70, 18, 20)
        wing(WHITE, 31, 29, 8, 9)
        wing(WHITE, 24, 72, 6, 7)
        pen.line(INK, 4, 50, 24, 50 + side * 12, 2)
    pen.ellipse(INK, 44, 18, 56, 88)


def _rocket(pen: Pen) -> None:
    pen.polygon((255, 226, 140), 40, 82, 60, 82, 50, 100)
    pen.polygon(pen.shade, 34, 52, 14, 86, 36, 78)
    pen.polygon(pen.shade, 66, 52, 86, 86, 64, 78)
    pen.ellipse(pen.main, 29, 0, 71, 104)
    pen.box((0, 0, 0), 20, 84, 80, 108)
    pen.polygon(pen.shade, 40, 84, 60, 84, 56, 90, 44, 90)
    pen.polygon((255, 214, 110), 42, 90, 58, 90, 50, 104)
    pen.disc(WHITE, 50, 40, 13)
    pen.disc(GLASS, 50, 40, 9)


def _sign(pen: Pen) -> None:
    pen.box(STEEL, 45, 40, 55, 78, 2)
    pen.box(pen.main, 0, 0, 100, 52, 7)
    pen.box(WHITE, 3, 3, 97, 49, 5)
    pen.box(pen.main, 6, 6, 94, 46, 3)


PANEL = (0.095, 0.13, 0.905, 0.57)  # where a sign's text goes, within its box
LIGHT = ("orange", "yellow", "pink")  # colours on which text is dark
_DRAW: dict[str, Callable[[Pen], None]] = {
    "house": _house,
    "tree": _tree,
    "car": _car,
    "boat": _boat,
    "cup": _cup,
    "fish": _fish,
    "star": _star,
    "flower": _flower,
    "heart": _heart,
    "umbrella": _umbrella,
    "butterfly": _butterfly,
    "rocket": _rocket,
    SIGN: _sign,
}
KINDS: tuple[str, ...] = tuple(kind for kind in _DRAW if kind != SIGN)
MIRRORED: tuple[str, ...] = ("house", "car", "boat", "cup", "fish", "umbrella")  # kinds that also face the other way
_CUT = ("umbrella", "rocket")  # kinds whose drawing cuts pieces out: what is pure black becomes transparent


@cache
def _master(kind: str, color: str) -> Image.Image:
    """The thing at full size, outlined, cropped to its own pixels (RGBA)."""
    pen = Pen(color)
    _DRAW[kind](pen)
    image = pen.image
    if kind in _CUT:
        red, green, blue, alpha = image.split()
        erased = Image.merge("RGB", (red, green, blue)).convert("L").point([255] + [0] * 255)
        alpha.paste(0, mask=erased)
        image.putalpha(alpha)
    # a rim of about 2.5 units in the outline's colour: silhouettes stay readable on every ground
    grown = image.getchannel("A").filter(ImageFilter.GaussianBlur(2.4 * _UNIT)).point([0] * 30 + [255] * 226)
    whole = Image.new("RGBA", image.size, (*pen.outline, 0))
    whole.putalpha(grown)
    whole.alpha_composite(image)
    return whole.crop(grown.getbbox())


@cache
def aspect(kind: str) -> tuple[float, float]:
    """Width and height of a kind, the longer one being 1."""
    width, height = _master(kind, "red").size
    longer = max(width, height)
    return width / longer, height / longer


@lru_cache(maxsize=4096)
def sprite(kind: str, color: str, width: int, height: int, mirrored: bool = False) -> Image.Image:
    """The thing at exactly width x height pixels (RGBA), antialiased; it touches all four sides."""
    image = _master(kind, color)
    if mirrored:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    shrinks = width <= image.width and height <= image.height
    return image.resize((width, height), Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)


@lru_cache(maxsize=4096)
def shadow(kind: str, width: int, height: int, mirrored: bool, pad: int) -> Image.Image:
    """A soft shadow of the thing's silhouette (L), `pad` pixels wider on every side."""
    mask = Image.new("L", (width + 2 * pad, height + 2 * pad), 0)
    alpha = sprite(kind, "red", width, height, mirrored).getchannel("A").point([value // 4 for value in range(256)])
    mask.paste(alpha, (pad, pad))
    return mask.filter(ImageFilter.GaussianBlur(pad / 2))


@lru_cache(maxsize=256)
def font(pixels: int) -> ImageFont.FreeTypeFont:
    """Pillow's built-in font with the basic layout engine: the same glyphs on every machine."""
    found = ImageFont.load_default(pixels)
    assert isinstance(found, ImageFont.FreeTypeFont)
    return found


@lru_cache(maxsize=4096)
def fitted(text: str, width: int, height: int) -> tuple[ImageFont.FreeTypeFont, int, int]:
    """The largest font whose ink fits width x height, and where the ink begins relative to the drawing point."""
    pixels = max(5, round(height * 1.4))
    while True:
        box = font(pixels).getbbox(text)
        if pixels <= 5 or (box[2] - box[0] <= width and box[3] - box[1] <= height):
            left = (width - (box[2] - box[0])) / 2 - box[0]
            top = (height - (box[3] - box[1])) / 2 - box[1]
            return font(pixels), round(left), round(top)
        pixels -= 1
