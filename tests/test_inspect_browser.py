"""The inspect tab in headless Chromium: quadrant, table, sample, note, export, open again; keys, phone, dark mode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import belongs, choose, replied, said, settled, visits
from inspect_world import write_run, write_samples
from ui_fakes import FakeCompare

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The page on a free port with two runs open to it, the first of them given on the command line."""
    from vlcompare.runtime.image import open_image
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    root = tmp_path_factory.mktemp("inspect")
    data = write_samples(root / "data", 16)
    run = write_run(root / "runs" / "painted", data)
    write_run(root / "runs" / "second", data, sides={"left": "tiny-mamba-vl-two"})
    settings = AppSettings(data=root / "data-folder", allow_path=root / "runs")
    page = build_page(settings, Handlers(settings, FakeCompare(), None, open_image), runs=[run])
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    yield SimpleNamespace(address=address, run=run, root=root)
    page.close()


@pytest.fixture
def visit(app: SimpleNamespace, browser: Any) -> Iterator[Any]:
    """Opens the page and waits for the table; complains about script errors at the end."""

    def filled(page: Any, query: str) -> None:
        page.wait_for_selector("#vi-table .vi-rows")

    with visits(browser, app.address, filled) as open_page:
        yield open_page


WIDTH = "async (img) => { await img.decode(); return img.naturalWidth; }"  # 0 until it is loaded


def counted(page: Any, selector: str, count: int) -> None:
    """Wait until there are as many of them."""
    page.wait_for_function("([s, n]) => document.querySelectorAll(s).length === n", arg=[selector, count])


def in_view(page: Any) -> None:
    """Wait until the open sample's row is in sight."""
    page.wait_for_function("""() => {
      const row = document.querySelector('#vi-table .vi-current')?.getBoundingClientRect();
      return row?.height && row.top >= 0 && row.top < innerHeight;
    }""")


def unfold(page: Any, accordion: str) -> None:
    page.locator(f"{accordion} > button").click()


def export(page: Any, kind: str) -> bytes:
    with page.expect_download() as download:
        page.locator(f"#vi-export-{kind}").click()
    return Path(download.value.path()).read_bytes()


def test_quadrant_table_sample_note_export_and_open_again(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    only_left = page.locator("[data-quadrant='only_left']")
    count = int(only_left.locator("b").inner_text())
    only_left.click()
    said(page, "#vi-chips", rf"^{count} of 64 samples")
    page.wait_for_selector("[data-quadrant='only_left'][aria-pressed='true']")
    counted(page, "#vi-table tbody tr", count)
    said(page, "#vi-slices", r"How much of each slice is “Only left”[\s\S]*\[\.\d+, \.\d+\]")
    page.locator("#vi-table .vi-open").first.click()
    replied(page)
    said(page, "#vi-picture", rf"1 of {count} in this selection")
    sample_id = page.locator(".vi-facts").inner_text().split(" · ")[0]
    assert page.locator("#vi-picture .vl-stage img").evaluate(WIDTH) == 160
    assert "right" in page.locator(".vi-side[data-side='left'] .vi-verdict").inner_text()
    assert "wrong" in page.locator(".vi-side[data-side='right'] .vi-verdict").inner_text()
    # a note: one error type, a tag of one's own, a text
    page.locator("#vi-types label", has_text="attribute").click()
    said(page, "#vi-note-state", "Kept")
    page.locator("#vi-own-tags").locator("input, textarea").fill("night shift")
    page.keyboard.press("Enter")
    said(page, "#vi-table .vi-current", "night shift")
    page.locator("#vi-own-tags").locator("input, textarea").blur()  # leaving the field keeps the note once more
    replied(page)
    page.locator("#vi-note-text textarea").fill("the <b>square</b> is redder")
    page.locator("#vi-note-text textarea").blur()
    said(page, "#vi-table .vi-current", r"note")
    # the export holds the selection and the note
    found = json.loads(export(page, "json"))
    assert len(found["samples"]) == count
    (noted,) = [sample for sample in found["samples"] if sample["id"] == sample_id]
    assert set(noted["note"]["tags"]) == {"attribute", "night shift"}
    assert noted["note"]["text"] == "the <b>square</b> is redder"
    assert export(page, "report").startswith(b"<!doctype html>")
    archive = export(page, "archive")
    # opened again: the note is there, and is found by its tag
    again = visit()
    unfold(again, "#vi-more-filters")
    choose(again, "#vi-tag", "night shift")
    said(again, "#vi-chips", "^1 of 64 samples")
    again.locator("#vi-table .vi-open").first.click()
    again.wait_for_function("document.querySelector('#vi-note-text textarea').value.includes('redder')")
    counted(again, "#vi-types input:checked", 1)
    # and so it is in the archive, for whoever uploads it
    path = app.root / "taken.zip"
    path.write_bytes(archive)
    again.locator("input[type=file][accept*='zip']").set_input_files(str(path))
    said(again, "#vi-offer", r"taken \(uploaded\) is open")
    again.locator("[data-pick^='put:show']").click()
    said(again, "#vi-head", r"taken \(uploaded\)")
    counted(again, ".vi-offer", 0)
    said(again, "#vi-table", "night shift")


def test_keys_walk_mark_and_search(visit: Any) -> None:
    page = visit()
    page.locator("#vi-table .vi-open").first.click()
    said(page, "#vi-picture", "1 of 64")
    for key, place in (("ArrowRight", 2), ("j", 3), ("k", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        said(page, "#vi-picture", rf"(^|\n){place} of 64")
    page.keyboard.press("ArrowRight")
    said(page, "#vi-picture", "2 of 64")
    # a list that is drawn anew keeps its small pictures
    page.wait_for_function("document.querySelector('#vi-table .vi-current img[src]')?.naturalWidth === 160")
    page.keyboard.press("5")
    said(page, "#vi-table .vi-current", "counting")
    # keys that come before a reply mean what the keys before them open
    pressed = page.evaluate("""() => {
      for (const key of ['j', '7', 'j', '6', '9', 'n', 'a', 'ArrowLeft', ' ', '2', 'j'])
        document.body.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
      return document.querySelector('#vi-note').inert;
    }""")
    assert pressed, "nothing is written while another sample is being opened"
    said(page, "#vi-picture", "4 of 64")
    page.wait_for_function("document.querySelector('#vi-note-text textarea').value === 'a 2j'")
    page.keyboard.press("Escape")
    said(page, "#vi-table .vi-current", r"reading\s*label wrong\s*note")
    rows = page.locator("#vi-table tbody tr")
    assert "format" in rows.nth(2).inner_text() and page.locator("#vi-table tr", has_text="format").count() == 1
    assert not page.evaluate("document.querySelector('#vi-note').inert")
    page.keyboard.press("k")
    said(page, "#vi-picture", "3 of 64")
    page.wait_for_function("document.querySelector('#vi-note-text textarea').value === ''")
    counted(page, "#vi-types input:checked", 1)
    # opening the open one again leaves what is being written
    page.locator("#vi-note-text textarea").fill("not yet kept")
    page.evaluate("document.querySelector('#vi-table .vi-current .vi-open').click()")
    page.wait_for_function("!document.querySelector('#vi-note').inert")
    replied(page)
    assert page.locator("#vi-note-text textarea").input_value() == "not yet kept"
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("blue 5j")  # letters in a field are letters
    assert page.locator("#vi-text textarea, #vi-text input").first.input_value() == "blue 5j"
    said(page, "#vi-table", "No sample fits")
    said(page, "#vi-chips", "blue 5j")  # the last letter has been taken, not only the ones before
    page.keyboard.press("Escape")
    page.wait_for_function("document.activeElement === document.body")
    page.locator("#vi-chips .vi-chip").first.click()  # the chip empties the field it stands for
    page.wait_for_function("document.querySelector('#vi-text textarea, #vi-text input').value === ''")
    said(page, "#vi-chips", "All 64")


def test_charts_slices_and_headings_filter_and_sort(visit: Any) -> None:
    page = visit()
    page.locator("#vi-slices .vi-link", has_text="Locate").click()
    said(page, "#vi-chips", r"^32 of 64 samples[\s\S]*Task: Locate")
    page.locator("#vi-table .vi-open").first.click()
    page.wait_for_selector("#vi-picture .vl-side-box")
    replied(page)
    settled(page)
    page.locator(".vi-side[data-side='left'] .vl-chip").first.hover()  # what it names, on this tab's picture
    page.wait_for_selector("#vi-picture .vl-side-box.vl-lit[data-side='left']")
    assert page.locator("#vi-picture .vl-lit[data-side='right']").count() == 0
    page.mouse.move(0, 0)
    page.wait_for_selector("#vi-picture .vl-lit", state="detached")
    unfold(page, "#vi-more-charts")
    bar = page.locator("#vi-charts [data-pick^='bin:right']").last
    bar.click()
    said(page, "#vi-chips", "right IoU")
    page.locator("#vi-chips .vi-all").click()
    said(page, "#vi-chips", "All 64")
    page.locator("[data-pick='sort:difference']").click()
    said(page, "#vi-table thead", "▼")
    first = page.locator("#vi-table tbody tr").first.locator("td.vi-wide").first.inner_text()
    assert float(first) > 0
    page.locator("#vi-charts circle.vi-point").first.click()
    page.wait_for_selector("#vi-sample .vi-sample")
    unfold(page, "#vi-more-filters")
    page.locator("#vi-regex input").check()
    page.locator("#vi-text textarea, #vi-text input").first.fill("a{9999}")
    said(page, "#vi-message", "repeat something")
    said(page, "#vi-chips", "All 64")
    page.locator("#vi-text textarea, #vi-text input").first.fill("square 1[0-3]$")
    said(page, "#vi-chips", "^4 of 64")


def test_two_runs_side_by_side_and_ask_again(visit: Any) -> None:
    page = visit()
    page.locator("#vi-runs input").click()
    page.locator("#vi-runs").get_by_role("option", name="second", exact=True).click()
    counted(page, "#vi-runs .token", 2)
    page.keyboard.press("Escape")
    # the answer with both runs is there: it names the sides after their runs
    page.wait_for_function("document.querySelector('#vi-left input').value.startsWith('painted')")
    said(page, "#vi-offer", "second is open")
    page.locator("[data-pick^='put:right:second']").click()
    page.wait_for_function("document.querySelector('#vi-right input').value.startsWith('second')")
    said(page, "#vi-head", "painted against second")
    page.locator("#vi-table .vi-open").first.click()
    page.wait_for_selector("#vi-sample .vi-sample")
    asked = page.locator("#vi-sample .vi-text").inner_text()
    page.locator("#vi-ask").click()
    page.wait_for_selector("#vl-run")
    page.wait_for_function("(t) => document.querySelector('#vl-text textarea')?.value === t", arg=asked)
    page.wait_for_selector("#vl-picture img")
    page.wait_for_function("document.querySelector('#vl-right-settings')?.innerText.includes('two')")


def test_a_sample_goes_to_compare_with_its_answers_and_back(visit: Any) -> None:
    page = visit(width=1280, height=720)
    page.locator("#vi-slices .vi-link", has_text="Question").click()
    said(page, "#vi-chips", "^16 of 64")
    page.locator("#vi-table .vi-open").nth(2).click()
    said(page, "#vi-picture", "3 of 16")
    stored = page.locator(".vi-side[data-side='left'] .vi-answer").inner_text()
    sample = page.locator(".vi-facts").inner_text().split(" · ")[0]
    page.locator("#vi-ask").click()
    said(page, "#vl-asked", f"Stored answers to {sample} of painted")
    page.wait_for_selector("#vl-left-card", state="visible")
    said(page, "#vl-left-card", stored)
    replied(page)
    belongs(page)  # to what is set
    page.wait_for_function("scrollY < 50")
    settled(page)
    assert page.locator("#vl-left-card").bounding_box()["y"] < 720
    page.locator("#vl-run").click()
    said(page, "#vl-asked", f"{sample} of painted, asked again: left (agrees with|differs from) what is stored")
    page.locator("#vl-asked [data-pick='sample']").click()
    page.wait_for_selector("#vi-sample", state="visible")
    said(page, "#vi-picture", "3 of 16")
    in_view(page)


def test_text_of_models_runs_nothing_and_phone_and_dark_fit(visit: Any) -> None:
    page = visit(width=390, height=844)
    page.locator("#vi-table .vi-open").first.click()
    page.wait_for_selector("#vi-sample .vi-sample")
    assert "<b>square</b>" in page.locator("#vi-sample .vi-text").inner_text()
    page.locator("#vi-back").click()
    page.locator(".vi-detail").wait_for(state="hidden")
    page.locator("#vi-text textarea, #vi-text input").first.fill("onerror")
    said(page, "#vi-chips", r"^\d+ of 64")
    said(page, "#vi-table", "<img src=x")
    settled(page)
    assert page.evaluate("document.querySelectorAll('#vi-table img:not([data-thumb])').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    dark = visit("?__theme=dark", scheme="dark")
    light = "el => Math.max(...getComputedStyle(el).{}.match(/\\d+/g).slice(0, 3).map(Number))"
    settled(dark)  # colours, too, are on their way at first
    panel = dark.locator(".vi-list").first
    assert panel.evaluate(light.format("backgroundColor")) < 80
    assert dark.locator("#vi-table .vi-open").first.evaluate(light.format("color")) > 180


# ---- the page as it loads, and as it is read -------------------------------------------------------------------------

SHIFTED = """() => new Promise((done) => {
  new PerformanceObserver((list) => {
    const shifts = list.getEntries().filter((entry) => !entry.hadRecentInput);
    done(shifts.reduce((sum, entry) => sum + entry.value, 0));
  }).observe({type: 'layout-shift', buffered: true});
  setTimeout(() => done(0), 500);
})"""
# words of head cells that stand on more than one line, which only a break within the word can do
BROKEN = """() => [...document.querySelectorAll('.vi-page th')].flatMap((cell) => {
  if (!cell.checkVisibility()) return [];
  const found = [], walk = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode())
    for (const word of node.data.matchAll(/\\S+/g)) {
      const range = document.createRange();
      range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
      if (new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size > 1) found.push(word[0]);
    }
  return found;
})"""


@pytest.mark.parametrize(("width", "height"), [pytest.param(1280, 720, marks=pytest.mark.slow), (390, 844)])
def test_nothing_moves_covers_or_breaks_while_it_loads(visit: Any, width: int, height: int) -> None:
    page = visit(width=width, height=height, fresh=True)
    assert page.locator(".vi-page .progress-text:visible, .vi-page .meta-text:visible").count() == 0
    settled(page)
    assert page.evaluate(SHIFTED) < 0.05
    assert page.evaluate(BROKEN) == []
    page.locator("[data-quadrant='only_left']").click()
    page.wait_for_selector("[data-shares]")
    assert page.evaluate(BROKEN) == []


def test_small_pictures_come_with_their_boxes_as_they_are_scrolled_to(visit: Any) -> None:
    page = visit(width=1280, height=720)
    assert page.locator("#vi-table img[data-thumb]").count() == 50
    assert page.locator("#vi-table img[src]").count() < 50  # those far below wait
    page.locator("#vi-table .vi-rows tr").last.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#vi-table tbody tr:last-child img[src]')?.naturalWidth === 160")
    page.locator("[data-pick='view:gallery']").click()
    page.wait_for_selector(".vi-gallery .vi-card img[src]")
    page.locator(".vi-card").first.locator(".vl-box").first.wait_for()
    inside = """() => {
      const card = document.querySelector('.vi-card'), picture = card.querySelector('img').getBoundingClientRect();
      const boxes = [...card.querySelectorAll('.vl-box')].map((box) => box.getBoundingClientRect());
      return boxes.length === 3 && boxes.every((box) =>
        box.left >= picture.left - 3 && box.right <= picture.right + 3 &&
        box.top >= picture.top - 3 && box.bottom <= picture.bottom + 3);
    }"""
    page.wait_for_function(inside)
    page.locator(".vi-card").nth(1).click()
    said(page, "#vi-picture", "2 of 64")
    counted(page, ".vi-card.vi-current", 1)


def test_the_picture_stays_in_its_place_beside_the_list(visit: Any) -> None:
    page = visit(width=1280, height=720)
    page.locator("#vi-table .vi-open").first.click()  # it is open already: only the reply tells that it was clicked
    replied(page)
    settled(page)
    place = (
        "[...document.querySelectorAll('.vi-stage, #vi-next')].map((n) => Math.round(n.getBoundingClientRect().top))"
    )
    before = page.evaluate(place)
    listed, detail = (page.locator(part).bounding_box() for part in (".vi-list", ".vi-detail"))
    assert listed["x"] + listed["width"] <= detail["x"] and detail["y"] >= 0 and detail["y"] + detail["height"] <= 721
    page.evaluate("document.querySelector('.vi-rest').scrollTop = 200")
    for number in range(2, 6):
        page.keyboard.press("j")
        said(page, "#vi-picture", f"(^|\\n){number} of 64")
        settled(page)
        assert page.evaluate(place) == before
        in_view(page)


def test_the_first_sample_is_open_where_it_stands_beside_the_list(visit: Any) -> None:
    page = visit(width=1280, height=720)
    said(page, "#vi-picture", "1 of 64 in this selection")
    counted(page, "#vi-table .vi-current", 1)
    assert page.locator("#vi-table tbody tr").first.get_attribute("class") == "vi-current"
    assert page.evaluate("[document.activeElement === document.body, scrollY]") == [True, 0]
    words = page.locator("#vi-text textarea, #vi-text input").first
    words.fill("What color")
    said(page, "#vi-picture", "1 of 16 in this selection")
    said(page, "#vi-sample", "What color is the square 0")
    words.fill("")
    said(page, "#vi-picture", "1 of 64 in this selection")
    beside = (
        "(name) => [...new Set([...document.querySelectorAll(name)].map((one) => one.getBoundingClientRect().height))]"
    )
    assert len(page.evaluate(beside, ".vi-quadrant")) == 1, "all four are alike"
    page.locator("#vi-table .vi-open").nth(2).click()
    said(page, "#vi-picture", "3 of 64")
    chosen = page.locator(".vi-facts").inner_text()
    page.locator("#vi-text textarea, #vi-text input").first.fill("blue")
    said(page, "#vi-picture", "Not in this selection")
    assert page.locator(".vi-facts").inner_text() == chosen
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(".vi-detail").wait_for(state="hidden")  # no sheet that nobody asked for

    narrow = visit(width=390, height=844)
    settled(narrow)
    assert narrow.locator("#vi-table .vi-current, #vi-sample .vi-sample, .vi-detail.vi-sheet").count() == 0


def test_on_a_phone_the_sample_is_a_sheet_with_a_way_back(visit: Any) -> None:
    page = visit(width=390, height=844)
    row = page.locator("#vi-table .vi-open").nth(7)
    row.click()
    page.locator(".vi-detail.vi-sheet").wait_for()
    settled(page)
    sheet = page.locator(".vi-detail").bounding_box()
    assert (sheet["x"], sheet["y"], sheet["width"]) == (0, 0, 390) and 840 <= sheet["height"] <= 844
    said(page, "#vi-picture", "8 of 64")
    assert page.evaluate("document.activeElement.closest('#vi-back') !== null")
    assert page.evaluate("document.querySelector('.vi-list').inert")
    page.locator("#vi-next").click()
    said(page, "#vi-picture", "9 of 64")
    page.locator("#vi-back").click()
    page.locator(".vi-detail").wait_for(state="hidden")
    in_view(page)
    assert not page.evaluate("document.querySelector('.vi-list').inert")
    page.locator("#vi-table .vi-open").nth(3).click()
    page.locator(".vi-detail.vi-sheet").wait_for()
    page.go_back()  # the browser's own way back
    page.locator(".vi-detail").wait_for(state="hidden")
    assert page.locator("#vi-table .vi-rows").is_visible()
    page.locator("#vi-table .vi-open").nth(3).click()
    page.locator(".vi-detail.vi-sheet").wait_for()
    page.keyboard.press("Escape")
    page.locator(".vi-detail").wait_for(state="hidden")


def test_the_largest_differences_filter_by_a_click(visit: Any) -> None:
    page = visit(width=1280, height=720)
    said(page, "#vi-headline", r"^Tiny Pythia-VL \.\d{3} against Tiny Mamba-VL \.\d{3} on 64 samples: [+−]\.\d{3} \[")
    first = page.locator("#vi-differences .vi-link").first
    count = int(page.locator("#vi-differences tbody tr:not(.vi-group)").first.locator("td").first.inner_text())
    first.click()
    said(page, "#vi-chips", rf"^{count} of 64 samples")
    page.wait_for_selector("#vi-differences .vi-link[aria-pressed='true']")
    said(page, "#vi-headline", rf" on {count} (\w+ )?samples")
    page.locator("#vi-differences .vi-link[aria-pressed='true']").click()
    said(page, "#vi-chips", "All 64")
