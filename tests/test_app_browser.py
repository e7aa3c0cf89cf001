"""The real page in headless Chromium, with a fake comparison behind it: what a visitor does, and what it looks like."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import choose_task, compare, done, pick, said, settled, stop, text, upload
from ui_fakes import WORDS, FakeCompare, png, until, write_examples

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The page on a free port, with examples, fakes and a data folder of its own."""
    from vlcompare.runtime.image import open_image
    from vlcompare.ui import examples
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    folder = tmp_path_factory.mktemp("app")
    before, examples.FOLDER = examples.FOLDER, write_examples(folder / "examples")
    settings = AppSettings(data=folder / "data")
    fake = FakeCompare()
    page = build_page(settings, Handlers(settings, fake, None, open_image))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    yield SimpleNamespace(address=address, fake=fake, settings=settings, folder=folder)
    page.close()
    examples.FOLDER = before


def test_a_comparison_streams_and_shows_boxes_figures_and_truth(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    words = WORDS["grounding"]
    with app.fake.word_by_word() as next_word:
        page.locator("#vl-run").click()
        for count in range(1, len(words)):  # it streams: the answer grows while it is not done
            next_word()
            streams(page, "left", words[:count])
    done(page)
    assert "[0.10,0.20,0.55,0.70]" in text(page, "#vl-left-card .vl-answer").replace(" ", "")
    assert "Transformer" in text(page, "#vl-left-card") and "State-space" in text(page, "#vl-right-card")
    assert page.locator("#vl-left-picture .vl-answer-box").count() == 1
    assert page.locator("#vl-together .vl-truth").count() == 1
    assert text(page, "#vl-left-card .vl-verdict") == text(page, "#vl-right-card .vl-verdict") == "✓ IoU 0.89"
    assert page.locator("#vl-charts svg polyline").count() >= 3  # two latencies, and the formulas of memory
    page.get_by_role("button", name="Exact figures").click()
    said(page, "#vl-figures", "7.0 ms")
    page.locator("#vl-left-tokens .vl-token").nth(1).click()
    assert "id 1" in text(page, "#vl-left-tokens .vl-inspect") and "20.0 %" in text(page, "#vl-left-tokens .vl-inspect")
    assert page.locator("#vl-left-picture .vl-alt.vl-on").count() == 0  # 0.80 > x1: no box, so nothing is drawn
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert "token 4" in text(page, "#vl-left-tokens .vl-inspect")


def streams(page: Any, side: str, words: list[str]) -> None:
    """Wait until the side's answer has come so far and is not done."""
    page.wait_for_function(
        "([side, said]) => { const answer = document.querySelector(`#vl-${side}-card .vl-answer`);"
        " return answer.querySelector('.vl-caret') && answer.textContent === said; }",
        arg=[side, "".join(words)],
    )


def test_a_phrase_and_its_box_light_up_together(visit: Any) -> None:
    page = visit("?example=caption")
    compare(page)
    assert "a red square" in text(page, "#vl-left-card .vl-answer")
    phrase = page.locator("#vl-left-card .vl-phrase").first
    box = page.locator("#vl-left-picture .vl-answer-box").first
    assert phrase.get_attribute("data-colour") == box.get_attribute("data-colour")
    settled(page)  # else what is pointed at may move away
    phrase.hover()
    page.wait_for_selector("#vl-left-picture .vl-answer-box.vl-lit[data-box='0']")


FIELDS = {  # task -> what its fields are, and some that are none of its
    "Caption": ([], ["#vl-text", "#vl-choices", "#vl-box-text"]),
    "Describe a region": (["#vl-box-text"], ["#vl-text"]),
    "Multiple choice": (["#vl-text", "#vl-choices", "#vl-ocr"], ["#vl-box-text"]),
    "Chat": (["#vl-text"], ["#vl-choices"]),
}


def test_each_task_shows_its_own_fields(visit: Any) -> None:
    page = visit()
    for title, (shown, hidden) in FIELDS.items():
        choose_task(page, title)
        for selector in shown:
            page.locator(selector).wait_for(state="visible")
        for selector in hidden:
            page.locator(selector).wait_for(state="hidden")
        assert [page.locator(selector).is_visible() for selector in (*shown, *hidden)] == (
            [True] * len(shown) + [False] * len(hidden)
        )


def test_words_that_the_tiny_pair_never_read_are_named(visit: Any) -> None:
    page = visit("?example=find")
    page.locator("#vl-text textarea").fill("the red giraffe")
    said(page, "#vl-unknown-words", "never read “giraffe”")
    page.locator("#vl-text textarea").fill("the red umbrella")
    page.locator("#vl-unknown-words").wait_for(state="hidden")
    assert page.locator("#vl-notice").is_hidden()  # which is about the picture: an example's here


def test_stop_in_the_middle_and_the_next_run_works(app: SimpleNamespace, visit: Any) -> None:
    page = visit("?left=slow/one&task=chat&text=" + "+".join(["word"] * 300))
    upload(page, png())
    with app.fake.word_by_word() as next_word:
        page.locator("#vl-run").click()
        for _ in range(5):
            next_word()
        streams(page, "left", ["word "] * 5)
        stop(page)
    assert "Stopped" in text(page, "#vl-left-card")
    assert until(lambda: app.fake.running == 0)
    page.locator("#vl-text textarea").fill("short")
    page.locator("#vl-run").click()
    page.wait_for_function("document.querySelector('#vl-right-card .vl-answer').innerText.includes('short said')")
    done(page)
    assert "Finished" in text(page, "#vl-right-card")


def test_swap_and_a_failure_on_one_side(visit: Any) -> None:
    page = visit("?left=broken/one&right=tiny-mamba-vl")
    page.get_by_role("button", name="Swap sides").click()
    for side, name in (("right", "broken"), ("left", "amba")):
        said(page, f"#vl-{side}-settings", name)
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
    pick(page, "word")
    compare(page)
    page.locator(".vl-history-item").nth(1).click()
    page.wait_for_function("document.querySelector('#vl-left-card').innerText.includes('0.10')")
    page.wait_for_function("document.querySelector('#vl-text textarea').value == 'the large red square'")
    fresh = visit()
    fresh.locator("#vl-load input[type=file], input[type=file][accept*='json']").first.set_input_files(str(file))
    fresh.wait_for_function("document.querySelector('#vl-message').innerText.includes('as it was saved')")
    said(fresh, "#vl-left-card .vl-answer", r"\[0\.10")
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
    page.locator("#vl-save").click()
    refusal = page.get_by_text("The file names the models: vote first.")
    refusal.first.wait_for()
    page.locator("#vl-comparator").click()
    refusal.nth(1).wait_for()
    page.locator("#vl-vote-left").click()
    page.wait_for_function("document.querySelector('#vl-vote-message').innerText.includes('left; it is not stored')")
    page.wait_for_function("!document.body.innerText.includes('Model A')")  # any vote tells the names
    assert not (app.settings.data / "votes.sqlite").exists()
    page.locator("#vl-consent input").check()
    page.locator("#vl-vote-left").click()
    page.wait_for_function("document.querySelector('#vl-vote-message').innerText.includes('left; it is stored')")
    with closing(sqlite3.connect(app.settings.data / "votes.sqlite")) as votes:  # the vote that was cast blind
        assert votes.execute("SELECT choice, blind FROM votes").fetchall() == [("left", "1")]
    page.locator("#vl-vote-right").click()
    page.wait_for_function(
        "document.querySelector('#vl-vote-message').innerText.includes('left; it is stored. It was cast blind')"
    )


def test_a_refusal_of_an_event_without_a_queue_is_shown(visit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlcompare.ui.compare import files

    page = visit()
    compare(page)
    monkeypatch.setattr(files, "free_space", lambda folder: 0)
    page.locator(".vl-history-item").first.click()
    refusal = page.locator(".vl-refusal[role=alert]")
    refusal.wait_for()
    assert "disk is too full" in refusal.inner_text()
    refusal.get_by_role("button", name="Close").click()
    assert refusal.count() == 0
    page.route("**/run/predict*", lambda route: route.fulfill(status=429, content_type="text/plain", body="Too often."))
    page.evaluate("fetch('/gradio_api/run/predict', { method: 'POST' })")
    page.get_by_text("Too often.").wait_for()
    page.unroute("**/run/predict*")


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_nothing_scrolls_sideways_or_overlaps(visit: Any, scheme: str) -> None:
    page = visit("?__theme=dark" if scheme == "dark" else "?", scheme=scheme)
    compare(page)
    for width in (1440, 1024, 390):
        page.set_viewport_size({"width": width, "height": 900})
        settled(page)
        assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
        assert page.evaluate(CUT_OFF) == [], width
        assert page.evaluate(OVERLAPS) == [], width
        assert page.evaluate(CONTRAST) == [], width


def test_nothing_jumps_while_streaming(app: SimpleNamespace, visit: Any) -> None:
    """Every frame of a slow answer: from its first to its last token what is below and beside it stays where it is."""
    page = visit("?left=slow/one&right=slow/two&example=find")
    settled(page)
    words = WORDS["grounding"]
    page.evaluate(WATCH)
    with app.fake.word_by_word() as next_word:
        page.locator("#vl-run").click()
        for side in ("left", "right"):
            for count in range(1, len(words)):
                next_word()
                streams(page, side, words[:count])
                page.evaluate(TWO_FRAMES)  # each word is painted, and looked at
            next_word()
        done(page)
    streaming = [frame for frame in page.evaluate("window.frames_seen") if frame["streaming"]]
    seen = {side: {frame["said"] for frame in streaming if frame["side"] == side} for side in ("left", "right")}
    every = {"".join(words[:count]) for count in range(1, len(words))}
    assert seen["left"] >= every and seen["right"] >= every, seen
    for name in streaming[0]["tops"]:
        tops = [frame["tops"][name] for frame in streaming]
        assert max(tops) - min(tops) <= 2, (name, sorted(set(tops)))


TWO_FRAMES = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"

# what is in the page at each animation frame: which side streams, what it has said, and where everything begins
WATCH = """() => {
  window.frames_seen = [];
  const names = ['#vl-run', '#vl-left-card', '#vl-right-card', '#vl-left-picture', '#vl-right-picture',
    '#vl-left-tokens', '#vl-together', '#vl-charts', '#vl-history'];
  const look = () => {
    const caret = document.querySelector('.vl-caret');
    const tops = Object.fromEntries(names.map((name) =>
      [name, Math.round(document.querySelector(name).getBoundingClientRect().top + scrollY)]));
    const said = caret?.parentElement.textContent;
    window.frames_seen.push({streaming: Boolean(caret), side: caret?.closest('[data-side]').dataset.side, said, tops});
    requestAnimationFrame(look);
  };
  look();
}"""

# tables of which a part is out of sight
CUT_OFF = """() => [...document.querySelectorAll('.vl-scroll')]
  .filter((node) => node.scrollWidth > node.clientWidth + 1).map((node) => node.innerText.slice(0, 60))"""

OVERLAPS = """() => {
  const names = '.vl-panel, .vl-side, .vl-more, .vl-votes button, .vl-live > div';
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
