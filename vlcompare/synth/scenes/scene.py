"""Rendered scenes: seed -> picture, and every fact about what it shows.

A scene is first laid out in shares of the picture, so that its facts do not depend on the resolution, and then painted.
No seed of the evaluation stream gives a scene of the training stream (see `dice`).

Scenes are sampled in one of two ways. "balanced": every kind, colour, size, word and so on equally often, independent
of each other. "natural": each with a long tail, and a thing mostly in the usual colour of its kind, so that much can be
guessed without looking. Documents, numbers of things and places are as often in either.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from PIL import Image, ImageDraw

from vlcompare.errors import RequestError
from vlcompare.synth.scenes import shapes
from vlcompare.synth.scenes.backgrounds import GROUNDS, TONES, Ground, paint, styles
from vlcompare.synth.scenes.dice import Dice, LongTailDice, StreamName
from vlcompare.synth.scenes.documents import Document, draw_document, paint_document
from vlcompare.types import Box

PIXELS = range(64, 4097)  # sizes of a picture; in smaller ones no text could be read
DOCUMENT_SHARE = 0.25
MARGIN = 0.02  # least distance of a thing from the picture's edge, and of two things from each other
SIGN_WORDS = (
    "OPEN", "STOP", "SALE", "EXIT", "TAXI", "CAFE", "BANK", "SHOP", "PARK", "SLOW", "FOOD", "FREE",
    "HELP", "MENU", "INFO", "PUSH", "PULL", "POOL", "FARM", "ZOO", "GYM", "BUS", "NEW", "TEA",
)  # fmt: skip
SIGN_NUMBERS = tuple(str(number) for number in range(1, 100))
Sampling = Literal["balanced", "natural"]
SAMPLINGS: tuple[str, ...] = get_args(Sampling)
USUALLY = 0.75  # share of the things in natural scenes that have the usual colour of their kind
USUAL_COLORS = {
    "house": "red", "tree": "green", "car": "red", "boat": "blue", "cup": "orange", "fish": "blue", "star": "yellow",
    "flower": "pink", "heart": "red", "umbrella": "purple", "butterfly": "orange", "rocket": "black", "sign": "yellow",
}  # fmt: skip
_SIGN_RANGE = (0.36, 0.42)  # signs are always large: their text must be read


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One thing: its kind, colour, size, place and text."""

    kind: str  # of shapes.KINDS, or "sign"
    color: str
    size: str  # of shapes.SIZES
    box: Box  # bounds its own pixels (not its shadow)
    text: str | None = None  # what a sign says
    mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture and what it shows: either `objects`, or one `document` that fills the picture."""

    image: Image.Image
    objects: tuple[SceneObject, ...]
    document: Document | None
    ground: Ground
    seed: int
    stream: str


def _color(dice: Dice, kind: str, colors: list[str], sampling: Sampling) -> str:
    if sampling == "natural" and dice.share() < USUALLY:
        return USUAL_COLORS[kind]
    return dice.one(colors)


def _choose(dice: Dice, sampling: Sampling) -> list[SceneObject]:
    """The things of a scene, not yet placed: two to seven of few kinds and colours, so that many are alike."""
    count = 2 + dice.below(6)
    kinds = dice.some(shapes.KINDS, 1 + dice.below(3) + (count > 4))
    colors = dice.some(tuple(shapes.COLORS), 2 + dice.below(4))
    signs = min(count - 1, (dice.share() < 0.35) + (dice.share() < 0.12))
    texts = [dice.one(SIGN_WORDS if dice.share() < 0.75 else SIGN_NUMBERS) for _ in range(signs)]
    if len(texts) == 2 and texts[0] == texts[1]:
        texts.pop()
    things = [
        SceneObject(shapes.SIGN, _color(dice, shapes.SIGN, colors, sampling), "large", Box(0, 0, 0, 0), text)
        for text in texts
    ]
    room = 3 - len(texts) if count < 6 else 1 - len(texts)  # how many more large things fit
    while len(things) < count:
        kind, size = dice.one(kinds), dice.one(tuple(shapes.SIZES))
        if size == "large":
            size = size if room > 0 else dice.one(("small", "medium"))
            room -= 1
        mirrored = kind in shapes.MIRRORED and dice.share() < 0.5
        color = _color(dice, kind, colors, sampling)
        things.append(SceneObject(kind, color, size, Box(0, 0, 0, 0), None, mirrored))
    return sorted(things, key=lambda thing: -shapes.SIZES[thing.size][0])


def _place(things: list[SceneObject], dice: Dice) -> list[SceneObject]:
    """Give every thing a box that touches no other; what finds no room after many tries is left out."""
    placed: list[SceneObject] = []
    for thing in things:
        low, high = _SIGN_RANGE if thing.text else shapes.SIZES[thing.size]
        scale = low + (high - low) * dice.below(5) / 4
        width, height = (scale * side for side in shapes.aspect(thing.kind))
        for _ in range(60):
            x, y = dice.between(MARGIN, 1 - MARGIN - width), dice.between(MARGIN, 1 - MARGIN - height)
            if all(
                x > other.box.x1 + MARGIN
                or y > other.box.y1 + MARGIN
                or x + width < other.box.x0 - MARGIN
                or y + height < other.box.y0 - MARGIN
                for other in placed
            ):
                placed.append(replace(thing, box=Box(x, y, x + width, y + height)))
                break
    return placed


def lay_out(
    seed: int, stream: StreamName = "evaluation", sampling: Sampling = "balanced"
) -> tuple[Ground, tuple[SceneObject, ...], Document | None]:
    """All facts of a scene, without its picture; things are in the raster order of their centres.

    Whether a seed's scene is a document does not depend on the sampling. Raises RequestError for an unknown one.
    """
    if sampling not in SAMPLINGS:
        raise RequestError(f"Scenes are sampled {' or '.join(SAMPLINGS)}, not {sampling!r}.")
    dice = (LongTailDice if sampling == "natural" else Dice)(seed, stream, 0)
    kind = dice.one(GROUNDS)
    ground = Ground(kind, dice.below(len(TONES)), dice.below(styles(kind)))
    if dice.share() < DOCUMENT_SHARE:
        return ground, (), draw_document(dice)
    while True:
        placed = _place(_choose(dice, sampling), dice)
        if len(placed) >= 2:
            return ground, tuple(sorted(placed, key=lambda thing: raster(thing.box))), None


def raster(box: Box, grid: int = 8) -> tuple[int, float]:
    """Reading order: the row of the centre on a grid, then its place from the left."""
    x, y = box.center
    return int(y * grid), x


def render(
    ground: Ground, objects: tuple[SceneObject, ...], document: Document | None, size: int, *, shadows: bool = True
) -> Image.Image:
    """Paint a laid-out scene at size x size pixels."""
    image = paint(ground, size).copy()
    if document is not None:
        paint_document(image, document)
        return image
    pad, drop = max(2, round(size * 0.02)), max(1, round(size * 0.012))
    for thing in objects:
        x, y, right, bottom = (round(value * size) for value in thing.box)
        width, height = max(1, right - x), max(1, bottom - y)
        if shadows:
            soft = shapes.shadow(thing.kind, width, height, thing.mirrored, pad)
            image.paste((40, 42, 66), (x - pad + drop // 2, y - pad + drop), soft)
        picture = shapes.sprite(thing.kind, thing.color, width, height, thing.mirrored)
        image.paste(picture, (x, y), picture)
        if thing.text:
            _write(image, thing, x, y, width, height)
    return image


def _write(image: Image.Image, sign: SceneObject, x: int, y: int, width: int, height: int) -> None:
    x0, y0, x1, y1 = shapes.PANEL
    left, top = x + round(x0 * width), y + round(y0 * height)
    face, dx, dy = shapes.fitted(sign.text or "", round((x1 - x0) * width), round((y1 - y0) * height))
    color = shapes.INK if sign.color in shapes.LIGHT else shapes.WHITE
    ImageDraw.Draw(image).text((left + dx, top + dy), sign.text or "", font=face, fill=color)


def draw_scene(
    seed: int, *, stream: StreamName = "evaluation", size: int = 224, sampling: Sampling = "balanced"
) -> Scene:
    """The scene of a seed: the same seed and size give the same pixels, and the same facts at every size.

    Raises RequestError for a negative seed, an unknown stream or sampling, or a size that is not in PIXELS.
    """
    if size not in PIXELS:
        raise RequestError(f"A scene is drawn at {PIXELS.start} to {PIXELS.stop - 1} pixels, not at {size}.")
    ground, objects, document = lay_out(seed, stream, sampling)
    return Scene(render(ground, objects, document, size), objects, document, ground, seed, stream)
