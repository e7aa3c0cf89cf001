"""The real page in headless Chromium, with a fake comparison behind it: what a visitor does, and what it looks like."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ui_fakes import FakeCompare, png, until, write_examples

pytestmark = pytest.mark.browser
WAIT = int(os.environ.get("VLCOMPARE_TEST_WAIT_MS", 60_000))  # a busy machine is slow to paint


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The page on a free port, with examples, fakes and a data folder of its own."""
    from vlcompare.runtime.image import open_image
    from vlcompare.ui import examples
    from vlcompare.ui.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    folder = tmp_path_factory.mktemp("app")
    before, examples.FOLDER = examples.FOLDER, write_examples(folder / "examples")
    settings = AppSettings(data=folder / "data")
    fake = FakeCompare(gap=0.03)
    page = build_page(settings, Handlers(settings, fake, None, open_image))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    yield SimpleNamespace(address=address, fake=fake, settings=settings, folder=folder)
    page.close()
    examples.FOLDER = before


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def visit(app: SimpleNamespace, browser: Any) -> Iterator[Any]:
    """Opens the page and waits until it is filled; complains about script errors at the end."""
    errors: list[str] = []
    contexts = []

    def open_page(query: str = "?", width: int = 1440, height: int = 900, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(WAIT)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(app.address + query, wait_until="domcontentloaded")
        page.wait_for_selector(".vl-example[aria-pressed='true']" if "text=" not in query else ".vl-example")
        page.wait_for_function("document.querySelector('#vl-link input, #vl-link textarea')?.value.startsWith('http')")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors, errors


def compare(page: Any) -> None:
    page.locator("#vl-run").click()
    done(page)


def done(page: Any) -> None:
    """Both sides have answered, and the run is in the history."""
    for side in ("left", "right"):
        page.wait_for_selector(f"#vl-{side}-card .vl-status:is(.vl-done, .vl-failed)")
    page.wait_for_selector(".vl-history-item[aria-pressed='true']")


def text(page: Any, selector: str) -> str:
    return page.locator(selector).first.inner_text()


def choose_task(page: Any, title: str) -> None:
    page.locator("#vl-task input").click()
    page.get_by_role("option", name=title, exact=True).click()


def test_a_comparison_streams_and_shows_boxes_figures_and_truth(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    page.locator("#vl-run").click()
    page.wait_for_selector("#vl-left-card .vl-caret")  # it streams: the answer grows while it is not done
    done(page)
    assert "[0.10,0.20,0.55,0.70]" in text(page, "#vl-left-card .vl-answer").replace(" ", "")
    assert "Transformer" in text(page, "#vl-left-card") and "State-space" in text(page, "#vl-right-card")
    assert page.locator("#vl-left-picture .vl-answer-box").count() == 1
    assert page.locator("#vl-together .vl-truth").count() == 1
    assert "0.89" in text(page, "#vl-together table") and "right at 0.5" in text(page, "#vl-together table")
    assert page.locator("#vl-charts svg polyline").count() >= 3  # two latencies, and the formulas of memory
    assert "7.0 ms" in text(page, "#vl-figures")
    page.locator("#vl-left-tokens .vl-token").nth(1).click()
    assert "id 1" in text(page, "#vl-left-tokens .vl-inspect") and "20.0 %" in text(page, "#vl-left-tokens .vl-inspect")
    assert page.locator("#vl-left-picture .vl-alt.vl-on").count() == 0  # 0.80 > x1: no box, so nothing is drawn
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "token 4" in text(page, "#vl-left-tokens .vl-inspect")


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ("caption", "a red square"),
        ("word", "What color is the disc?"),
        ("region", "a red square and"),
        ("letters", "A"),
    ],
)
def test_examples_of_each_kind(visit: Any, example: str, expected: str) -> None:
    page = visit()
    page.locator(f".vl-example[data-pick='{example}']").click()
    page.wait_for_selector(f".vl-example[data-pick='{example}'][aria-pressed='true']")
    compare(page)
    assert expected in text(page, "#vl-left-card .vl-answer")
    if example == "caption":
        phrase = page.locator("#vl-left-card .vl-phrase").first
        assert phrase.get_attribute("data-colour") == page.locator(
            "#vl-left-picture .vl-answer-box"
        ).first.get_attribute("data-colour")
        phrase.hover()
        page.wait_for_selector("#vl-left-picture .vl-answer-box.vl-lit[data-box='0']")


@pytest.mark.parametrize(
    ("title", "shown", "hidden"),
    [
        ("Caption", [], ["#vl-text", "#vl-choices", "#vl-box-text"]),
        ("Describe a region", ["#vl-box-text"], ["#vl-text"]),
        ("Multiple choice", ["#vl-text", "#vl-choices", "#vl-ocr"], ["#vl-box-text"]),
        ("Chat", ["#vl-text"], ["#vl-choices"]),
    ],
)
def test_each_task_shows_its_own_fields(visit: Any, title: str, shown: list[str], hidden: list[str]) -> None:
    page = visit()
    choose_task(page, title)
    for selector in shown:
        page.locator(selector).wait_for(state="visible")
    for selector in hidden:
        page.locator(selector).wait_for(state="hidden")


def test_upload_and_mark_a_region_with_two_clicks(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    page.locator("#vl-picture button[aria-label='Clear'], #vl-picture button[aria-label='Remove Image']").first.click()
    page.locator("#vl-picture input[type=file]").set_input_files(
        {"name": "mine.png", "mimeType": "image/png", "buffer": png((10, 120, 60), (320, 200))}
    )
    page.wait_for_selector("#vl-picture img")
    choose_task(page, "Describe a region")
    page.locator("#vl-box-text").wait_for(state="visible")
    box = page.locator("#vl-picture img").bounding_box()
    page.mouse.click(box["x"] + 0.25 * box["width"], box["y"] + 0.25 * box["height"])
    page.wait_for_function("document.querySelector('#vl-message').innerText.includes('First corner')")
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.75 * box["height"])
    page.wait_for_function("document.querySelector('#vl-box-text textarea, #vl-box-text input').value.length > 8")
    value = page.locator("#vl-box-text textarea, #vl-box-text input").first.input_value()
    assert [round(float(v), 1) for v in value.split(",")] == pytest.approx([0.3, 0.3, 0.7, 0.7], abs=0.11)
    compare(page)
    assert app.fake.asked[-1][0] == png((10, 120, 60), (320, 200))
    assert "rendered scenes" in text(page, "#vl-message")  # embedded models, not a picture of theirs


def test_stop_in_the_middle_and_the_next_run_works(app: SimpleNamespace, visit: Any) -> None:
    page = visit("?left=slow/one&task=chat&text=" + "+".join(["word"] * 300))
    page.locator(".vl-example").first.wait_for()
    upload(page)
    page.locator("#vl-run").click()
    page.wait_for_function("document.querySelector('#vl-left-card .vl-answer').innerText.length > 20")
    page.locator("#vl-stop").click()
    page.wait_for_selector("#vl-left-card .vl-done")
    assert "Stopped" in text(page, "#vl-left-card")
    assert until(lambda: app.fake.running == 0)
    page.locator("#vl-text textarea").fill("short")
    page.locator("#vl-run").click()
    page.wait_for_function("document.querySelector('#vl-right-card .vl-answer').innerText.includes('short said')")
    done(page)
    assert "Ended by itself" in text(page, "#vl-right-card")


def upload(page: Any) -> None:
    page.locator("#vl-picture input[type=file]").first.set_input_files(
        {"name": "mine.png", "mimeType": "image/png", "buffer": png()}
    )
    page.wait_for_selector("#vl-picture img")


def test_swap_and_a_failure_on_one_side(visit: Any) -> None:
    page = visit("?left=broken/one&right=tiny-mamba-vl")
    page.get_by_role("button", name="Swap sides").click()
    page.wait_for_function("document.querySelector('#vl-right-checkpoint input').value.includes('broken')")
    compare(page)
    assert "cut off" in text(page, "#vl-right-card [role=alert]")
    assert "[0.10" in text(page, "#vl-left-card .vl-answer")


def test_export_import_and_restore(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    compare(page)
    with page.expect_download() as waiting:
        page.locator("#vl-save").click()
    file = Path(app.folder / "run.json")
    waiting.value.save_as(file)
    found = json.loads(file.read_text())
    assert found["kind"] == "vlcompare-run" and set(found["sides"]) == {"left", "right"}
    page.locator(".vl-example[data-pick='word']").click()
    page.wait_for_selector(".vl-example[data-pick='word'][aria-pressed='true']")
    page.locator("#vl-run").click()
    page.wait_for_function("document.querySelectorAll('.vl-history-item').length == 2")
    page.locator(".vl-history-item").nth(1).click()
    page.wait_for_function("document.querySelector('#vl-left-card').innerText.includes('0.10')")
    page.wait_for_function("document.querySelector('#vl-text textarea').value == 'the large red square'")
    fresh = visit()
    fresh.locator("#vl-load input[type=file], input[type=file][accept*='json']").first.set_input_files(str(file))
    fresh.wait_for_function("document.querySelector('#vl-message').innerText.includes('Imported')")
    assert "[0.10" in text(fresh, "#vl-left-card .vl-answer")
    damaged = file.with_name("damaged.json")
    damaged.write_text(file.read_text()[:500])
    fresh.locator("#vl-load input[type=file], input[type=file][accept*='json']").first.set_input_files(str(damaged))
    fresh.wait_for_function("document.querySelector('#vl-message').innerText.includes('not JSON')")


def test_text_of_a_visitor_stays_text(visit: Any) -> None:
    page = visit()
    page.evaluate("window.attacked = 0")
    evil = '<img src=x onerror="window.attacked=1"> ${window.attacked=2} {{value}} <|endoftext|> ###'
    choose_task(page, "Chat")
    page.locator("#vl-text textarea").fill(evil)
    compare(page)
    page.locator("text=The exact prompts").click()
    page.wait_for_selector("#vl-prompts .vl-turns code")
    assert evil in text(page, "#vl-left-card .vl-answer")
    assert "<|endoftext|>" in text(page, "#vl-prompts")
    assert page.evaluate("window.attacked") == 0
    assert page.locator("#vl-left-card img, .vl-history-item b img").count() == 0


def test_vote_blind_and_consent(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    page.locator("#vl-blind input").check()
    compare(page)
    assert "Model A" in text(page, "#vl-left-card") and "Pythia" not in text(page, "#vl-left-card")
    page.locator("#vl-vote-left").click()
    page.wait_for_function("document.querySelector('#vl-vote-message').innerText.includes('agree')")
    page.locator("#vl-consent input").check()
    page.locator("#vl-vote-left").click()
    page.wait_for_function("document.querySelector('#vl-vote-message').innerText.includes('Stored')")
    page.wait_for_function("!document.querySelector('#vl-left-card').innerText.includes('Model A')")
    assert (app.settings.data / "votes.sqlite").exists()


@pytest.mark.parametrize(
    ("width", "scheme"), [(1440, "light"), (1440, "dark"), (1024, "light"), (390, "light"), (390, "dark")]
)
def test_nothing_scrolls_sideways_or_overlaps(visit: Any, width: int, scheme: str) -> None:
    page = visit("?__theme=dark" if scheme == "dark" else "?", width=width, scheme=scheme)
    compare(page)
    wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0
    overlaps = page.evaluate(OVERLAPS)
    assert overlaps == [], overlaps
    assert page.evaluate(CONTRAST) == []


@pytest.mark.slow  # it has to catch the caret of a stream that may be over sooner than the browser looks
def test_nothing_jumps_while_streaming(visit: Any) -> None:
    page = visit()
    tops = "['#vl-left-picture', '#vl-together'].map((s) => $(s).getBoundingClientRect().top + scrollY)"
    tops = tops.replace("$(", "document.querySelector(")
    page.locator("#vl-run").click()
    page.wait_for_selector("#vl-left-card .vl-caret")
    before = page.evaluate(tops)
    page.wait_for_selector("#vl-right-card .vl-caret")
    assert page.evaluate(tops)[0] == pytest.approx(before[0], abs=2)
    done(page)


OVERLAPS = """() => {
  const names = '.vl-panel, .vl-side, .vl-more, .vl-swap button, .vl-live > div';
  const found = [], all = [...document.querySelectorAll(names)];
  const boxes = all.map((node) => [node, node.getBoundingClientRect()]).filter(([, r]) => r.width && r.height);
  const across = (r, s) => Math.min(r.right, s.right) - Math.max(r.left, s.left) > 1;
  const along = (r, s) => Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top) > 1;
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
    const [a, r] = boxes[i], [b, s] = boxes[j];
    if (a.contains(b) || b.contains(a)) continue;
    if (across(r, s) && along(r, s)) found.push(a.className + ' / ' + b.className);
  }
  return found;
}"""

# WCAG 2.2, 1.4.3: the contrast of text with its ground is at least 4.5
CONTRAST = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map((v, i) => c.startsWith('color(') && i < 3 ? 255 * v : Number(v));
  const linear = (v) => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (c) => c.slice(0, 3).map(linear).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = (node) => {
    for (let n = node; n; n = n.parentElement) {
      const c = parse(getComputedStyle(n).backgroundColor);
      if (c.length >= 3 && (c.length < 4 || c[3] > .9)) return c;
    }
    return [255, 255, 255];
  };
  const bad = [], names = '.vl-card *, .vl-table *, .vl-note, .vl-empty, label span, button, h1, h2';
  for (const node of document.querySelectorAll(names)) {
    const speaks = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!node.checkVisibility?.() || !speaks) continue;
    const a = light(parse(getComputedStyle(node).color)), b = light(ground(node));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) bad.push(`${node.tagName}.${node.className} ${ratio.toFixed(2)} ${node.textContent.slice(0, 30)}`);
  }
  return bad;
}"""
