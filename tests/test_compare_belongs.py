"""What is shown belongs to what is set: in the real page, over each action, and over random ones (slow)."""

from __future__ import annotations

import json
import os
import random
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from app_world import (
    belongs,
    choose,
    compare,
    differs,
    done,
    idle,
    open_settings,
    pick,
    replied,
    said,
    text,
    upload,
    visits,
)
from compare_world import Telling, broken_rules, holds
from ui_fakes import png, write_examples

pytestmark = pytest.mark.browser
CHECKPOINTS = ("Embedded · Tiny Mamba-VL · State-space", "Embedded · Tiny Pythia-VL · Transformer")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    from vlcompare.runtime.image import open_image
    from vlcompare.ui import examples
    from vlcompare.ui.compare.handlers import Handlers
    from vlcompare.ui.page import build_page, launch
    from vlcompare.ui.settings import AppSettings

    folder = tmp_path_factory.mktemp("belongs")
    before, examples.FOLDER = examples.FOLDER, write_examples(folder / "examples")
    settings = AppSettings(data=folder / "data", concurrency=1)  # a new run waits for the place of the old one
    fake = Telling()
    page = build_page(settings, Handlers(settings, fake, None, open_image))
    _, address, _ = launch(page, settings, prevent_thread_lock=True)
    yield SimpleNamespace(address=address, fake=fake, folder=folder)
    page.close()
    examples.FOLDER = before


@pytest.fixture
def visit(app: SimpleNamespace, browser: Any) -> Iterator[Any]:
    app.fake.gap = 0.0
    with visits(browser, app.address) as open_page:
        yield open_page


def ask(page: Any, question: str) -> None:
    page.locator("#vl-text textarea").fill(question)


def answer(page: Any, side: str) -> str:
    return text(page, f"#vl-{side}-card .vl-answer")


def test_swap_question_picture_and_models_move_answers_along_or_grey_them(visit: Any) -> None:
    page = visit("?example=word")
    compare(page)
    belongs(page)
    left, right = answer(page, "left"), answer(page, "right")
    page.locator("#vl-swap").click()
    said(page, "#vl-left-settings", "Tiny Mamba-VL")
    holds(page)
    assert (answer(page, "left"), answer(page, "right")) == (right, left)
    belongs(page)

    ask(page, "What else?")  # an edit of the question, and back by hand
    differs(page, "What color is the disc")
    holds(page)
    ask(page, "What color is the disc?")
    belongs(page)

    upload(page, png((1, 2, 3)))
    differs(page, "another picture")
    page.locator(".vl-way-back").click()
    belongs(page)
    holds(page)
    page.wait_for_selector(".vl-example[data-pick='word'][aria-pressed='true']")

    open_settings(page, "left")
    choose(page, "#vl-left-checkpoint", "Embedded · Tiny Pythia-VL · Transformer")
    differs(page, "Tiny Mamba-VL and Tiny Pythia-VL")
    holds(page)
    page.locator(".vl-way-back").click()
    belongs(page)
    said(page, "#vl-left-settings", "Tiny Mamba-VL")

    page.locator("#vl-picture button[aria-label='Clear'], #vl-picture button[aria-label='Remove Image']").first.click()
    differs(page, "another picture")
    holds(page)


# before the page's own scripts: that the stream of results ends is read a while after the next event was asked for
LATE_END = """(() => {
  const real = window.fetch, held = window.vlHeld = [];
  window.fetch = async (...given) => {
    const address = given[0]?.url ?? given[0];
    if (/queue.join/.test(address)) setTimeout((read) => read.forEach((then) => then()), 200, held.splice(0));
    const reply = await real(...given);
    if (!/queue.data/.test(address)) return reply;
    const late = new TransformStream({ async transform(chunk, out) {
      const text = new TextDecoder().decode(chunk), end = text.indexOf('"close_stream"');
      if (end < 0) return out.enqueue(chunk);
      const rest = text.length - text.lastIndexOf('data:', end);
      out.enqueue(chunk.slice(0, chunk.length - rest));
      await new Promise((then) => held.push(then));
      out.enqueue(chunk.slice(chunk.length - rest));
    } });
    return new Response(reply.body.pipeThrough(late), { status: reply.status, headers: reply.headers });
  };
})()"""


def test_compare_during_a_run_begins_anew_and_the_button_is_stop_meanwhile(
    app: SimpleNamespace, visit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlcompare.ui.server.result_streams.READ_SECONDS", 600.0)
    page = visit("?example=word", script=LATE_END)
    page.wait_for_function("window.vlHeld.length")  # the end of what the page opens with
    app.fake.gap = 600  # it goes on until the next one begins
    page.locator("#vl-run").click()
    page.wait_for_selector("#vl-state i[data-running]", state="attached")
    assert page.locator("#vl-stop").is_visible() and not page.locator("#vl-run").is_visible()
    ask(page, "And now?")
    differs(page)
    assert page.locator("#vl-stop").is_visible() and page.locator("#vl-run").is_visible()
    app.fake.gap = 0.0
    page.locator("#vl-run").click()
    said(page, "#vl-asked", "And now")
    done(page)
    holds(page)
    belongs(page)
    assert "|And now?|" in answer(page, "left") and page.locator("#vl-run").is_visible()
    assert not page.locator("#vl-stop").is_visible()
    page.wait_for_function("window.vlHeld.length")
    compare(page)


def test_blind_names_nothing_until_any_vote_and_history_marks_its_example(visit: Any) -> None:
    page = visit("?example=word")
    compare(page)
    page.locator("#vl-blind input").check()
    compare(page)
    holds(page)
    assert "Model A" in text(page, "#vl-left-card") and not page.locator("#vl-left-settings").is_visible()
    page.locator("#vl-vote-tie").click()
    page.wait_for_selector("#vl-left-settings", state="visible")
    holds(page)
    belongs(page)  # the settings went along with the names
    pick(page, "caption")
    differs(page, "What color is the disc")
    page.locator(".vl-history-item").nth(1).click()
    page.wait_for_selector(".vl-example[data-pick='word'][aria-pressed='true']")
    belongs(page)
    holds(page)
    assert page.locator(".vl-example[aria-pressed='true']").count() == 1
    page.wait_for_function("scrollY === 0")


def test_what_an_older_event_wrote_is_not_left_over_a_newer_one(visit: Any) -> None:
    page = visit("?example=word")
    changes = "Number(document.querySelector('#vl-state i').dataset.changes)"
    held: list[Any] = []

    def hold_the_first(route: Any) -> None:
        # the event is in the queue, and the page keeps its messages
        route.continue_() if held else held.append((route, route.fetch()))

    page.route("**/queue/join?*", hold_the_first)
    page.locator("#vl-run").click()
    while not held:
        page.wait_for_timeout(10)
    ask(page, "And now?")
    page.evaluate("document.querySelector('#vl-run').click()")
    said(page, "#vl-left-card .vl-answer", "And now")
    done(page)
    before = page.evaluate(changes)
    run = page.locator("#vl-state i").get_attribute("data-run")
    route, reply = held[0]
    route.fulfill(response=reply)  # the page is given the older event's messages
    page.wait_for_function(f"(before) => {changes} > before", arg=before)
    replied(page)
    assert page.locator("#vl-state i").get_attribute("data-run") == run
    assert "|And now?|" in answer(page, "left") and "|And now?|" in answer(page, "right")
    belongs(page)
    holds(page)


def test_a_reply_that_comes_late_does_not_stand_over_a_newer_one(app: SimpleNamespace, visit: Any) -> None:
    page = visit("?example=word")
    compare(page)
    with urllib.request.urlopen(f"{app.address}config", timeout=60) as reply:
        (check,) = [one["id"] for one in json.load(reply)["dependencies"] if one["api_name"] == "check"]
    held: list[Any] = []

    def hold_the_first(route: Any) -> None:
        first = not held and route.request.post_data_json.get("fn_index") == check
        held.append(route) if first else route.continue_()

    page.route("**/gradio_api/run/**", hold_the_first)
    page.locator("#vl-left-settings > button").click()  # its fields are there at once, and each of them is a change
    page.locator("#vl-left-checkpoint").wait_for(state="visible")
    page.wait_for_function("window.vlCalls === 1")
    page.locator("#vl-left-checkpoint input").click()
    page.locator("#vl-left-checkpoint").get_by_role("option", name="Embedded · Tiny Mamba-VL · State-space").click()
    said(page, "#vl-left-size", "^$")
    page.wait_for_function("window.vlCalls === 1")
    held[0].continue_()
    replied(page)
    differs(page, "Tiny Pythia-VL and Tiny Mamba-VL")
    said(page, "#vl-left-settings", "Tiny Mamba-VL")
    holds(page)


def test_an_error_stands_at_its_field_which_has_the_focus(visit: Any) -> None:
    page = visit("?example=find")
    ask(page, "")
    page.locator("#vl-run").click()
    page.wait_for_selector("#vl-text .vl-field-error")
    page.wait_for_function("document.activeElement.closest('#vl-text')")
    assert "description" in text(page, "#vl-text .vl-field-error") and page.locator("#vl-run").is_visible()
    ask(page, "a disc")
    open_settings(page, "right")
    page.locator("#vl-right-max_new_tokens input").fill("99999")
    page.locator("#vl-right-max_new_tokens input").press("Tab")
    page.locator("#vl-right-settings > button").click()  # closed again: the error opens it
    page.locator("#vl-right-checkpoint").wait_for(state="hidden")
    page.locator("#vl-run").click()
    page.wait_for_selector("#vl-right-max_new_tokens .vl-field-error")
    page.wait_for_function("document.activeElement.closest('#vl-right-max_new_tokens')")
    assert page.locator(".vl-field-error").count() == 1
    page.locator("#vl-right-max_new_tokens input").fill("")
    page.locator("#vl-right-max_new_tokens input").press("Tab")
    compare(page)
    assert page.locator(".vl-field-error").count() == 0


def test_examples_are_one_tab_stop_and_all_three_need_no_description(visit: Any) -> None:
    page = visit("?example=caption")
    assert page.locator(".vl-example[tabindex='0']").count() == 1
    page.locator(".vl-example[data-pick='caption']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector(".vl-example[data-pick='word'][aria-pressed='true']")
    pick(page, "caption")
    page.get_by_role("button", name="Caption, question and box in one go").click()
    page.locator("#vl-three").click()
    page.wait_for_function("document.querySelectorAll('.vl-history-item').length == 3")
    done(page)
    holds(page)
    belongs(page)
    assert page.locator(".vl-three tbody tr").count() == 3


# ---- at random


class Monkey:
    """Clicks at random, as a person could; each action waits for what it needs and no longer."""

    def __init__(self, page: Any, app: SimpleNamespace, seed: int) -> None:
        self.page, self.app, self.random = page, app, random.Random(seed)
        self.saved: Path | None = None

    def actions(self) -> list[str]:
        return [name.removeprefix("do_") for name in dir(self) if name.startswith("do_")]

    def choose(self) -> str:
        return self.random.choice(self.actions())

    def do(self, name: str) -> None:
        getattr(self, f"do_{name}")()

    def _click(self, selector: str) -> bool:
        from playwright.sync_api import TimeoutError

        found = self.page.locator(selector)
        if not found.count() or not found.first.is_visible() or not found.first.is_enabled():
            return False
        with suppress(TimeoutError):  # it went away meanwhile
            found.first.click(timeout=5_000)
            return True
        return False

    def do_compare(self) -> None:
        self.app.fake.gap = 0.0
        if self._click("#vl-run"):
            self.page.wait_for_timeout(200)
            idle(self.page)

    def do_compare_and_go_on(self) -> None:
        self.app.fake.gap = self.random.choice((0.02, 0.1))
        self._click("#vl-run")

    def do_stop(self) -> None:
        self._click("#vl-stop")

    def do_swap(self) -> None:
        self._click("#vl-swap")

    def do_edit(self) -> None:
        if self.page.locator("#vl-text textarea").is_visible():
            ask(self.page, self.random.choice(("the large red square", "What color is the disc?", "one", "two")))

    def do_pick(self) -> None:
        self._click(f".vl-example[data-pick='{self.random.choice(('find', 'caption', 'word', 'region'))}']")

    def do_upload(self) -> None:
        upload(self.page, png((self.random.randrange(3), 9, 9)))

    def do_clear(self) -> None:
        self._click("#vl-picture button[aria-label='Clear'], #vl-picture button[aria-label='Remove Image']")

    def do_model(self) -> None:
        if self.page.locator("#vl-left-settings").is_visible():
            side = self.random.choice(("left", "right"))
            open_settings(self.page, side)
            choose(self.page, f"#vl-{side}-checkpoint", self.random.choice(CHECKPOINTS))

    def do_blind(self) -> None:
        self._click("#vl-blind input")

    def do_vote(self) -> None:
        self._click(f"#vl-vote-{self.random.choice(('left', 'right', 'tie', 'both_bad'))}")

    def do_restore(self) -> None:
        count = self.page.locator(".vl-history-item").count()
        if count:
            self.page.locator(".vl-history-item").nth(self.random.randrange(count)).click()

    def do_way_back(self) -> None:
        self._click(".vl-way-back")

    def do_file(self) -> None:
        if self.saved:
            self.page.locator("#vl-load input[type=file], input[type=file][accept*='json']").first.set_input_files(
                str(self.saved)
            )
        elif self.page.locator("#vl-state i[data-run]:not([data-running])").count():
            with self.page.expect_download() as waiting:
                self.page.locator("#vl-save").click()
            self.saved = self.app.folder / "saved.json"
            waiting.value.save_as(self.saved)


@pytest.mark.slow
def test_whatever_is_clicked_what_is_shown_belongs_to_what_is_set(app: SimpleNamespace, visit: Any) -> None:
    """VLCOMPARE_MONKEY_SECONDS and VLCOMPARE_MONKEY_SEED set how long it goes on, and where it begins."""
    seconds = float(os.environ.get("VLCOMPARE_MONKEY_SECONDS", 180))
    seed = int(os.environ.get("VLCOMPARE_MONKEY_SEED", 1))
    page = visit()
    monkey, end, steps = Monkey(page, app, seed), time.monotonic() + seconds, []
    while time.monotonic() < end:
        steps.append(monkey.choose())
        try:
            monkey.do(steps[-1])
            holds(page)
        except Exception as error:
            raise AssertionError(f"seed {seed}, after {len(steps)} steps {steps[-12:]}: {error}") from error
    assert len(set(steps)) > 8 and broken_rules(page) == []
    print(f"{len(steps)} steps")
