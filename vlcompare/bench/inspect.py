"""How long the inspect page takes over a large run: fifty thousand samples, the real server, a real browser.

Measured on the wall clock as a user sees it: from opening the address to the first rows of the table, and from a click
to the page that it makes. The server is a separate process; its memory at the end is compared with that of
another one whose page shows ten samples. The samples are made up: their pictures are plain, their answers by chance.
"""

from __future__ import annotations

import json
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlcompare.bench.server_process import PATIENCE_S, listening, server
from vlcompare.errors import RequestError
from vlcompare.paths import EMBEDDED
from vlcompare.types import SIDES

OPEN_S, ACTION_S, GROWN_MB = 5.0, 0.5, 500.0  # the goals
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

# what a user does: (name, what is done in the page, what the page then says and where)
_PICK = "document.querySelector(`{}`).click()"
_TYPE = (
    "(() => {{ const f = document.querySelector('#vi-text textarea, #vi-text input');"
    " f.value = {}; f.dispatchEvent(new Event('input', {{bubbles: true}})); }})()"
)
ACTIONS: tuple[tuple[str, str, str, str], ...] = (
    ("next page", _PICK.format("#vi-table [aria-label='Next page']"), "#vi-table .vi-where", "^51 to"),
    ("last page", _PICK.format("#vi-table [aria-label='Last page']"), "#vi-table .vi-where", "to {count} of"),
    ("sort by difference", _PICK.format("[data-pick='sort:difference']"), "#vi-table thead", "l . r ?[▼▲]"),
    ("sort by question", _PICK.format("[data-pick='sort:text']"), "#vi-table thead", "question ?[▼▲]"),
    ("quadrant", _PICK.format("[data-quadrant='only_left']"), "#vi-chips", "^[\\d,]+ of [\\d,]+ samples"),
    ("slice", _PICK.format("#vi-slices [data-pick^='slice:task']"), "#vi-chips", "Task: "),
    ("drop all filters", _PICK.format("#vi-chips [data-pick='drop:all']"), "#vi-chips", "^All "),
    ("search a text", _TYPE.format("'red cat'"), "#vi-chips", "red cat"),
    ("search another", _TYPE.format("'blue fish number 12'"), "#vi-chips", "blue fish"),
    ("search nothing", _TYPE.format("''"), "#vi-chips", "^All "),
    ("open a sample", _PICK.format("#vi-table .vi-open"), "#vi-picture", "1 of "),
    ("next sample", "document.querySelector('#vi-next').click()", "#vi-picture", "(^|\\n)2 of "),
)
_WATCH = """([act, selector, pattern]) => new Promise((done, fail) => {
  const shown = () => new RegExp(pattern, 's').test(document.querySelector(selector)?.innerText ?? '');
  const start = performance.now();
  const look = () => {
    if (shown()) requestAnimationFrame(() => done(performance.now() - start));
    else if (performance.now() - start > 60000) fail(new Error(`${selector} never showed ${pattern}`));
    else setTimeout(look, 4);
  };
  eval(act);
  look();
})"""


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """What to measure: a run of `count` samples, each action `repeats` times."""

    count: int = 50_000
    repeats: int = 3


@dataclass(frozen=True, slots=True)
class InspectReport:
    """Seconds on the wall clock, medians over the rounds; memory of the server in megabytes."""

    options: InspectOptions
    first_open_s: float
    open_s: float
    actions: dict[str, float]
    empty_mb: float
    grown_mb: float
    browser_heap_mb: float

    def to_json(self) -> dict[str, Any]:
        return {"schema_version": 1, **asdict(self)}

    @property
    def good(self) -> bool:
        """Whether every goal was met."""
        return self.first_open_s < OPEN_S and self.grown_mb < GROWN_MB and max(self.actions.values()) < ACTION_S


def run(options: InspectOptions, progress: Callable[[str], None] = lambda sentence: None) -> InspectReport:
    """Measure. Raises RequestError where there is no browser to measure with."""
    import psutil

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise RequestError("This is measured in a browser: `pip install playwright` first.") from error
    if chromium is None:
        raise RequestError("This is measured in a browser: install Chromium (on Debian: apt-get install chromium).")
    with tempfile.TemporaryDirectory(prefix="vlcompare-bench-") as made, sync_playwright() as playwright:
        progress(f"Writing a run of {options.count:,} samples.")
        folder = write_many(Path(made) / "many", options.count)
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        progress("The empty page: ten samples.")
        few, data = write_many(Path(made) / "few", 10), {"VLCOMPARE_DATA": str(Path(made) / "data")}
        with server(["inspect", str(few)], listening, data) as (address, process):
            page = browser.new_page()
            _open(page, address, 10)
            page.close()
            empty = psutil.Process(process.pid).memory_info().rss
        progress("All of them: opening the page, and using it.")
        with server(["inspect", str(folder)], listening, data) as (address, process):
            opened, rounds = [], []
            for _ in range(options.repeats):
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                opened.append(_open(page, address, options.count))
                rounds.append(_use(page, options.count))
                heap = page.evaluate("performance.memory ? performance.memory.usedJSHeapSize : 0")
                page.close()
            grown = psutil.Process(process.pid).memory_info().rss - empty
        browser.close()
    actions = {name: statistics.median(round_[name] for round_ in rounds) for name, *_ in ACTIONS}
    again = statistics.median(opened[1:] or opened)
    return InspectReport(options, opened[0], again, actions, empty / 1e6, grown / 1e6, heap / 1e6)


def _open(page: Any, address: str, count: int) -> float:
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_function(
        "document.querySelector('#vi-table .vi-rows') && /^All/.test(document.querySelector('#vi-chips').innerText)",
        timeout=1e3 * PATIENCE_S,
        polling=10,
    )
    seconds = time.perf_counter() - start
    assert f"{count:,}" in page.locator("#vi-chips").inner_text()
    return seconds


def _use(page: Any, count: int) -> dict[str, float]:
    """Seconds from each action to what it shows."""
    seconds = {}
    page.wait_for_timeout(1500)  # fonts, and what else a page loads once it is shown
    for name, act, selector, pattern in ACTIONS:
        seconds[name] = page.evaluate(_WATCH, [act, selector, pattern.replace("{count}", f"{count:,}")]) / 1e3
        page.wait_for_timeout(300)
    return seconds


def table(report: InspectReport) -> str:
    """The figures beside their goals."""
    lines = [
        f"{report.options.count:,} samples, medians of {report.options.repeats}",
        f"{'page open, the first time':<28} {report.first_open_s:6.2f} s   (goal {OPEN_S:g} s)",
        f"{'page open, again':<28} {report.open_s:6.2f} s",
        *(f"{name:<28} {seconds:6.2f} s   (goal {ACTION_S:g} s)" for name, seconds in report.actions.items()),
        f"{'server memory':<28} {report.grown_mb:6.0f} MB more than the {report.empty_mb:.0f} MB of the empty page "
        f"(goal {GROWN_MB:g} MB)",
        f"{'browser memory':<28} {report.browser_heap_mb:6.0f} MB of JavaScript heap",
    ]
    return "\n".join(lines)


# ---- the run ---------------------------------------------------------------------------------------------------------


def write_many(folder: Path, count: int, pictures: int = 40) -> Path:
    """A finished run of `count` rows about few pictures, written without any model."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    from PIL import Image

    for index in range(pictures):
        Image.new("RGB", (64, 64), (index * 6 % 255, 120, 200)).save(folder / "images" / f"p{index}.png")
    ids = ", ".join(["4118", *["-200"] * 64, "10494", "1", "2", "3"])
    with (folder / "samples.jsonl").open("w") as samples, (folder / "predictions.jsonl").open("w") as predictions:
        for row in _many(count, pictures):
            samples.write(json.dumps(row) + "\n")
            for side, checkpoint in zip(SIDES, EMBEDDED, strict=True):
                predictions.write(_many_answer(row, side, checkpoint, ids))
    sides = {side: {"checkpoint": name, "quantization": "none"} for side, name in zip(SIDES, EMBEDDED, strict=True)}
    record = {
        "schema_version": 1,
        "identity": {"data": {"from": "many.jsonl"}, "sides": sides},
        "samples": {"count": count, "sha256": "", "skipped": 0, "issues": []},
        "images_root": None,
        "sides": sides,
        "sessions": [],
        "complete": True,
    }
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def _many(count: int, pictures: int) -> Iterator[dict[str, Any]]:
    dice = random.Random(7)
    colors, kinds = ("red", "blue", "green", "orange"), ("cat", "car", "disc", "fish", "house")
    for index in range(count):
        x, y, side = dice.uniform(0, 0.6), dice.uniform(0, 0.6), dice.choice((0.08, 0.2, 0.38))
        what = f"the {dice.choice(colors)} {dice.choice(kinds)} number {index}"
        row: dict[str, Any] = {"id": f"r{index}", "image": f"images/p{index % pictures}.png", "source": "many"}
        tags = {"type": dice.choice(("attribute", "relation", "ordinal")), "distractors": dice.randrange(5)}
        row |= {"split": f"part{index % 3}", "tags": tags}
        if index % 3:
            box = [round(v, 4) for v in (x, y, x + side, y + side)]
            yield {**row, "task": "grounding", "text": what, "boxes": [box]}
        else:
            yield {**row, "task": "vqa", "text": f"What is {what}?", "references": [dice.choice(colors)]}


def _many_answer(row: dict[str, Any], side: str, checkpoint: str, ids: str) -> str:
    """One line of predictions.jsonl, about as long as a real one."""
    dice = random.Random(f"{side}{row['id']}")
    if row["task"] == "grounding":
        box = [min(1.0, max(0.0, v + dice.gauss(0, 0.06))) for v in row["boxes"][0]]
        text, boxes = "[" + ",".join(f"{v:.2f}" for v in box) + "].", [[round(v, 2) for v in box]]
    else:
        text, boxes = dice.choice(["red", "blue", "green", "orange"]), []
    tokens = [{"id": 100 + i, "text": piece, "logprob": -dice.random()} for i, piece in enumerate(pieces(text))]
    gaps = [2.5] * (len(tokens) - 1)
    return (
        f'{{"id": "{row["id"]}", "side": "{side}", "schema_version": 1, "text": "{text}", '
        f'"boxes": {json.dumps(boxes)}, '
        f'"phrases": [], "parse": "ok", "tokens": {json.dumps(tokens)}, "prompt": {{"turns": ["<image>", "x"], '
        f'"ids": [{ids}], "order": "image_first"}}, "stop_reason": "end", "error": null, "timings": {{"ttft_ms": 9.0, '
        f'"token_ms": {json.dumps(gaps)}, "total_ms": 40.0}}, "memory": {{}}, "checkpoint": "{checkpoint}"}}\n'
    )


def pieces(text: str) -> list[str]:
    """A made-up answer cut into words, numbers and marks, as a tokenizer might."""
    out: list[str] = []
    for char in text:
        if out and (char.isalnum() == out[-1][-1].isalnum()) and char not in " ,[]":
            out[-1] += char
        else:
            out.append(char)
    return out
