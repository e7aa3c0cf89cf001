"""Text drawn into pictures: one font with fallbacks for the scripts that it lacks, and lines broken to a width.

The font is DejaVu Sans as matplotlib ships it (its folder is looked up, nothing is imported): Latin, Greek, Cyrillic,
Arabic, Hebrew. Other scripts are taken from the fonts of the system. A character that no font here has is written as
its code point (\\u4f60), so that it never becomes an empty box.
"""

from __future__ import annotations

import functools
import importlib.util
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

# further scripts, by the names of files that systems have; pillow looks in the system's folders of fonts
_FALLBACKS = (
    "NotoSansCJK-Regular.ttc", "NotoSansCJKsc-Regular.otf", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc",
    "wqy-zenhei.ttc", "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc", "Arial Unicode.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansBengali-Regular.ttf",
    "NotoSansTamil-Regular.ttf", "NotoSansThai-Regular.ttf", "Nirmala.ttf", "leelawui.ttf", "FreeSans.ttf",
    "NotoSansSymbols2-Regular.ttf", "seguisym.ttf", "unifont.ttf",
)  # fmt: skip
LONGEST_LINE = 300  # characters of a line at most


@dataclass(frozen=True, slots=True)
class Line:
    """One line as it is drawn: pieces of text with the number of the font that has them; right to left or not."""

    pieces: tuple[tuple[str, int], ...]
    width: float
    right_to_left: bool = False

    def draw(self, draw: ImageDraw.ImageDraw, x: float, y: float, size: int, color: str, bold: bool = False) -> None:
        """Draw it with its baseline `size` pixels below y."""
        for text, number in reversed(self.pieces) if self.right_to_left else self.pieces:
            font = _font(number, size, bold)
            draw.text((x, y + size), text, fill=color, font=font, anchor="ls")
            x += font.getlength(text)


def face(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font for text of `size` pixels."""
    return _font(0, size, bold)


def printable(text: str) -> str:
    """The text with line breaks kept; other white space, controls and direction marks become spaces.

    Joiners stay: scripts need them. What no font has, and what is not a character, becomes its code point.
    """
    kept = []
    for character in text.replace("\r\n", "\n"):
        category = unicodedata.category(character)
        if character in "\n\u200c\u200d":
            kept.append(character)
        elif character in "\r\u2028\u2029":
            kept.append("\n")
        elif category[0] == "Z" or category in ("Cc", "Cf"):
            kept.append(" ")
        else:
            drawn = category not in ("Cs", "Co", "Cn") and _number(character) is not None
            kept.append(character if drawn else _code_point(character))
    return "".join(kept)


def wrap(text: str, width: float, size: int, *, bold: bool = False) -> Iterator[Line]:
    """The text's lines, each at most `width` pixels wide; blank lines are kept, one at a time.

    Lines break at spaces, and within a word that is wider than a line (also in scripts without spaces).
    """
    blank = True  # at the start, where none is wanted
    for paragraph in printable(text).split("\n"):
        words = paragraph.split()
        if not words:
            if not blank:
                yield Line((), 0.0)
            blank = True
            continue
        blank = False
        right_to_left = _right_to_left(paragraph)
        for line in _fill(words, width, size, bold):
            yield _line(line, size, bold, right_to_left)


def fit(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """The text, shortened with an ellipsis until it is no wider than `width`; "" where not one character fits."""
    if not text or font.getlength(text) <= width:
        return text
    low, high = 0, len(text) - 1  # the longest beginning that fits beside the ellipsis, by halving
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle] + "…") <= width else (low, middle - 1)
    return text[:low].rstrip() + "…" if low else ""


def _fill(words: list[str], width: float, size: int, bold: bool) -> Iterator[str]:
    """Words put on lines; a line is measured again as a whole only where it gets near to the width."""
    space = _width(" ", size, bold)
    line, taken = "", 0.0
    for word in words:
        own = _width(word, size, bold) if len(word) <= LONGEST_LINE else width + 1
        if line and taken + space + own <= width:
            line, taken = f"{line} {word}", taken + space + own
            continue
        if line:
            yield line
        while own > width:
            cut = _longest(word, width, size, bold)
            yield word[:cut]
            word = word[cut:]
            own = _width(word, size, bold) if len(word) <= LONGEST_LINE else width + 1
        line, taken = word, own
    if line:
        yield line


def _longest(word: str, width: float, size: int, bold: bool) -> int:
    """How many characters of a long word fit on a line, at least one, and no mark without its letter."""
    low, high = 1, min(len(word), LONGEST_LINE)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _width(word[:middle], size, bold) <= width else (low, middle - 1)
    cut = low
    while 1 < cut < len(word) and (unicodedata.category(word[cut])[0] == "M" or "\u200d" in word[cut - 1 : cut + 1]):
        cut -= 1
    return cut if cut > 1 else low


def _line(text: str, size: int, bold: bool, right_to_left: bool) -> Line:
    pieces = tuple(_pieces(text))
    return Line(pieces, sum(_font(number, size, bold).getlength(piece) for piece, number in pieces), right_to_left)


@functools.lru_cache(maxsize=8192)  # words repeat
def _width(text: str, size: int, bold: bool) -> float:
    return sum(_font(number, size, bold).getlength(piece) for piece, number in _pieces(text))


def _pieces(text: str) -> Iterator[tuple[str, int]]:
    """Runs of characters that one font has; spaces and joiners stay with the characters before them."""
    if text.isascii():
        yield text, 0
        return
    numbers: list[int] = []
    for character in text:
        stays = numbers and (character in " \u200c\u200d" or unicodedata.category(character)[0] == "M")
        numbers.append(numbers[-1] if stays else _number(character) or 0)
    start = 0
    for number, run in groupby(numbers):
        stop = start + len(list(run))
        yield text[start:stop], number
        start = stop


def _right_to_left(text: str) -> bool:
    """Whether the first letter that has a direction runs from right to left."""
    strong = (unicodedata.bidirectional(character) for character in text)
    return next((kind != "L" for kind in strong if kind in ("L", "R", "AL")), False)


def _code_point(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@functools.lru_cache(maxsize=8192)
def _number(character: str) -> int | None:
    """Which font has this character; None where none has. A font draws what it lacks like a character there is not."""
    if character in " \u200c\u200d":
        return 0
    for number in range(len(_files())):
        font = _probe(number)
        missing, drawn = font.getmask("\uffff"), font.getmask(character)
        if drawn.size != missing.size or bytes(drawn) != bytes(missing):
            return number
    return None


@functools.lru_cache(maxsize=1)
def _files() -> tuple[str | None, ...]:
    """The font files that are here, the first for all that it has; None: pillow's own."""
    matplotlib = importlib.util.find_spec("matplotlib")
    folder = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" if matplotlib and matplotlib.origin else None
    names = [str(folder / "DejaVuSans.ttf")] if folder else []
    found: list[str | None] = []
    for name in [*names, "DejaVuSans.ttf", "Arial.ttf"]:
        if _opens(name):
            found.append(name)
            break
    return (*(found or [None]), *filter(_opens, _FALLBACKS))


def _opens(name: str) -> bool:
    try:
        ImageFont.truetype(name, 16)
    except OSError:
        return False
    return True


@functools.lru_cache(maxsize=32)
def _probe(number: int) -> ImageFont.FreeTypeFont:
    """A font that draws each character by itself, to see whether it has it."""
    name = _files()[number]
    return ImageFont.truetype(name, 16, layout_engine=ImageFont.Layout.BASIC) if name else _own(16)


@functools.lru_cache(maxsize=128)
def _font(number: int, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    name = _files()[number]
    if name is None:
        return _own(size)
    if bold and name.endswith("DejaVuSans.ttf"):
        try:
            return ImageFont.truetype(name.replace("DejaVuSans.ttf", "DejaVuSans-Bold.ttf"), size)
        except OSError:
            pass
    return ImageFont.truetype(name, size)


def _own(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font
