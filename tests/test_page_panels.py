"""Pieces of the page in a browser: terms that explain themselves, repeated comparisons, the way to a published pair."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import compare, done, idle, said, settled, text, upload, visits
from page_world import serving
from ui_fakes import png

from vlcompare.evaluate.scoring import METRICS
from vlcompare.render.terms import TERMS, known_term, term
from vlcompare.tasks.prompts import SPECS

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    with serving(tmp_path_factory.mktemp("panels")) as app:
        yield app


SHOWN = "() => { const b = document.getElementById('vl-bubble'); return b && !b.hidden ? b.textContent : ''; }"

# terms whose explanation is cut off at an edge of the window, or does not belong to them for a screen reader
CLIPPED = """() => {
  const bad = [];
  for (const term of document.querySelectorAll('.vl-term')) {
    if (!term.checkVisibility()) continue;
    term.scrollIntoView({ block: 'center' });
    term.focus();
    const bubble = document.getElementById('vl-bubble');
    const r = bubble.getBoundingClientRect();
    const wide = document.documentElement.clientWidth;
    const inside = r.left >= 0 && r.top >= 0 && r.right <= wide && r.bottom <= innerHeight;
    const named = term.getAttribute('aria-describedby') === 'vl-bubble' && bubble.textContent === term.dataset.explain;
    if (bubble.hidden || !r.width || !inside || !named) bad.push([term.textContent, r.left, r.top, r.right, r.bottom]);
  }
  return bad;
}"""


def test_every_term_is_one_sentence() -> None:
    for name, sentence in TERMS.items():
        assert sentence[0].isupper() or sentence[0].isdigit(), name
        assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 240, name
    assert 'type="button"' in term("iou", "IoU") and "Intersection" in term("iou")
    assert known_term("nonsense") == "nonsense"
    metrics = {name.rpartition(".")[2] if name.partition(".")[0] in SPECS else name for name in METRICS}
    assert metrics - set(TERMS) == set()


def test_terms_are_explained_where_they_stand(visit: Any) -> None:
    page = visit(width=1440)
    compare(page)
    page.locator("#vl-exact > button").click()
    page.locator("#vl-figures .vl-term").first.wait_for(state="visible")
    assert page.locator(".vl-term").count() > 10
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        settled(page)
        page.keyboard.press("Tab")  # the keyboard is in use: what takes the focus shows it
        assert page.evaluate(CLIPPED) == [], width
        page.keyboard.press("Escape")
        assert page.evaluate(SHOWN) == ""
    page.set_viewport_size({"width": 1440, "height": 900})
    settled(page)
    explained_by_mouse(page)


def explained_by_mouse(page: Any) -> None:
    """A term is explained while it is pointed at, and after a press until Escape."""
    first = page.locator("#vl-charts .vl-term", has_text="first token")
    first.hover()
    page.wait_for_function(f"({SHOWN})() !== ''")
    assert page.evaluate(SHOWN) == TERMS["first token"]
    page.mouse.move(5, 5)
    page.wait_for_function(f"({SHOWN})() === ''")
    first.click()
    page.mouse.move(5, 5)
    page.wait_for_timeout(300)  # longer than a bubble that is only pointed at stays
    assert page.evaluate(SHOWN) == TERMS["first token"]
    page.keyboard.press("Escape")
    assert page.evaluate(SHOWN) == ""


def test_a_term_is_explained_by_a_tap(app: SimpleNamespace, browser: Any) -> None:
    with visits(browser, app.address) as open_page:
        page = open_page(width=390, height=844, touch=True)
        compare(page)
        settled(page)
        page.locator("#vl-charts .vl-term", has_text="first token").tap()
        page.wait_for_function(f"({SHOWN})() !== ''")
        page.locator("h1").tap()
        page.wait_for_function(f"({SHOWN})() === ''")


# side -> the token that is marked as chosen, counted from 1, and whose details are shown; None without one
OPEN = """() => Object.fromEntries(['left', 'right'].map((side) => {
  const panel = document.getElementById(`vl-${side}-tokens`);
  const chosen = [...panel.querySelectorAll('.vl-chosen')].map((one) => Number(one.dataset.token) + 1);
  const said = panel.querySelector('.vl-inspect div')?.textContent.match(/token (\\d+)/)?.[1];
  return [side, chosen.length === 1 && String(chosen[0]) === said ? chosen[0] : chosen.length || said ? 'mixed' : null];
}))"""


def opened(page: Any, left: int | None, right: int | None) -> None:
    """Wait until these tokens are open."""
    wanted = {"left": left, "right": right}
    page.wait_for_function(f"(wanted) => JSON.stringify(({OPEN})()) === JSON.stringify(wanted)", arg=wanted)


def test_the_least_probable_token_is_open_until_another_is_chosen(
    app: SimpleNamespace, visit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(app.fake, "sure", (0.9, 0.8, 0.7, 0.3, 0.6))
    page = visit()
    with app.fake.word_by_word() as next_word:
        page.locator("#vl-run").click()
        for _ in range(7):  # of ten: the least probable one is among them
            next_word()
        page.wait_for_function("document.querySelector('#vl-left-card .vl-answer').textContent.includes('0.55')")
        assert page.evaluate(OPEN) == {"left": None, "right": None}
    done(page)
    opened(page, 4, 4)
    assert page.evaluate("document.activeElement.closest('.vl-token-section')") is None
    assert "30.0 %" in text(page, "#vl-left-tokens .vl-inspect")

    page.locator("#vl-left-tokens .vl-token").nth(1).click()
    opened(page, 2, 4)
    compare(page)
    opened(page, 4, 4)  # another run
    page.locator(".vl-history-item").nth(1).click()
    opened(page, 2, 4)
    page.locator("#vl-swap").click()
    opened(page, 4, 2)  # the choice goes with its answer
    page.locator("#vl-repeat").click()
    said(page, "#vl-repeats", "5 rounds")
    idle(page)
    opened(page, 4, 2)

    with page.expect_download() as waiting:
        page.locator("#vl-save").click()
    waiting.value.save_as(tmp_path / "run.json")
    fresh = visit()
    load = fresh.locator("#vl-load input[type=file], input[type=file][accept*='json']").first
    load.set_input_files(str(tmp_path / "run.json"))
    said(fresh, "#vl-message", "as it was saved")
    opened(fresh, 4, 4)
    monkeypatch.setattr(app.fake, "sure", (1.0,))  # as where no probabilities were stored
    compare(fresh)
    opened(fresh, None, None)


def test_tokens_are_walked_by_keys_and_keep_their_room(
    app: SimpleNamespace, visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "-" * 64  # as of a table's rule
    monkeypatch.setattr(app.fake, "words", {"grounding": ["a", line, "b", "c", "d"]})
    monkeypatch.setattr(app.fake, "sure", (1.0, 0.3, 1.0, 1.0, 1.0))
    for width in (1280, 390):
        page = visit(width=width)
        compare(page)
        opened(page, 2, 2)
        wide = """() => [...document.querySelectorAll('.vl-token-panel')].every((panel) =>
          [...panel.querySelectorAll('.vl-token, .vl-inspect *')].every((one) =>
            one.getBoundingClientRect().right <= panel.getBoundingClientRect().right + 1))"""
        assert page.evaluate(wide)
    token = page.locator("#vl-left-tokens .vl-token").nth(1)
    token.focus()
    for key, index in (("End", 5), ("Home", 1), ("ArrowRight", 2)):
        page.keyboard.press(key)
        opened(page, index, 2)
    token = page.locator("#vl-left-tokens .vl-token").nth(0)
    token.click()  # of two that are sure
    height = "[...document.querySelectorAll('#vl-left-tokens li')].map((one) => one.offsetHeight)"
    assert text(page, "#vl-left-tokens li").endswith("100.0 %") and len(set(page.evaluate(height))) == 1


def test_the_run_that_is_shown_is_in_sight_in_its_list(visit: Any) -> None:
    page = visit(width=1280)
    for _ in range(3):
        compare(page)
    page.evaluate("document.querySelector('.vl-history').scrollLeft = 1000")
    assert page.evaluate("document.querySelector('.vl-history').scrollLeft") > 0
    compare(page)
    page.wait_for_function("document.querySelector('.vl-history').scrollLeft === 0")
    page.locator(".vl-history-item").nth(3).click()
    page.wait_for_selector(".vl-history-item:nth-child(4)[aria-pressed='true']")
    page.wait_for_function("""() => {
      const list = document.querySelector('.vl-history').getBoundingClientRect();
      const shown = document.querySelector(".vl-history-item[aria-pressed='true']").getBoundingClientRect();
      return shown.left >= list.left && shown.right <= list.right;
    }""")


def test_a_comparison_is_repeated_five_times(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    assert not page.locator("#vl-repeat").is_visible()  # recorded answers: nothing was measured here
    compare(page)
    said(page, "#vl-repeats", "One run")
    asked = len(app.fake.asked)
    page.locator("#vl-repeat").click()
    said(page, "#vl-repeats", "5 rounds")
    idle(page)
    orders = [list(sides) for _, _, sides in app.fake.asked[asked:]]
    assert orders == [["left", "right"], ["right", "left"]] * 2 + [["left", "right"]]
    assert "7.0 ms" in text(page, "#vl-repeats") and "No clear difference" in text(page, "#vl-repeats")
    assert page.locator("#vl-repeats .vl-range-dot").count() == 2 * 2 * 5
    assert "[0.10" in text(page, "#vl-left-card .vl-answer")  # what was answered stays
    page.locator("#vl-swap").click()
    page.wait_for_function("document.querySelector('#vl-repeats .vl-range-name').innerText.includes('Mamba')")
    compare(page)
    said(page, "#vl-repeats", "One run")  # another run, which was not repeated
    page.locator(".vl-history-item").nth(1).click()
    said(page, "#vl-repeats", "5 rounds")


def test_stop_ends_the_rounds_and_keeps_those_that_are_complete(app: SimpleNamespace, visit: Any) -> None:
    page = visit()
    compare(page)
    words = 10
    with app.fake.word_by_word() as next_word:
        page.locator("#vl-repeat").click()
        for _ in range(2 * 2 * words + 3):
            next_word()
        said(page, "#vl-repeats", "Round 3 of 5")
        page.locator("#vl-stop").click()
        said(page, "#vl-repeats", "Stopped after 2 rounds of 5")
    idle(page)
    assert page.locator("#vl-repeats .vl-range-dot").count() == 2 * 2 * 2
    assert "Nothing is running" not in text(page, ".vl-results")


def test_a_picture_of_ones_own_offers_the_published_pair(
    visit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from vlcompare.runtime.loading import cost

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(cost, "available_bytes", lambda device: 64 * 10**9)
    monkeypatch.setattr(cost, "free_disk", lambda: 64 * 10**9)
    page = visit()
    assert not page.locator("#vl-published").is_visible()
    upload(page, png((10, 120, 60), (320, 200)))
    page.locator("#vl-published").wait_for(state="visible")
    said(page, "#vl-published-cost", r"4\.8 GB to fetch once, about \d+\.\d GB of memory, about \d+ (s|min) an answer")
    page.locator("#vl-published").click()
    said(page, "#vl-left-settings", "Pythia-VL-1B")
    said(page, "#vl-right-settings", "Mamba-VL-790M")
    page.locator("#vl-published").wait_for(state="hidden")
    page.locator("#vl-left-settings > button").click()
    said(page, "#vl-left-size", r"2\.6 GB to fetch, about \d+\.\d GB of memory, fits here")
    page.locator("#vl-left-checkpoint input").click()
    option = page.locator("#vl-left-checkpoint [role=option]", has_text="Mamba-VL-2.8B").first
    assert "6.2 GB to fetch" in option.inner_text()


def test_a_pair_that_does_not_fit_says_why(visit: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from vlcompare.runtime.loading import cost

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(cost, "available_bytes", lambda device: 10**9)
    page = visit()
    upload(page, png((10, 120, 60), (320, 200)))
    said(page, "#vl-published-cost", r"does not fit here: they need about \d+\.\d GB of memory, and 1\.0 GB are free")
    assert not page.locator("#vl-published").is_visible()
