"""Gestures on the real page: regions drawn on the picture by mouse, touch and keyboard, and lists by keyboard alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import choose_task, compare, said, settled, upload, visits
from page_world import serving
from ui_fakes import png

from vlcompare.types import Box

pytestmark = pytest.mark.browser

REGION = "#vl-box-text textarea, #vl-box-text input"
BOXES = "#vl-choices textarea"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with serving(tmp_path_factory.mktemp("gestures")) as app:
        yield app


def place(page: Any, width: int, height: int) -> tuple[float, float, float, float]:
    """Where a picture of this size is on the screen: in its element, between bars where their shapes differ."""
    box = page.locator("#vl-picture img").bounding_box()
    scale = min(1.0, box["width"] / width, box["height"] / height)
    shown = scale * width, scale * height
    left, top = box["x"] + (box["width"] - shown[0]) / 2, box["y"] + (box["height"] - shown[1]) / 2
    return left, top, *shown


def drag(page: Any, at: Sequence[float], begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag between two points, in shares of the picture, with the mouse."""
    left, top, width, height = at
    page.mouse.move(left + begin[0] * width, top + begin[1] * height)
    page.mouse.down()
    page.mouse.move(left + end[0] * width, top + end[1] * height, steps=6)
    page.mouse.up()


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d\.\d+", text)]


def region(page: Any, old: str = "") -> list[float]:
    page.wait_for_function(
        "([field, old]) => { const value = document.querySelector(field)?.value; return value && value !== old; }",
        arg=[REGION, old],
    )
    return numbers(page.locator(REGION).first.input_value())


@pytest.mark.parametrize("size", [pytest.param((1600, 300), marks=pytest.mark.slow), (150, 900)])
def test_a_drag_draws_the_region_on_a_picture_of_any_shape(visit: Any, size: tuple[int, int]) -> None:
    page = visit()
    choose_task(page, "Describe a region")
    page.locator("#vl-box-text").wait_for(state="visible")
    before = ""
    upload(page, png((10, 120, 60), size))
    settled(page)
    at = place(page, *size)
    drag(page, at, (0.25, 0.2), (0.75, 0.9))
    assert region(page, before) == pytest.approx([0.25, 0.2, 0.75, 0.9], abs=0.02)
    shown = page.locator("#vl-picture .vl-mark").bounding_box()
    assert [shown["x"], shown["width"]] == pytest.approx([at[0] + 0.25 * at[2], 0.5 * at[2]], abs=4)
    before = page.locator(REGION).first.input_value()
    drag(page, at, (0.9, 0.9), (0.1, 0.4))  # backwards, and over what was drawn
    assert region(page, before) == pytest.approx([0.1, 0.4, 0.9, 0.9], abs=0.02)
    before = page.locator(REGION).first.input_value()
    drag(page, at, (0.5, 0.5), (3.0, 1.6))  # beyond the picture: up to its edge
    assert region(page, before) == pytest.approx([0.5, 0.5, 1.0, 1.0], abs=0.02)
    before = page.locator(REGION).first.input_value()
    assert page.locator("#vl-picture img").count() == 1


def test_two_clicks_and_typing_draw_a_region_as_well(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    upload(page, png((10, 120, 60), (320, 200)))
    choose_task(page, "Describe a region")
    page.locator("#vl-box-text").wait_for(state="visible")
    settled(page)
    left, top, width, height = place(page, 320, 200)
    page.mouse.click(left + 0.75 * width, top + 0.75 * height)
    said(page, "#vl-picture .vl-mark-hint", "opposite corner")
    page.mouse.click(left + 0.25 * width, top + 0.25 * height)
    assert region(page) == pytest.approx([0.25, 0.25, 0.75, 0.75], abs=0.02)
    page.locator(REGION).first.fill("0.5, 0.1, 0.6, 0.3")
    page.wait_for_function(
        "width => Math.abs(document.querySelector('#vl-picture .vl-mark').offsetWidth - width) < 5", arg=0.1 * width
    )
    compare(page)  # of the very file, and of the region as it was typed
    picture, request, _ = app.fake.asked[-1]
    assert picture == png((10, 120, 60), (320, 200)) and request.box == Box(0.5, 0.1, 0.6, 0.3)
    said(page, "#vl-notice", "drawn scenes")  # embedded models, not a picture of theirs
    page.locator("#vl-published-cost").wait_for(state="visible")
    upload(page, b"%PDF-1.7 " + png((10, 120, 60), (320, 200)))  # said before Compare is pressed
    page.locator("#vl-notice [role=alert]").wait_for(state="visible")
    assert page.locator("#vl-published-cost").is_hidden() and page.locator("#vl-published").is_hidden()


def test_a_drag_adds_a_box_to_choose_from(visit: Any) -> None:
    page = visit()
    upload(page, png((10, 120, 60), (320, 200)))
    choose_task(page, "Choose a box")
    page.locator(BOXES).wait_for(state="visible")
    settled(page)
    at = place(page, 320, 200)
    drag(page, at, (0.1, 0.1), (0.4, 0.5))
    drag(page, at, (0.5, 0.5), (0.9, 0.9))
    page.wait_for_function("document.querySelectorAll('#vl-picture .vl-mark').length === 2")
    lines = page.locator(BOXES).input_value().splitlines()
    assert [numbers(line) for line in lines] == [
        pytest.approx([0.1, 0.1, 0.4, 0.5], abs=0.02),
        pytest.approx([0.5, 0.5, 0.9, 0.9], abs=0.02),
    ]
    assert page.locator("#vl-picture .vl-mark span").all_inner_texts() == ["A", "B"]


def test_dragging_never_takes_the_picture_away(visit: Any) -> None:
    page = visit()
    settled(page)
    box = page.locator("#vl-picture img").bounding_box()
    at = (box["x"], box["y"], box["width"], box["height"])
    drag(page, at, (0.3, 0.3), (0.7, 0.7))
    example = page.locator(".vl-example img").last.bounding_box()
    page.mouse.move(example["x"] + 10, example["y"] + 10)
    page.mouse.down()
    page.mouse.move(at[0] + at[2] / 2, at[1] + at[3] / 2, steps=6)
    page.mouse.up()
    settled(page)
    assert page.locator("#vl-picture img").count() == 1
    assert page.locator("#vl-picture .vl-mark").count() == 0  # the task takes no region


def test_a_finger_draws_a_region(app: SimpleNamespace, browser: Any) -> None:
    with visits(browser, app.address) as open_page:
        page = open_page(width=390, height=844, touch=True)
        upload(page, png((10, 120, 60), (320, 200)))
        choose_task(page, "Describe a region")
        page.locator("#vl-box-text").wait_for(state="visible")
        page.locator("#vl-picture img").scroll_into_view_if_needed()
        settled(page)
        left, top, width, height = place(page, 320, 200)
        touch = page.context.new_cdp_session(page)
        for kind, share in (("touchStart", 0.2), ("touchMove", 0.4), ("touchMove", 0.8), ("touchEnd", 0.8)):
            points = [] if kind == "touchEnd" else [{"x": left + share * width, "y": top + share * height}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        assert region(page) == pytest.approx([0.2, 0.2, 0.8, 0.8], abs=0.02)


LISTS = "() => [...document.querySelectorAll('[role=listbox]')].filter((node) => node.checkVisibility()).length"
FOCUSED = "() => document.activeElement.closest('[id^=vl-], [id^=vi-]')?.id ?? document.activeElement.tagName"


def test_a_list_by_keyboard_opens_chooses_closes_and_keeps_the_focus(visit: Any) -> None:
    page = visit()
    settled(page)
    page.locator("#vl-task input").focus()
    assert page.evaluate(LISTS) == 0  # focus alone covers nothing
    page.keyboard.press("ArrowDown")
    page.wait_for_function(f"({LISTS})() === 1")
    page.keyboard.press("Escape")
    page.wait_for_function(f"({LISTS})() === 0 && ({FOCUSED})() === 'vl-task'")
    page.keyboard.press("ArrowDown")
    page.wait_for_function(f"({LISTS})() === 1")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('#vl-task input').value === 'Caption'")
    page.wait_for_function(f"({LISTS})() === 0 && ({FOCUSED})() === 'vl-task'")
    for _ in range(12):  # through the fields after it, lists among them
        page.keyboard.press("Tab")
        assert page.evaluate(LISTS) == 0
    page.keyboard.press("Shift+Tab")
    assert page.evaluate(LISTS) == 0
    assert page.locator("#vl-task input").input_value() == "Caption"


def test_a_list_by_mouse_keeps_the_focus_and_is_gone_after_another_tab(visit: Any) -> None:
    page = visit()
    settled(page)
    choose_task(page, "Chat")
    page.wait_for_function(f"({FOCUSED})() === 'vl-task'")
    page.locator("#vl-task input").click()  # again, with the focus still there
    page.wait_for_function(f"({LISTS})() === 1")
    page.keyboard.press("Tab")
    page.wait_for_function(f"({LISTS})() === 0")
    page.locator("#vl-task input").click()
    page.wait_for_function(f"({LISTS})() === 1")
    page.get_by_role("tab", name="Inspect").click()
    page.wait_for_function("document.querySelectorAll('[role=listbox]').length === 0")
    page.get_by_role("tab", name="Compare").click()
    page.wait_for_function("document.querySelectorAll('[role=listbox]').length === 0")
