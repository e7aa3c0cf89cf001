"""Boxes and labels on pictures: what is drawn where, what stays free, and that the colours can be told apart."""

from __future__ import annotations

import itertools
import random
import time

import numpy as np
import pytest
from PIL import Image

from vlcompare.render.draw import (
    MAX_LABEL,
    STYLES,
    Mark,
    _Area,
    _label_areas,
    annotate,
    answer_marks,
    clean_label,
    line_width,
    request_marks,
    thumbnail,
)
from vlcompare.types import Answer, Box, Request

GREY = (90, 90, 90)


def rgb(color: str) -> tuple[int, ...]:
    return tuple(int(color[at : at + 2], 16) for at in (1, 3, 5))


def linear(color: str) -> np.ndarray:
    """sRGB to linear light (IEC 61966-2-1)."""
    values = np.array(rgb(color)) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    return np.any(np.asarray(before) != np.asarray(after), axis=-1)


@pytest.mark.parametrize("side", STYLES)
def test_a_box_is_drawn_around_its_area_in_its_colour(side: str) -> None:
    image = Image.new("RGB", (400, 320), GREY)
    drawn = annotate(image, [Mark(Box(0.25, 0.25, 0.75, 0.75), side=side)])
    touched = changed(image, drawn)
    assert image.getpixel((99, 160)) == GREY and drawn.size == image.size  # a copy
    assert not touched[80:240, 100:300].any()  # nothing inside
    width = line_width(image.size)
    assert touched[80:240, 100 - width : 100].all() and touched[80 - width : 80, 100:300].all()
    assert drawn.getpixel((99, 160)) == (255, 255, 255)  # the rim
    assert drawn.getpixel((98, 160)) in {rgb(STYLES[side].color), (255, 255, 255)}
    rows, cols = np.nonzero(touched)
    assert rows.min() >= 80 - 3 * width and cols.max() <= 300 + 3 * width


def test_the_truth_is_dashed_and_the_sides_are_not() -> None:
    image = Image.new("RGB", (400, 320), GREY)
    for side, colours in (("truth", {(0, 0, 0), (255, 255, 255)}), ("left", {rgb(STYLES["left"].color)})):
        drawn = np.asarray(annotate(image, [Mark(Box(0.25, 0.25, 0.75, 0.75), side=side)]))
        assert {tuple(pixel) for pixel in drawn[78, 110:290].tolist()} == colours


def test_small_boxes_stay_free_of_labels_and_lines() -> None:
    image = Image.new("RGB", (640, 480), GREY)
    marks = [
        Mark(Box(0.50, 0.50, 0.52, 0.53), "one", "left"),
        Mark(Box(0.55, 0.50, 0.57, 0.53), "two", "right"),
        Mark(Box(0.50, 0.56, 0.52, 0.59), "three", "truth"),
        Mark(Box(0.97, 0.97, 1.00, 1.00), "in the corner", "left"),
        Mark(Box(0.1, 0.1, 0.9, 0.9), "around all", "right"),
    ]
    touched = changed(image, annotate(image, marks))
    for mark in marks[:3]:
        x0, y0, x1, y1 = (round(v * s) for v, s in zip(mark.box, (640, 480) * 2, strict=True))
        assert not touched[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].any(), mark.label


def test_every_place_for_a_label_is_inside_the_picture() -> None:
    draw = random.Random(0)
    for _ in range(300):
        size = draw.randrange(60, 900), draw.randrange(30, 900)
        x0, x1 = sorted(draw.random() * size[0] for _ in range(2))
        y0, y1 = sorted(draw.random() * size[1] for _ in range(2))
        for label in _label_areas(_Area(x0, y0, x1, y1), 50, 20, 6, size):
            assert min(label) >= 0 and label.x1 <= size[0] and label.y1 <= size[1]
            assert (label.x1 - label.x0, label.y1 - label.y0) == (50, 20)


def test_labels_of_boxes_on_one_another_do_not_cover_each_other() -> None:
    image = Image.new("RGB", (640, 480), GREY)
    box = Box(0.3, 0.3, 0.6, 0.6)
    alone = [changed(image, annotate(image, [Mark(box, "label", side)])).sum() for side in ("left", "right", "truth")]
    plain = changed(image, annotate(image, [Mark(box)])).sum()
    together = changed(image, annotate(image, [Mark(box, "label", side) for side in ("left", "right", "truth")])).sum()
    assert together == pytest.approx(plain + sum(count - plain for count in alone), rel=0.05)


LABELS = [
    ("the red car", "the red car"),
    ("two\nlines\tand  spaces ", "two lines and spaces"),
    ("a\0b\u202ec\ud800d", "a b c d"),
    ("x" * 100, "x" * (MAX_LABEL - 1) + "…"),
    ("<img onerror=alert(1)>", "<img onerror=alert(1)>"),
    ("日本 שלום é", "日本 שלום é"),
    ("", ""),
]


@pytest.mark.parametrize("text, cleaned", LABELS, ids=[repr(text[:12]) for text, _ in LABELS])
def test_labels_are_one_short_line(text: str, cleaned: str) -> None:
    assert clean_label(text) == cleaned


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (64, 64), (1999, 1500)])
def test_any_box_on_any_picture(size: tuple[int, int]) -> None:
    values = (-0.5, 0.0, 0.004, 0.5, 1.0, 1.5)
    boxes = [Box(*values) for values in itertools.islice(itertools.product(values, repeat=4), 0, None, 37)]
    marks = [Mark(box, "x" * 10**5, side) for box, side in zip(boxes, itertools.cycle(STYLES), strict=False)]
    started = time.thread_time()
    drawn = annotate(Image.new("L", size, 90), marks)
    assert (drawn.size, drawn.mode) == (size, "RGB")
    assert changed(Image.new("RGB", size, GREY), drawn).any() and time.thread_time() - started < 12


def test_an_inverted_box_is_seen_for_what_it_is() -> None:
    image = Image.new("RGB", (400, 320), GREY)
    centre = (200, 160)
    right_way = annotate(image, [Mark(Box(0.25, 0.25, 0.75, 0.75), side="left")])
    inverted = annotate(image, [Mark(Box(0.75, 0.75, 0.25, 0.25), side="left")])
    assert right_way.getpixel(centre) == GREY and inverted.getpixel(centre) != GREY


def test_lines_grow_with_the_picture() -> None:
    widths = [line_width((side, side)) for side in (1, 112, 224, 640, 1600, 4000)]
    assert widths == sorted(widths) and widths[0] == 1 and widths[-1] == 25


def test_marks_of_a_request_and_of_an_answer() -> None:
    one, two = Box(0, 0, 0.5, 0.5), Box(0.5, 0.5, 1, 1)
    assert request_marks(Request("region_description", box=one)) == [Mark(one, "region")]
    assert request_marks(Request("pointing", choices=(one, two))) == [Mark(one, "A"), Mark(two, "B")]
    assert request_marks(Request("multiple_choice", choices=("a", "b"))) == []
    answer = Answer(boxes=(one, two), phrases=("a dog", ""))
    assert answer_marks(answer, "right", "B") == [Mark(one, "B: a dog", "right"), Mark(two, "B", "right")]
    assert answer_marks(Answer(boxes=(one,)), "left") == [Mark(one, "", "left")]
    assert [mark.box for mark in answer_marks(Answer(boxes=(one, two), phrases=("a dog",)), "left")] == [one, two]


def test_a_legend_stands_below_the_picture() -> None:
    image = Image.new("RGB", (300, 200), GREY)
    marks = [Mark(Box(0.2, 0.2, 0.6, 0.6), "A", "left")]
    plain, whole = annotate(image, marks), annotate(image, marks, [("left", "A: IoU 0.82"), ("truth", "é" * 500)])
    assert whole.width == 300 and whole.height > 230
    assert whole.crop((0, 0, 300, 200)).tobytes() == plain.tobytes()
    assert rgb(STYLES["left"].color) in {color for _, color in whole.crop((0, 200, 300, whole.height)).getcolors(9999)}


def test_thumbnails_keep_their_shape_and_never_grow() -> None:
    assert thumbnail(Image.new("RGBA", (400, 200)), 100).size == (100, 50)
    assert thumbnail(Image.new("RGB", (40, 20)), 100).size == (40, 20)
    assert thumbnail(Image.new("P", (4000, 2)), 100).mode == "RGB"


@pytest.mark.parametrize("side", STYLES)
def test_text_on_a_colour_is_readable(side: str) -> None:
    """Contrast of at least 4.5 (WCAG 2.2, success criterion 1.4.3)."""
    weights = np.array([0.2126, 0.7152, 0.0722])
    light, dark = sorted((weights @ linear(color) for color in STYLES[side][:2]), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


# Machado, Oliveira, Fernandes 2009, severity 1.0
COLOUR_BLINDNESS = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", COLOUR_BLINDNESS)
def test_the_sides_are_told_apart(kind: str) -> None:
    seen = {
        side: np.clip(np.array(COLOUR_BLINDNESS[kind]) @ linear(STYLES[side].color), 0, 1) ** (1 / 2.2)
        for side in ("left", "right", "truth")
    }
    for one, other in itertools.combinations(seen, 2):
        assert np.linalg.norm(seen[one] - seen[other]) > 0.4
