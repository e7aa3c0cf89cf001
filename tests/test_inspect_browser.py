"""The inspect tab in headless Chromium: quadrant, table, sample, note, export, open again; keys, phone, dark mode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import choose, said, settled, visits
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
    page.locator("#vi-table .vi-open").first.click()
    said(page, "#vi-sample", rf"1 of {count} in this selection")
    sample_id = page.locator(".vi-facts").inner_text().split(" · ")[0]
    assert page.locator("#vi-sample .vl-stage img").evaluate(WIDTH) == 160
    assert "right" in page.locator(".vi-side[data-side='left'] .vi-verdict").inner_text()
    assert "wrong" in page.locator(".vi-side[data-side='right'] .vi-verdict").inner_text()
    # a note: one error type, a tag of one's own, a text
    page.locator("#vi-types label", has_text="attribute").click()
    said(page, "#vi-note-state", "Kept")
    page.locator("#vi-own-tags").locator("input, textarea").fill("night shift")
    page.keyboard.press("Enter")
    said(page, "#vi-table .vi-current", "night shift")
    with page.expect_response(lambda reply: "/run/" in reply.url):  # leaving the field keeps the note once more
        page.locator("#vi-own-tags").locator("input, textarea").blur()
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
    choose(again, "#vi-tag", "night shift")
    said(again, "#vi-chips", "^1 of 64 samples")
    again.locator("#vi-table .vi-open").first.click()
    again.wait_for_function("document.querySelector('#vi-note-text textarea').value.includes('redder')")
    counted(again, "#vi-types input:checked", 1)
    # and so it is in the archive, for whoever uploads it
    path = app.root / "taken.zip"
    path.write_bytes(archive)
    again.locator("input[type=file][accept*='zip']").set_input_files(str(path))
    said(again, "#vi-head", r"taken \(uploaded\)")
    said(again, "#vi-table", "night shift")


def test_keys_walk_mark_and_search(visit: Any) -> None:
    page = visit()
    page.locator("#vi-table .vi-open").first.click()
    said(page, "#vi-sample", "1 of 64")
    for key, place in (("ArrowRight", 2), ("j", 3), ("k", 2), ("ArrowLeft", 1)):
        page.keyboard.press(key)
        said(page, "#vi-sample", rf"(^|\n){place} of 64")
    page.keyboard.press("ArrowRight")
    said(page, "#vi-sample", "2 of 64")
    page.keyboard.press("5")
    said(page, "#vi-table .vi-current", "counting")
    page.keyboard.press("/")
    page.keyboard.type("blue 5j")  # letters in a field are letters
    assert page.locator("#vi-text textarea, #vi-text input").first.input_value() == "blue 5j"
    said(page, "#vi-table", "No sample fits")
    said(page, "#vi-chips", "blue 5j")  # the last letter has been taken, not only the ones before
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.tagName") == "BODY"
    page.locator("#vi-chips .vi-chip").first.click()  # the chip empties the field it stands for
    page.wait_for_function("document.querySelector('#vi-text textarea, #vi-text input').value === ''")
    said(page, "#vi-chips", "All 64")


def test_charts_slices_and_headings_filter_and_sort(visit: Any) -> None:
    page = visit()
    page.locator("#vi-slices .vi-link", has_text="grounding").click()
    said(page, "#vi-chips", r"^32 of 64 samples[\s\S]*task: grounding")
    bar = page.locator("#vi-charts [data-pick^='bin:right']").last
    bar.click()
    said(page, "#vi-chips", "right iou")
    page.locator("#vi-chips .vi-all").click()
    said(page, "#vi-chips", "All 64")
    page.locator("[data-pick='sort:difference']").click()
    said(page, "#vi-table thead", "▼")
    first = page.locator("#vi-table tbody tr").first.locator("td.vi-wide").first.inner_text()
    assert float(first) > 0
    page.locator("#vi-charts circle.vi-point").first.click()
    page.wait_for_selector("#vi-sample .vi-sample")
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
    choose(page, "#vi-right", "second: tiny-mamba-vl-two")
    said(page, "#vi-head", "painted against second")
    page.locator("#vi-table .vi-open").first.click()
    page.wait_for_selector("#vi-sample .vi-sample")
    asked = page.locator("#vi-sample .vi-text").inner_text()
    page.locator("#vi-ask").click()
    page.wait_for_selector("#vl-run")
    page.wait_for_function("(t) => document.querySelector('#vl-text textarea')?.value === t", arg=asked)
    page.wait_for_selector("#vl-picture img")
    page.wait_for_function("document.querySelector('#vl-right-settings')?.innerText.includes('two')")
    assert page.locator("#vl-text textarea").input_value() == asked


def test_text_of_models_runs_nothing_and_phone_and_dark_fit(visit: Any) -> None:
    page = visit(width=390, height=844)
    page.locator("#vi-table .vi-open").first.click()
    page.wait_for_selector("#vi-sample .vi-sample")
    assert "<b>square</b>" in page.locator("#vi-sample .vi-text").inner_text()
    page.locator("#vi-text textarea, #vi-text input").first.fill("onerror")
    said(page, "#vi-chips", r"^\d+ of 64")
    said(page, "#vi-table", "<img src=x")
    settled(page)
    assert page.evaluate("document.querySelectorAll('#vi-table img').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    dark = visit("?__theme=dark", scheme="dark")
    light = "el => Math.max(...getComputedStyle(el).{}.match(/\\d+/g).slice(0, 3).map(Number))"
    settled(dark)  # colours, too, are on their way at first
    panel = dark.locator(".vi-list").first
    assert panel.evaluate(light.format("backgroundColor")) < 80
    assert dark.locator("#vi-table .vi-open").first.evaluate(light.format("color")) > 180
